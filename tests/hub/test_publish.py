"""Pipelines to the Hub (a server on the loopback interface): what is uploaded, in one commit, and what never is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError
from safetensors.torch import load_file, save_file

from daa_diffusers import DAARestorationPipeline, DAAUNet2DConditionModel, RestorationUNet
from daa_diffusers.checkpoints import bundled_names
from daa_diffusers.errors import CheckpointError, ConfigurationError
from daa_diffusers.hub.publish import prepare, send

from ..conftest import PROJECT_ROOT
from .hub_server import loopback_hub

CODE = {"pipeline.py", "image_processor.py", "restorer/restoration_unet.py"}
FILES = {"model_index.json", "restorer/config.json", "restorer/diffusion_pytorch_model.safetensors", "README.md"}


def build(seed: int = 0, unet: bool = False) -> DAARestorationPipeline:
    torch.manual_seed(seed)
    predictor = DAAUNet2DConditionModel(block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=8)
    return DAARestorationPipeline(RestorationUNet(width=4, depth=2), predictor if unet else None)


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "saved"
    build().save_pretrained(folder)
    return folder


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with loopback_hub(monkeypatch, tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_TOKEN", "hf_write")
        yield hub


def same(one, other) -> bool:
    first, second = one.restorer.state_dict(), other.restorer.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --- what is sent ---


def test_a_pushed_pipeline_comes_back_in_one_commit(hub, tmp_path):
    address = build().push_to_hub("org/mine", private=True, commit_message="First weights")
    assert address.startswith(f"{hub.url}/org/mine/commit/")
    (commit,) = hub.commits
    assert (commit["revision"], commit["summary"]) == ("main", "First weights")
    assert set(commit["files"]) == FILES | CODE
    assert hub.private["org/mine"]
    loaded = DAARestorationPipeline.from_pretrained("org/mine", cache_dir=tmp_path / "cache")
    assert same(loaded, build())
    assert not any(name.endswith((".py", ".md")) for name in hub.downloaded())  # no foreign code is even fetched


def test_a_pull_request_and_a_bare_name(hub):
    address = build().push_to_hub("mine", create_pr=True, commit_message="Weights", commit_description="Of last night")
    assert address == f"{hub.url}/org/mine/discussions/1"
    (commit,) = hub.commits
    assert (commit["repo"], commit["summary"], commit["description"]) == ("org/mine", "Weights", "Of last night")


def test_a_branch_is_made_and_the_main_one_left_alone(hub, tmp_path):
    build().push_to_hub("org/mine")
    build(seed=1).push_to_hub("org/mine", revision="v2")
    assert [(commit["revision"], commit["repo"]) for commit in hub.commits] == [
        ("main", "org/mine"),
        ("v2", "org/mine"),
    ]
    for revision, seed in (("main", 0), ("v2", 1)):
        loaded = DAARestorationPipeline.from_pretrained("org/mine", revision=revision, cache_dir=tmp_path / "cache")
        assert same(loaded, build(seed=seed))


def test_the_token_may_be_given_and_a_wrong_one_is_the_hubs_own_error(hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HfHubHTTPError, match="401"):
        build().push_to_hub("org/mine", token="hf_wrong")
    assert hub.commits == []
    build().push_to_hub("org/mine", token="hf_write")
    assert len(hub.commits) == 1


def test_the_noise_predictor_goes_along_with_its_code(hub, tmp_path):
    build(unet=True).push_to_hub("org/mine")
    assert {"unet/config.json", "unet/daa_unet.py"} < set(hub.commits[0]["files"])
    options = {"cache_dir": tmp_path / "cache", "load_noise_predictor": True}
    assert DAARestorationPipeline.from_pretrained("org/mine", **options).unet is not None


def test_variants_and_shards_are_sent(tmp_path):
    big = DAARestorationPipeline(RestorationUNet(width=32, depth=2))
    big.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    files = prepare(tmp_path / "shards", "org/mine").files
    assert "restorer/diffusion_pytorch_model.safetensors.index.json" in files
    assert sum(name.endswith(".safetensors") for name in files) > 1
    build().to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16")
    files = prepare(tmp_path / "half", "org/mine").files
    assert "restorer/diffusion_pytorch_model.fp16.safetensors" in files
    assert "stored in float16" in files["README.md"].decode()


def test_only_what_belongs_to_a_pipeline_is_sent(saved):
    for name in (".env", "notes.txt", "optimizer.safetensors", "restorer/diffusion_pytorch_model.bin", "photo.jpg"):
        (saved / name).write_text("x")
    (saved / "LICENSE").write_text("MINE")
    upload = prepare(saved, "org/mine")
    assert set(upload.files) == FILES | CODE | {"LICENSE"}
    assert set(upload.left_out) == {
        ".env",
        "notes.txt",
        "optimizer.safetensors",
        "photo.jpg",
        "restorer/diffusion_pytorch_model.bin",
    }


# --- nothing of this machine ---


def test_a_run_is_pushed_with_its_record_and_without_the_machines_paths(tmp_path):
    run = tmp_path / "somebodys run"
    build().save_pretrained(run / "pipeline")
    options = {
        "clean": ["/home/somebody/photos/bsds"],
        "real": ["~/private/noisy", "C:\\Users\\somebody\\canon"],
        "degradation": {"type": "camera"},
        "variant": "hybrid",
        "init_from": str(run / "start"),
        "batch_size": 8,
        "patch": 64,
    }
    photos = {"real": [{"folder": "noisy", "photos": 9, "skipped": ["anna at the beach.jpg"]}]}
    record = {"options": options, "steps": 30, "photos": photos, "versions": {"torch": "2"}, "git_commit": "abc"}
    (run / "run.json").write_text(json.dumps(record))
    upload = prepare(run, "org/mine")
    training = json.loads(upload.files["training.json"])
    assert training["options"]["real"] == ["noisy", "canon"] and training["options"]["init_from"] == "start"
    assert training["photos"]["real"][0]["skipped"] == 1
    everything = b"".join(
        content if isinstance(content, bytes) else content.read_bytes() for content in upload.files.values()
    )
    for trace in ("somebody", str(tmp_path), "anna", "private", str(Path.home())):
        assert trace.encode() not in everything, trace
    assert "30 steps" in upload.card and "- noisy: 9 photos, real, without ground truth." in upload.card
    assert "trust_remote_code=True" in upload.card


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("token hf_abcdefghijklmnopqrstuvwxyz", r"an access token \(hf_abc\.\.\.\)"),
        ("see https://me:secret@host/x", "a password in an address"),
        ("made in /home/somebody/run", r"a path of a machine \(/home/somebody/run\)"),
        (r"made in C:\Users\somebody", "a path of a machine"),
    ],
)
def test_a_card_with_a_secret_is_refused(saved, text, message):
    (saved / "README.md").write_text(f"# Mine\n\n{text}\n")
    with pytest.raises(ConfigurationError, match=f"'README.md' holds {message}.*must not be uploaded") as error:
        prepare(saved, "org/mine")
    assert "secret" not in str(error.value)


def test_weights_whose_metadata_holds_a_path_are_refused(saved):
    file = saved / "restorer/diffusion_pytorch_model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt", "from": str(Path.home() / "x")})
    with pytest.raises(ConfigurationError, match="safetensors' holds .* path"):
        prepare(saved, "org/mine")


def test_a_link_out_of_the_folder_is_refused(saved, tmp_path):
    (tmp_path / "secret").write_text("MINE")
    os.symlink(tmp_path / "secret", saved / "LICENSE")
    with pytest.raises(CheckpointError, match="'LICENSE' in .* is a link out of the folder"):
        prepare(saved, "org/mine")


def test_a_folder_that_is_not_whole_is_refused(saved, tmp_path):
    (saved / "restorer/config.json").unlink()
    with pytest.raises(CheckpointError, match="missing files: restorer/config.json"):
        prepare(saved, "org/mine")
    with pytest.raises(CheckpointError, match="no folder or file of weights"):
        prepare(tmp_path / "absent", "org/mine")


@pytest.mark.parametrize("repo_id", ["mine", "a/b/c", "org/..", "org/my weights", ""])
def test_a_repository_is_owner_and_name(saved, repo_id):
    with pytest.raises(ConfigurationError, match='`repo_id` must be "owner/name", got'):
        prepare(saved, repo_id)


# --- licenses and cards ---


@pytest.mark.parametrize("name", bundled_names())
def test_bundled_weights_say_that_they_are_for_research_only(name):
    upload = prepare(name, "org/copy")
    head = upload.card.split("---")[1]
    assert "license: other" in head and "license_name: non-commercial-research" in head
    photos = {"daa-derain": "Rain100L", "daa-deblur": "Levin"}.get(name, "RENOIR")
    assert "| identity |" in upload.card and photos in upload.card
    with pytest.raises(
        ConfigurationError, match="`license` is 'mit', but these weights are under non-commercial-research"
    ):
        prepare(name, "org/copy", license="mit")


def test_weights_that_start_from_bundled_ones_inherit_their_license(saved):
    (saved / "training.json").write_text(json.dumps({"options": {"init_from": "daa-denoise-plain"}}))
    assert "license_name: non-commercial-research" in prepare(saved, "org/mine").card
    with pytest.raises(ConfigurationError, match="`license` is 'apache-2.0'"):
        prepare(saved, "org/mine", license="apache-2.0")


def test_a_loaded_pipeline_takes_its_record_along_and_its_numbers_while_they_hold(hub, caplog):
    pipeline = DAARestorationPipeline.from_pretrained("daa-denoise")
    pipeline.push_to_hub("org/copy")
    pushed = hub.revisions["org/copy"]["main"]
    assert "license_name: non-commercial-research" in (pushed / "README.md").read_text()
    assert (pushed / "evaluation.json").is_file() and (pushed / "training.json").is_file()
    with torch.no_grad():
        pipeline.restorer.conv_out.bias += 1
    pipeline.push_to_hub("org/other")
    assert "these weights are not those that were measured" in caplog.text
    pushed = hub.revisions["org/other"]["main"]
    assert not (pushed / "evaluation.json").exists()
    assert "license_name: non-commercial-research" in (pushed / "README.md").read_text()


def test_a_persons_own_card_is_kept_and_completed(saved):
    (saved / "README.md").write_text("---\ntags: [night]\n---\n# My words\n")
    card = prepare(saved, "org/mine", license="cc-by-4.0").card
    assert card.endswith("# My words\n")
    assert "- night" in card and "license: cc-by-4.0" in card and "library_name: diffusers" in card


def test_a_card_cannot_give_away_what_the_weights_do_not_allow(saved, tmp_path):
    (saved / "training.json").write_text(json.dumps({"licence": "s-lab-license-1.0"}))
    (tmp_path / "card.md").write_text("---\nlicense: apache-2.0\n---\n# Mine\n")
    with pytest.raises(ConfigurationError, match="`card` says license: apache-2.0, .*s-lab-license-1.0"):
        prepare(saved, "org/mine", card=tmp_path / "card.md")
    with pytest.raises(ConfigurationError, match="`card` must be a readable Markdown file"):
        prepare(saved, "org/mine", card=tmp_path / "absent.md")
    (tmp_path / "card.md").write_text("---\nlicense: [\n---\n# Mine\n")
    with pytest.raises(ConfigurationError, match="`card` has metadata that cannot be read"):
        prepare(saved, "org/mine", card=tmp_path / "card.md")


def test_a_rendered_card_is_rendered_again_for_another_name(saved):
    (saved / "README.md").write_text(prepare(saved, "org/mine").card)
    assert 'from_pretrained("org/other")' in prepare(saved, "org/other").card


# --- without the package ---

WITHOUT_PACKAGE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "daa_diffusers":
            raise ImportError("no daa_diffusers here")
sys.meta_path.insert(0, Absent())
import numpy as np, torch
from diffusers import DiffusionPipeline
try:
    DiffusionPipeline.from_pretrained(sys.argv[1])
except ValueError as error:
    assert "trust_remote_code" in str(error), error
else:
    raise SystemExit("foreign code ran without being asked for")
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
pipe.set_progress_bar_config(disable=True)
photos = np.load(sys.argv[2])
np.savez(sys.argv[3], **{name: pipe(photo, output_type="np").images for name, photo in photos.items()})
assert not any(name.split(".")[0] == "daa_diffusers" for name in sys.modules)
"""


