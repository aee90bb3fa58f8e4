"""Where checkpoints come from: the Hub (a server on the loopback interface), bundled names, folders, single files."""

import json
import logging
import shutil
from pathlib import Path

import huggingface_hub.constants as constants
import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    IncompleteSnapshotError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.torch import load_file, save_file

from daa_diffusers import (
    DAARestorationPipeline,
    DAAUNet2DConditionModel,
    FastRestorationUNet,
    RestorationUNet,
    checkpoints,
)
from daa_diffusers.checkpoints import bundled_names, bundled_path
from daa_diffusers.cli.info import facts_of
from daa_diffusers.errors import CheckpointError
from daa_diffusers.restoring.loading import check_model

from .hub_server import commit_of, loopback_hub

RESTORER_FILES = {"model_index.json", "restorer/config.json", "restorer/diffusion_pytorch_model.safetensors"}
UNET_FILES = {"unet/config.json", "unet/diffusion_pytorch_model.safetensors"}


def build(seed: int = 0, **options) -> DAARestorationPipeline:
    torch.manual_seed(seed)
    unet = DAAUNet2DConditionModel(block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=8)
    return DAARestorationPipeline(RestorationUNet(**{"width": 4, "depth": 2, **options}), unet)


def weights(pipeline) -> dict[str, torch.Tensor]:
    return pipeline.restorer.state_dict()


def same(a: DAARestorationPipeline, b: DAARestorationPipeline) -> bool:
    return all(torch.equal(weights(a)[name], tensor) for name, tensor in weights(b).items())


@pytest.fixture
def saved(tmp_path):
    """A folder with a pipeline, and files beside it that restoring does not need."""
    folder = tmp_path / "saved"
    build().save_pretrained(folder)
    (folder / "README.md").write_text("# A card")
    (folder / "restorer" / "diffusion_pytorch_model.bin").write_bytes(b"never loaded")
    return folder


@pytest.fixture
def hub(monkeypatch, saved):
    with loopback_hub(monkeypatch) as hub:
        hub.revisions["org/restorer"] = {"main": saved}
        yield hub


@pytest.fixture
def load(tmp_path):
    """Loads from the Hub by way of a cache of the test's own."""

    def load(name="org/restorer", **options):
        return DAARestorationPipeline.from_pretrained(name, cache_dir=tmp_path / "cache", **options)

    return load


# --- the Hub ---


def test_a_hub_id_fetches_the_restorer_alone(hub, load):
    pipeline = load()
    assert same(pipeline, build()) and pipeline.unet is None
    assert hub.downloaded() == RESTORER_FILES
    assert pipeline.config._name_or_path == "org/restorer"


def test_a_repository_of_a_lone_restorer_loads_as_its_folder_does(hub, load, tmp_path):
    build().restorer.save_pretrained(tmp_path / "alone")
    hub.revisions["org/alone"] = {"main": tmp_path / "alone"}
    pipeline = load("org/alone")
    assert same(pipeline, build()) and pipeline.config._name_or_path == "org/alone"
    assert hub.downloaded() == {"config.json", "diffusion_pytorch_model.safetensors"}
    with pytest.raises(CheckpointError, match="holds no noise predictor"):
        load("org/alone", load_noise_predictor=True)


def test_the_noise_predictor_is_fetched_when_asked_for(hub, load):
    pipeline = load(load_noise_predictor=True)
    assert isinstance(pipeline.unet, DAAUNet2DConditionModel)
    assert hub.downloaded() == RESTORER_FILES | UNET_FILES
    expected = build().unet.state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in pipeline.unet.state_dict().items())


def test_download_gives_the_folder(hub, tmp_path):
    folder = DAARestorationPipeline.download("org/restorer", cache_dir=tmp_path / "cache")
    assert same(DAARestorationPipeline.from_pretrained(folder), build())


def test_a_second_load_fetches_nothing_unless_forced(hub, load):
    load()
    hub.requests.clear()
    load()
    assert hub.downloaded() == set()
    load(force_download=True)
    assert hub.downloaded() == RESTORER_FILES


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub, load, tmp_path):
    build(seed=1).save_pretrained(tmp_path / "older")
    hub.revisions["org/restorer"]["v1"] = tmp_path / "older"
    assert same(load(revision="v1"), build(seed=1))
    assert same(load(revision=commit_of("v1")), build(seed=1))
    assert same(load(), build())
    with pytest.raises(RevisionNotFoundError):
        load(revision="v2")


