"""Folders of saved pipelines: saving in place, shards, storage in eight bits, diffusers' own class."""

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel
from diffusers.utils.logging import enable_progress_bar, is_progress_bar_enabled

from daa_diffusers import DAARestorationPipeline, DAAUNet2DConditionModel, FastRestorationUNet, RestorationUNet
from daa_diffusers.errors import CheckpointError
from daa_diffusers.files import UnwritableError

# --- saving in place ---


def test_a_place_where_nothing_can_be_saved_is_named(tmp_path):
    (tmp_path / "file.txt").touch()
    pipeline = DAARestorationPipeline(RestorationUNet(width=4, depth=2))
    with pytest.raises(UnwritableError, match="file.txt' is not a folder"):
        pipeline.save_pretrained(tmp_path / "file.txt")
    with pytest.raises(UnwritableError, match="nothing can be written in '/proc'"):
        pipeline.save_pretrained("/proc/new")
    pipeline.save_pretrained(tmp_path / ("a" * 255))


def test_a_mounted_disk_is_a_folder_and_a_full_one_leaves_what_was_there(disk_of):
    disk = disk_of("1m")
    small, large = (DAARestorationPipeline(RestorationUNet(width=width, depth=2)) for width in (4, 64))
    small.save_pretrained(disk)
    before = {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()}
    for target in (disk, disk / "new"):
        with pytest.raises(UnwritableError, match=r"is full: '.*' needs about 1\.\d MB, .* are free"):
            large.save_pretrained(target)
    assert {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()} == before
    assert not (disk / "new").exists()


@pytest.fixture
def trained(tmp_path):
    """The folder of a pipeline with its noise predictor."""
    unet = DAAUNet2DConditionModel(block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=8)
    DAARestorationPipeline(RestorationUNet(width=4, depth=2), unet, DDPMScheduler()).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_saving_in_place_keeps_the_noise_predictor_that_was_not_loaded(trained, tmp_path):
    pipe = DAARestorationPipeline.from_pretrained(trained)
    with torch.no_grad():
        pipe.restorer.conv_out.bias.add_(1)
    pipe.save_pretrained(trained)
    again = DAARestorationPipeline.from_pretrained(trained, load_noise_predictor=True)
    assert again.unet is not None and isinstance(again.scheduler, DDPMScheduler)
    assert torch.equal(again.restorer.conv_out.bias, pipe.restorer.conv_out.bias)
    again.unet = None  # taken away on purpose
    again.save_pretrained(trained)
    with pytest.raises(CheckpointError, match="holds no noise predictor"):
        DAARestorationPipeline.from_pretrained(trained, load_noise_predictor=True)
    pipe.save_pretrained(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="holds no noise predictor"):
        DAARestorationPipeline.from_pretrained(tmp_path / "elsewhere", load_noise_predictor=True)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_and_a_single_file_replace_each_other(tmp_path, variant):
    for seed, size in enumerate(("10GB", "4KB", "10GB")):
        torch.manual_seed(seed)
        pipe = DAARestorationPipeline(RestorationUNet(width=8, depth=2))
        pipe.save_pretrained(tmp_path, max_shard_size=size, variant=variant)
        loaded = DAARestorationPipeline.from_pretrained(tmp_path, variant=variant)
        saved = pipe.restorer.state_dict()
        assert all(torch.equal(saved[name], tensor) for name, tensor in loaded.restorer.state_dict().items())


def test_a_restorer_stored_in_eight_bits_restores_in_float32():
    torch.manual_seed(0)
    pipeline = DAARestorationPipeline(RestorationUNet(width=8, depth=2))
    before = pipeline(torch.full((3, 33, 35), 0.4), output_type="pt").images
    pipeline.restorer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert pipeline.dtype == torch.float32
    after = pipeline(torch.full((3, 33, 35), 0.4), output_type="pt").images
    torch.testing.assert_close(after, before, atol=0.2, rtol=0)  # three bits of mantissa


