"""Checkpoints from the Hub, a server on the loopback interface."""

import huggingface_hub.constants as constants
import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    IncompleteSnapshotError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from daa_diffusers import (
    DAARestorationPipeline,
    DAAUNet2DConditionModel,
    RestorationUNet,
)
from daa_diffusers.errors import CheckpointError
from daa_diffusers.hub.description import describe
from daa_diffusers.hub.records import keep_run_record

from .conftest import build, same
from .hub_server import commit_of

RESTORER_FILES = {
    *("model_index.json", "README.md", "restorer/config.json", "restorer/diffusion_pytorch_model.safetensors")
}


UNET_FILES = {"unet/config.json", "unet/diffusion_pytorch_model.safetensors"}


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
        "README.md",
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
    with pytest.raises(CheckpointError, match="not a pipeline folder: model_index.json is missing"):
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


def test_a_card_comes_along_and_its_license_is_inherited_by_training(hub, load, saved, tmp_path):
    card = "---\nlicense: cc-by-nc-4.0\n---\n# My camera\n"
    (saved / "README.md").write_text(card)
    assert describe(saved).license.key == "cc-by-nc-4.0"
    pipeline = load()
    pipeline.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "README.md").read_text() == card
    keep_run_record(pipeline.restorer, {"steps": 1, "options": {"init_from": "org/restorer"}})
    pipeline.save_pretrained(tmp_path / "trained")
    assert describe(tmp_path / "trained").license.key == "cc-by-nc-4.0"
    restorer = RestorationUNet.from_pretrained("org/restorer", subfolder="restorer", cache_dir=tmp_path / "cache")
    assert restorer.config.license == "cc-by-nc-4.0"


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