def test_a_variant_is_fetched_alone(hub, load, saved):
    build().to(torch.float16).save_pretrained(saved, variant="fp16")
    pipeline = load(variant="fp16", dtype=torch.float16)
    assert hub.downloaded() == {
        "model_index.json",
        "restorer/config.json",
        "restorer/diffusion_pytorch_model.fp16.safetensors",
    }
    assert pipeline.dtype == torch.float16


def test_a_private_repository_wants_its_token(hub, load):
    hub.tokens["org/restorer"] = "hf_secret"
    with pytest.raises(RepositoryNotFoundError):
        load(token=False)
    assert same(load(token="hf_secret"), build())


def test_a_repository_that_does_not_exist_is_the_hubs_own_error(hub, load):
    with pytest.raises(RepositoryNotFoundError, match="org/absent"):
        load("org/absent")


def test_the_cache_serves_without_the_hub(hub, load, monkeypatch):
    with pytest.raises(FileNotFoundError):
        load(local_files_only=True)
    load()
    hub.requests.clear()
    assert same(load(local_files_only=True), build())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same(load(), build())
    assert hub.requests == []
    with pytest.raises(IncompleteSnapshotError):  # the predictor is not in the cache
        load(load_noise_predictor=True)


def test_a_repository_with_pickle_only_says_what_is_missing(hub, load, saved):
    (saved / "restorer/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="missing files: restorer/diffusion_pytorch_model.safetensors"):
        load()
    assert "restorer/diffusion_pytorch_model.bin" not in hub.downloaded()


def test_a_repository_of_something_else_is_refused(hub, load, saved):
    (saved / "model_index.json").unlink()
    with pytest.raises(CheckpointError, match="no pipeline folder: model_index.json is missing"):
        load()


def test_a_gated_repository_is_the_hubs_own_error(hub, load):
    hub.gated.add("org/restorer")
    with pytest.raises(GatedRepoError):
        load()


def test_a_download_that_breaks_off_goes_on_where_it_was(hub, load, saved, monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what has arrived is kept chunk by chunk
    file = "restorer/diffusion_pytorch_model.safetensors"
    half = (saved / file).stat().st_size // 2
    hub.cut[file] = half
    assert same(load(), build())
    assert hub.ranges == [(file, f"bytes={half // 1000 * 1000}-")]


def test_files_that_are_whole_are_not_fetched_again_after_a_failure(hub, load, saved):
    file = saved / "restorer/diffusion_pytorch_model.safetensors"
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(CheckpointError, match="missing files: restorer/diffusion_pytorch_model.safetensors"):
        load()
    file.write_bytes(content)
    hub.revisions["org/restorer"]["fixed"] = saved
    hub.requests.clear()
    assert same(load(revision="fixed"), build())
    assert hub.downloaded() == {"restorer/diffusion_pytorch_model.safetensors"}


def test_the_record_of_the_weights_comes_along(hub, load, saved, tmp_path):
    (saved / "training.json").write_text('{"licence": "s-lab-license-1.0"}')
    load()
    assert hub.downloaded() == RESTORER_FILES | {"training.json"}


@pytest.mark.parametrize(
    "name", ["restorer/diffusion_pytorch_model-/../../../../../evil.safetensors", "../evil.safetensors"]
)
def test_a_repository_cannot_write_outside_the_cache(hub, load, tmp_path, name):
    hub.extra.append(name)
    try:
        load()
    except Exception as error:  # whatever huggingface_hub makes of it
        assert not isinstance(error, AssertionError)
    assert list(tmp_path.rglob("evil*")) == []


# --- bundled names ---


@pytest.mark.parametrize("name", bundled_names())
def test_a_bundled_checkpoint_loads_as_float32(name):
    pipeline = DAARestorationPipeline.from_pretrained(name)
    stored = load_file(bundled_path(name) / "restorer" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert {tensor.dtype for tensor in weights(pipeline).values()} == {torch.float32}
    assert pipeline.config._name_or_path == pipeline.restorer.config._name_or_path == name


@pytest.fixture
def bundle(monkeypatch, tmp_path):
    """A package folder with one checkpoint in float16."""
    monkeypatch.setattr(checkpoints, "_FOLDER", tmp_path / "package")
    build(seed=3).to(torch.float16).save_pretrained(tmp_path / "package" / "daa-test")
    return "daa-test"


def test_a_bundled_name_needs_no_path_and_loads_float16_files_as_float32(bundle):
    pipeline = DAARestorationPipeline.from_pretrained(bundle)
    assert pipeline.dtype == torch.float32
    expected = weights(build(seed=3).to(torch.float16))
    assert all(torch.equal(tensor, expected[name].float()) for name, tensor in weights(pipeline).items())
    assert DAARestorationPipeline.from_pretrained(bundle, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_a_local_folder_of_a_bundled_name_neither_wins_nor_loses_silently(bundle, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    build(seed=4).save_pretrained(bundle)
    bundled = {name: tensor.float() for name, tensor in weights(build(seed=3).to(torch.float16)).items()}
    with caplog.at_level(logging.WARNING, logger="daa_diffusers"):
        pipeline = DAARestorationPipeline.from_pretrained(bundle)
    assert all(torch.equal(bundled[name], tensor) for name, tensor in weights(pipeline).items())
    assert [r.getMessage() for r in caplog.records if r.name.startswith("daa_diffusers")] == [
        "'daa-test' is the bundled checkpoint, not the local folder of the same name; for that, write './daa-test'"
    ]
    for local in (f"./{bundle}", Path(bundle)):
        assert same(DAARestorationPipeline.from_pretrained(local), build(seed=4))


@pytest.mark.parametrize(
    "name", ["daa-tset", "nothing-like-it", "a/b/c", "./absent", "/absent/folder", "x.safetensors"]
)
def test_an_unknown_name_lists_the_known_ones(bundle, name):
    with pytest.raises(CheckpointError, match=rf"{name}' is no bundled checkpoint \(daa-test\), no folder or") as error:
        DAARestorationPipeline.from_pretrained(name)
    assert ("did you mean 'daa-test'?" in str(error.value)) == (name == "daa-tset")


def test_names_are_strings_or_paths(bundle):
    with pytest.raises(TypeError, match="`pretrained_model_name_or_path` must be a string or a path, got int"):
        DAARestorationPipeline.from_pretrained(3)
    with pytest.raises(KeyError, match="`name` must be one of .*daa-test.*, got 'other'"):
        bundled_path("other")
    assert bundled_names() == ("daa-test",)


# --- folders ---


def test_all_missing_files_are_listed(saved):
    (saved / "restorer/diffusion_pytorch_model.safetensors").unlink()
    (saved / "restorer/config.json").unlink()
    (saved / "unet/config.json").unlink()
    with pytest.raises(CheckpointError) as error:
        DAARestorationPipeline.from_pretrained(saved, load_noise_predictor=True)
    expected = "missing files: restorer/config.json, restorer/diffusion_pytorch_model.safetensors, unet/config.json"
    assert f"{expected} (there is restorer/diffusion_pytorch_model.bin: only safetensors are read" in str(error.value)


def test_a_missing_shard_is_listed(tmp_path):
    build(width=32).save_pretrained(tmp_path, max_shard_size="100KB")
    shards = sorted((tmp_path / "restorer").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    assert same(DAARestorationPipeline.from_pretrained(tmp_path), build(width=32))
    shards[1].unlink()
    with pytest.raises(CheckpointError, match=f"missing files: restorer/{shards[1].name}"):
        DAARestorationPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "saving", [{"max_shard_size": "100KB"}, {"variant": "fp16"}, {"variant": "v", "max_shard_size": "100KB"}]
)
def test_a_restorer_alone_in_shards_or_as_a_variant_loads_from_folder_and_hub(hub, load, tmp_path, saving):
    start = build(width=32)
    start.restorer.save_pretrained(tmp_path / "alone", **saving)
    hub.revisions["org/alone"] = {"main": tmp_path / "alone"}
    variant = saving.get("variant")
    for options in ({}, {"variant": variant}):
        assert same(DAARestorationPipeline.from_pretrained(tmp_path / "alone", **options), start)
        assert same(load("org/alone", **options), start)
    check_model(str(tmp_path / "alone"))
    assert facts_of(str(tmp_path / "alone"))["parameters"] == sum(p.numel() for p in start.restorer.parameters())
    with pytest.raises(CheckpointError, match="`variant` is 'bf16', but .* holds no such weights of its restorer"):
        DAARestorationPipeline.from_pretrained(tmp_path / "alone", variant="bf16")
    if "max_shard_size" in saving:
        shard = sorted((tmp_path / "alone").glob("*-of-*.safetensors"))[1]
        shard.unlink()
        with pytest.raises(CheckpointError, match=f"missing files: {shard.name}"):
            DAARestorationPipeline.from_pretrained(tmp_path / "alone")


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_config_of_another_class_is_named(saved):
    edit(saved / "restorer/config.json", _class_name="UNet2DModel")
    with pytest.raises(CheckpointError, match="config of a UNet2DModel, expected a RestorationUNet"):
        DAARestorationPipeline.from_pretrained(saved)
    edit(saved / "model_index.json", _class_name="StableDiffusionPipeline")
    with pytest.raises(CheckpointError, match="is of a StableDiffusionPipeline, expected a DAARestorationPipeline"):
        DAARestorationPipeline.from_pretrained(saved)


def test_a_broken_config_is_named(saved):
    (saved / "restorer/config.json").write_text("{")
    with pytest.raises(CheckpointError, match="config.json' is no JSON file"):
        DAARestorationPipeline.from_pretrained(saved)
    (saved / "model_index.json").write_text("[]")
    with pytest.raises(CheckpointError, match="model_index.json' must hold a JSON object, got list"):
        DAARestorationPipeline.from_pretrained(saved)


@pytest.mark.parametrize("change", ["truncated", "missing", "unknown", "shape"])
def test_weights_that_do_not_fit_are_refused(saved, change):
    path = saved / "restorer/diffusion_pytorch_model.safetensors"
    state = load_file(path)
    if change == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif change == "missing":
        del state["conv_out.bias"]
    elif change == "unknown":
        state["other.bias"] = torch.zeros(3)
    else:
        state["conv_out.bias"] = torch.zeros(4)
    if change != "truncated":
        save_file(state, path)
    message = {"truncated": "cannot be loaded", "shape": "conv_out.bias", "unknown": "unknown tensors: other.bias"}
    with pytest.raises(CheckpointError, match=message.get(change, "missing tensors: conv_out.bias")):
        DAARestorationPipeline.from_pretrained(saved)


def test_pickle_is_never_written_nor_read(saved, tmp_path):
    with pytest.raises(ValueError, match="`safe_serialization` must be True"):
        build().save_pretrained(tmp_path / "new", safe_serialization=False)
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="`use_safetensors` must be True"):
        DAARestorationPipeline.from_pretrained(saved, use_safetensors=False)


def test_saving_again_replaces_the_files(tmp_path):
    build().save_pretrained(tmp_path)
    build(seed=5).save_pretrained(tmp_path)
    assert same(DAARestorationPipeline.from_pretrained(tmp_path), build(seed=5))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_dtype_may_be_given_by_component(saved):
    dtypes = {"restorer": torch.bfloat16, "default": torch.float32}
    pipeline = DAARestorationPipeline.from_pretrained(saved, dtype=dtypes, load_noise_predictor=True)
    assert (pipeline.dtype, pipeline.unet.dtype) == (torch.bfloat16, torch.float32)


# --- single files ---


def test_a_folder_of_a_restorer_alone_loads(tmp_path):
    build(value_range=[-1, 1]).restorer.save_pretrained(str(tmp_path / "restorer"))
    pipeline = DAARestorationPipeline.from_pretrained(tmp_path / "restorer", dtype=torch.bfloat16)
    assert pipeline.value_range == (-1, 1) and pipeline.dtype == torch.bfloat16
    assert not pipeline.restorer.training


def test_a_fast_restorer_loads_from_its_file_and_from_a_pipeline_with_its_own_class(tmp_path):
    restorer = FastRestorationUNet(widths=(4, 6), blocks=(1, 1), value_range=(-1, 1))
    DAARestorationPipeline(restorer).save_pretrained(tmp_path)
    for source in (tmp_path, tmp_path / "restorer/diffusion_pytorch_model.safetensors"):
        loaded = DAARestorationPipeline.from_pretrained(source).restorer
        assert type(loaded) is FastRestorationUNet and loaded.config.value_range == [-1, 1]
        assert all(map(torch.equal, loaded.state_dict().values(), restorer.state_dict().values()))


def test_a_single_file_loads_with_its_config(saved):
    edit(saved / "restorer/config.json", value_range=[-1, 1])
    pipeline = DAARestorationPipeline.from_pretrained(saved / "restorer/diffusion_pytorch_model.safetensors")
    assert same(pipeline, build()) and pipeline.value_range == (-1, 1)


@pytest.mark.parametrize("sizes", [{"width": 4, "depth": 1}, {"width": 6, "depth": 4}, {"channels": 1, "depth": 2}])
def test_a_single_file_without_config_says_its_sizes(tmp_path, sizes, caplog):
    restorer = build(**sizes).to(torch.float16).restorer
    save_file(restorer.state_dict(), tmp_path / "my weights.safetensors")
    with caplog.at_level(logging.WARNING, logger="daa_diffusers"):
        pipeline = DAARestorationPipeline.from_pretrained(str(tmp_path / "my weights.safetensors"))
    assert any("no config.json beside my weights.safetensors: sizes inferred" in m for m in caplog.messages)
    assert pipeline.dtype == torch.float32
    assert {name: pipeline.restorer.config[name] for name in sizes} == sizes
    assert all(torch.equal(t, restorer.state_dict()[n].float()) for n, t in weights(pipeline).items())
    assert pipeline(torch.rand(1, 9, 9), output_type="pt").images.shape == (1, 1, 9, 9)


def test_a_single_file_that_does_not_fit_lists_everything(saved):
    file = saved / "restorer/diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state["other"] = state.pop("conv_out.bias")
    state["conv_out.weight"] = torch.zeros(3, 4, 1, 1)
    save_file(state, file)
    with pytest.raises(CheckpointError) as error:
        DAARestorationPipeline.from_pretrained(file)
    assert str(error.value).endswith(
        "missing tensors: conv_out.bias; unknown tensors: other; "
        "wrong shapes: conv_out.weight (3, 4, 1, 1) instead of (3, 4, 3, 3)"
    )


def test_a_single_file_of_something_else_is_refused(tmp_path, saved):
    def load(name, match):
        with pytest.raises(CheckpointError, match=match):
            DAARestorationPipeline.from_pretrained(tmp_path / name)

    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    load("other.safetensors", "is of no architecture that spandrel recognizes.*Tried: .*NAFNet")
    save_file({"down_path.0.block.0.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "official.safetensors")
    load("official.safetensors", "convert it first: `daa convert official.safetensors OUT`")
    (tmp_path / "broken.safetensors").write_bytes(b"\x10")
    load("broken.safetensors", "is damaged")
    (tmp_path / "photo.png").write_bytes(b"png")
    load("photo.png", "must be a folder, or a file of weights: .safetensors, .pth")
    torch.save({}, tmp_path / "model.pth")
    load("model.pth", "must hold a state dict, tensors by name, got none")
    shutil.copy(saved / "restorer/diffusion_pytorch_model.safetensors", tmp_path / "good.safetensors")
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    load("good.safetensors", "config of a UNet2DModel, expected a RestorationUNet")
    (tmp_path / "config.json").write_text('{"_class_name": "RestorationUNet", "width": -4}')
    load("good.safetensors", "builds no RestorationUNet: `width` must be a positive integer")


def test_a_single_file_has_no_noise_predictor(saved):
    with pytest.raises(CheckpointError, match="holds no noise predictor"):
        DAARestorationPipeline.from_pretrained(
            saved / "restorer/diffusion_pytorch_model.safetensors", load_noise_predictor=True
        )