def test_diffusers_own_class_loads_a_folder_or_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    pipeline = DAARestorationPipeline.from_pretrained("daa-denoise")
    pipeline.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(tmp_path / "saved")
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "saved", trust_remote_code=True)
    assert type(loaded) is DAARestorationPipeline and loaded.restorer.weights_record.training
    torch.testing.assert_close(dict(loaded.restorer.state_dict()), dict(pipeline.restorer.state_dict()))
    code = tmp_path / "saved/pipeline.py"
    code.write_text(code.read_text().replace("from daa_diffusers", "from daa_diffusers_that_is_absent"))
    with pytest.raises(ImportError, match="pip install daa-diffusers"):
        DiffusionPipeline.from_pretrained(tmp_path / "saved", trust_remote_code=True)


def test_loading_shows_no_progress_bar_and_leaves_the_setting(trained, capfd):
    enable_progress_bar()  # a command that ran in this process has turned it off
    DAARestorationPipeline.from_pretrained(trained, load_noise_predictor=True)
    assert "Loading pipeline components" not in capfd.readouterr().err
    assert is_progress_bar_enabled()


def test_from_pipe_takes_no_foreign_unet_and_shares_the_adapters(pipe):
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (4,)}
    other = UNet2DModel(sample_size=8, norm_num_groups=2, layers_per_block=1, **blocks)
    foreign = DDPMPipeline(other.eval(), DDPMScheduler())
    made = DAARestorationPipeline.from_pipe(foreign, restorer=pipe.restorer)
    assert made.unet is None and made.restorer is pipe.restorer
    adapters = pipe._adapters
    assert DAARestorationPipeline.from_pipe(pipe)._adapters is adapters


# --- arguments of from_pretrained and save_pretrained ---


@pytest.fixture
def alone(tmp_path):
    """The folder of a lone restorer."""
    RestorationUNet(width=4, depth=2).save_pretrained(tmp_path / "alone")
    return tmp_path / "alone"


@pytest.mark.parametrize("place", ["alone", "trained"])
def test_dtypes_are_taken_by_name_and_other_ones_refused(place, request):
    folder = request.getfixturevalue(place)
    for dtype, meant in (("float16", torch.float16), ("torch.bfloat16", torch.bfloat16), ("auto", torch.float32)):
        assert DAARestorationPipeline.from_pretrained(folder, dtype=dtype).dtype == meant
    assert DAARestorationPipeline.from_pretrained(folder, dtype={"restorer": "float16"}).dtype == torch.float16
    for wrong in ("half precision", "int8", torch.int8, 16):
        with pytest.raises(ValueError, match="`dtype` must be a floating point dtype"):
            DAARestorationPipeline.from_pretrained(folder, dtype=wrong)


@pytest.mark.parametrize("place", ["alone", "trained"])
def test_a_given_restorer_replaces_the_saved_one(place, request):
    own = RestorationUNet(width=4, depth=1)
    assert DAARestorationPipeline.from_pretrained(request.getfixturevalue(place), restorer=own).restorer is own


def test_arguments_without_effect_are_said(alone, tmp_path, caplog):
    pipeline = DAARestorationPipeline.from_pretrained(alone, device_map="cuda", revision="main")
    assert "unknown arguments `device_map` are ignored" in caplog.text and "`revision`" not in caplog.text
    pipeline.save_pretrained(tmp_path / "saved", license="mit")
    assert "without `push_to_hub`: unknown arguments `license`" in caplog.text


def test_casting_warns_of_nothing(trained, caplog):
    DAARestorationPipeline.from_pretrained(trained).to(torch.float16)
    assert "float32" not in caplog.text


def test_a_network_of_another_class_or_a_pipeline_is_not_loaded_as_new_weights(trained):
    for load, message in (
        (lambda: FastRestorationUNet.from_pretrained(trained, subfolder="restorer"), "holds a RestorationUNet, not a"),
        (lambda: RestorationUNet.from_pretrained(trained / "unet"), "holds a DAAUNet2DConditionModel, not a"),
        (lambda: RestorationUNet.from_pretrained(trained), "subfolder='restorer'"),
        (lambda: RestorationUNet.from_pretrained("daa-denoise"), r"from_pretrained\('daa-denoise'\).restorer"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load()


def test_a_folder_of_a_variant_alone_names_it(tmp_path):
    DAARestorationPipeline(RestorationUNet(width=4, depth=2)).save_pretrained(tmp_path, variant="fp16")
    with pytest.raises(CheckpointError, match="the variant 'fp16' exists: set `variant`"):
        DAARestorationPipeline.from_pretrained(tmp_path)
