"""A run that trains an adapter: the base stays as it is, and base and file make the pipeline that is saved."""

import io
import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from daa_diffusers import DAARestorationPipeline, RestorationUNet
from daa_diffusers.adapters import fingerprint, read_adapter
from daa_diffusers.errors import ConfigurationError
from daa_diffusers.training.config import parse_arguments
from daa_diffusers.training.loop import Trainer, train
from daa_diffusers.training.run_state import list_checkpoints
from daa_diffusers.training.verification import differences


@pytest.fixture
def base(tmp_path):
    torch.manual_seed(0)
    DAARestorationPipeline(RestorationUNet(width=4, depth=2)).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def config(tiny_config, base):
    def make(kind="lora", **changes):
        options = {"init_from": str(base), "adapter": kind, "adapter_rank": 2, "learning_rate": 1e-2}
        return tiny_config(**{**options, **changes})

    return make


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("kind", ["bias", "pointwise", "lora"])
def test_base_and_adapter_make_the_saved_pipeline_bit_for_bit(config, base, kind):
    result = train(config(kind), progress_bar=False)
    pipe = DAARestorationPipeline.from_pretrained(base)
    before = state(pipe.restorer)
    pipe.load_adapter(result.pipeline.parent / "adapter", name="mine")
    wanted = DAARestorationPipeline.from_pretrained(result.pipeline).restorer.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in pipe.restorer.state_dict().items())
    assert not all(torch.equal(before[name], value) for name, value in wanted.items())
    found = pipe.adapters["mine"]
    assert (found.kind, found.rank, found.base_name) == (kind, 2 if kind == "lora" else None, "base")


def test_only_the_adapter_is_trained_averaged_and_optimized(config, base):
    done = config(objective="mean_teacher")
    train(done, progress_bar=False)
    (newest,) = list_checkpoints(f"{done.output_dir}/checkpoints")[-1:]
    weights, average = load_file(newest / "model.safetensors"), load_file(newest / "ema.safetensors")
    start = DAARestorationPipeline.from_pretrained(base).restorer
    originals = {
        name.removeprefix("restorer.").replace("parametrizations.", "").removesuffix(".original"): value
        for name, value in weights.items()
        if name.startswith("restorer.") and ".0." not in name.split("parametrizations")[-1]
    }
    assert fingerprint(originals) == fingerprint(dict(start.named_parameters()))
    changes = [name for name in weights if name.startswith("restorer.") and ".0." in name.split("parametrizations")[-1]]
    assert len(average) == len(changes) == sum(2 if "weight" in name else 1 for name in originals)
    optimized = {name.split(".")[0] for name in load_file(newest / "optimizer.safetensors")}
    assert len(optimized) == len(changes)


@pytest.mark.parametrize("changes", [{}, {"variant": "vanilla", "blend": 0.5}, {"select_by": "psnr"}])
def test_an_interrupted_run_ends_as_one_that_was_left_alone(config, changes, tmp_path, photo_folders):
    if "select_by" in changes:
        changes |= {"validation_degraded": str(photo_folders / "degraded"), "validate_every": 2}
        changes |= {"validation_clean": str(photo_folders / "clean")}
    whole, cut = (config(output_dir=str(tmp_path / name), **changes) for name in ("whole", "cut"))
    train(whole, progress_bar=False)
    Trainer(cut, progress_bar=False).train(stop_after=3)
    train(cut, progress_bar=False)
    assert differences(tmp_path / "whole", tmp_path / "cut") == []
    for name in ("adapter/adapter.safetensors", "adapter/adapter.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_the_photos_tell_the_camera_and_the_user_the_rest(config, photo_folders, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(photo_folders / "real", folder)
    for number, path in enumerate(sorted(folder.iterdir())):
        image = Image.open(path)
        exif = image.getexif()
        exif[0x010F], exif[0x0110] = "Canon", f"EOS {number % 2}"
        exif.get_ifd(0x8769)[0x8827] = 800 * (1 + number)
        content = io.BytesIO()
        image.save(content, "JPEG", exif=exif)
        path.write_bytes(content.getvalue())
    result = train(config("bias", real=[str(folder)], adapter_info={"licence": "CC0-1.0"}), progress_bar=False)
    found, _, _ = read_adapter(result.pipeline.parent / "adapter")
    assert (found.make, found.models, found.iso) == ("Canon", ("EOS 0", "EOS 1"), (800, 3200))
    assert found.licence == "CC0-1.0"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter": "lorra"}, "`adapter` must be one of bias, pointwise, lora"),
        ({"adapter_rank": 0}, "`adapter_rank` must be at least 1, got 0"),
        ({"init_from": None}, "`adapter` needs a restorer to start from: give `init_from`"),
        ({"adapter_info": {"color": "red"}}, "`adapter_info` takes make, models, iso, licence, got color"),
        ({"adapter_info": {"iso": 800}}, "`iso` must be"),
        ({"adapter": None, "adapter_info": {"make": "Canon"}}, "`adapter_info` needs `adapter`"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_written(config, changes, message, tmp_path):
    with pytest.raises(ConfigurationError, match=message):
        config(**changes).check()


def test_the_command_line_takes_them(photo_folders, base):
    folders = [word for role in ("clean", "real") for word in (f"--{role}", str(photo_folders / role))]
    info = json.dumps({"make": "Canon", "iso": [100, 800]})
    given = ["--init_from", str(base), "--adapter", "lora", "--adapter_rank", "3", "--adapter_info", info]
    config = parse_arguments([*folders, *given])
    assert (config.adapter, config.adapter_rank) == ("lora", 3)
    assert config.adapter_info == {"make": "Canon", "iso": [100, 800]}
    plain = parse_arguments([*folders, "--init_from", str(base)])
    assert config.learning_rate > plain.learning_rate  # few numbers take larger steps
    assert parse_arguments([*folders, *given, "--learning_rate", "1e-5"]).learning_rate == 1e-5


def test_a_run_without_an_adapter_writes_none(tiny_config, base):
    result = train(tiny_config(init_from=str(base), variant="vanilla"), progress_bar=False)
    assert sorted(p.name for p in result.pipeline.parent.iterdir() if p.is_dir()) == ["checkpoints", "pipeline"]