def restore_without_package(source: str, photos: dict, folder: Path, **environment) -> dict:
    np.savez(folder / "photos.npz", **photos)
    (folder / "elsewhere").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE, source, str(folder / "photos.npz"), str(folder / "restored.npz")],
        cwd=folder / "elsewhere",
        env={
            **{key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "HF_TOKEN")},
            "HF_MODULES_CACHE": str(folder / "modules"),
            "HF_HOME": str(folder / "home"),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "restored.npz"))


@pytest.mark.slow
def test_a_pushed_repository_restores_the_same_without_the_package(hub, tmp_path):
    draws = np.random.default_rng(0)
    photos = {
        "color": draws.integers(0, 256, (33, 21, 3), dtype=np.uint8),
        "alpha": draws.integers(0, 256, (9, 8, 4), dtype=np.uint8),
        "deep": draws.integers(0, 65536, (16, 5, 3), dtype=np.uint16),
        "gray": draws.random((7, 7), dtype=np.float32),
    }
    pipeline = build(unet=True)
    pipeline.push_to_hub("org/mine")
    endpoint = {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    restored = restore_without_package("org/mine", photos, tmp_path, **endpoint)
    fetched = [request for request in hub.requests if request.endswith(".py")]
    assert {request.rpartition("/")[2] for request in fetched} >= {"pipeline.py", "image_processor.py"}
    for name, photo in photos.items():
        expected = pipeline(photo, output_type="np").images
        assert restored[name].dtype == expected.dtype
        np.testing.assert_allclose(restored[name].astype(float), expected.astype(float), atol=1e-6, err_msg=name)


def test_a_folder_with_code_runs_none_of_it_where_the_package_is(hub, tmp_path):
    build().push_to_hub("org/mine")
    folder = hub.revisions["org/mine"]["main"]
    for file in folder.rglob("*.py"):
        file.write_text(f"raise SystemExit('foreign code ran: {file.name}')")
    assert same(DAARestorationPipeline.from_pretrained(folder), build())
    assert same(DAARestorationPipeline.from_pretrained(folder, trust_remote_code=True), build())
    assert same(DAARestorationPipeline.from_pretrained("org/mine", cache_dir=tmp_path / "cache"), build())


def test_a_repository_is_pushed_again_from_where_it_was_downloaded(hub, tmp_path):
    build().push_to_hub("org/mine", license="mit")
    loaded = DAARestorationPipeline.from_pretrained("org/mine", cache_dir=tmp_path / "cache")
    loaded.push_to_hub("org/fork")
    assert set(hub.commits[1]["files"]) == FILES | CODE
    folder = loaded.download("org/mine", cache_dir=tmp_path / "cache")
    send(prepare(folder, "org/third"))
    assert set(hub.commits[2]["files"]) == FILES | CODE


class Elsewhere(RestorationUNet):
    """A restorer whose class only this test has."""


def test_a_restorer_of_another_class_goes_without_code_and_its_card_does_not_promise_any(tmp_path, caplog):
    DAARestorationPipeline(Elsewhere(width=4, depth=2)).save_pretrained(tmp_path / "mine")
    upload = prepare(tmp_path / "mine", "org/mine")
    assert set(upload.files) == FILES and "trust_remote_code" not in upload.card
    assert "loading it needs that module" in caplog.text
    assert f"{sum(p.numel() for p in Elsewhere(width=4, depth=2).parameters())} parameters" in upload.card


def test_the_repositorys_code_imports_what_everybody_with_diffusers_has():
    from daa_diffusers.hub.repository import PIPELINE_CODE, PLAIN_IMPORTS, top_level_imports

    for source in PIPELINE_CODE.values():
        imported = top_level_imports(PROJECT_ROOT / "daa_diffusers" / source)
        relative = {f"{name.removeprefix('.')}.py" for name in imported if name.startswith(".")}
        assert relative <= set(PIPELINE_CODE), source
        assert {name for name in imported if not name.startswith(".")} <= PLAIN_IMPORTS, source
