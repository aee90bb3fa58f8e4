"""Pipelines pushed to the Hub, a server on the loopback interface: files, cards, licenses."""

import json
import os
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError
from safetensors.torch import load_file, save_file

from daa_diffusers import DAARestorationPipeline, RestorationUNet
from daa_diffusers.errors import CheckpointError, ConfigurationError
from daa_diffusers.hub.publish import check_revision, prepare

from .conftest import CODE, FILES, build, same


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "saved"
    build(unet=False).save_pretrained(folder)
    return folder


# --- what is sent ---


def test_a_pushed_pipeline_comes_back_in_one_commit(writable_hub, tmp_path):
    address = build(unet=False).push_to_hub("org/mine", private=True, commit_message="First weights")
    assert address.startswith(f"{writable_hub.url}/org/mine/commit/")
    (commit,) = writable_hub.commits
    assert (commit["revision"], commit["summary"]) == ("main", "First weights")
    assert set(commit["files"]) == FILES | CODE
    assert writable_hub.private["org/mine"]
    loaded = DAARestorationPipeline.from_pretrained("org/mine", cache_dir=tmp_path / "cache")
    assert same(loaded, build(unet=False))
    assert not any(name.endswith(".py") for name in writable_hub.downloaded())  # no foreign code is even fetched


def test_a_pull_request_and_a_bare_name(writable_hub):
    address = build(unet=False).push_to_hub(
        "mine", create_pr=True, commit_message="Weights", commit_description="Of last night"
    )
    assert address == f"{writable_hub.url}/org/mine/discussions/1"
    (commit,) = writable_hub.commits
    assert (commit["repo"], commit["summary"], commit["description"]) == ("org/mine", "Weights", "Of last night")


def test_a_branch_is_made_and_the_main_one_left_alone(writable_hub, tmp_path):
    build(unet=False).push_to_hub("org/mine")
    build(1, unet=False).push_to_hub("org/mine", revision="v2")
    assert [(commit["revision"], commit["repo"]) for commit in writable_hub.commits] == [
        ("main", "org/mine"),
        ("v2", "org/mine"),
    ]
    for revision, seed in (("main", 0), ("v2", 1)):
        loaded = DAARestorationPipeline.from_pretrained("org/mine", revision=revision, cache_dir=tmp_path / "cache")
        assert same(loaded, build(seed, unet=False))


def test_the_token_may_be_given_and_a_wrong_one_is_the_hubs_own_error(writable_hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HfHubHTTPError, match="401"):
        build(unet=False).push_to_hub("org/mine", token="hf_wrong")
    assert writable_hub.commits == []
    build(unet=False).push_to_hub("org/mine", token="hf_write")
    assert len(writable_hub.commits) == 1


def test_the_noise_predictor_goes_along_with_its_code(writable_hub, tmp_path):
    build().push_to_hub("org/mine")
    assert {"unet/config.json", "unet/daa_unet.py"} < set(writable_hub.commits[0]["files"])
    options = {"cache_dir": tmp_path / "cache", "load_noise_predictor": True}
    assert DAARestorationPipeline.from_pretrained("org/mine", **options).unet is not None


def test_variants_and_shards_are_sent(tmp_path):
    big = DAARestorationPipeline(RestorationUNet(width=32, depth=2))
    big.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    files = prepare(tmp_path / "shards", "org/mine").files
    assert "restorer/diffusion_pytorch_model.safetensors.index.json" in files
    assert sum(name.endswith(".safetensors") for name in files) > 1
    build(unet=False).to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16")
    files = prepare(tmp_path / "half", "org/mine").files
    assert "restorer/diffusion_pytorch_model.fp16.safetensors" in files
    assert "stored in float16" in files["README.md"].decode()


def test_only_what_belongs_to_a_pipeline_is_sent(saved):
    for name in (".env", "notes.txt", "optimizer.safetensors", "restorer/diffusion_pytorch_model.bin", "photo.jpg"):
        (saved / name).write_text("x")
    (saved / "LICENSE").write_text("MINE")
    upload = prepare(saved, "org/mine")
    assert set(upload.files) == FILES | CODE | {"LICENSE"}
    assert set(upload.skipped) == {
        ".env",
        "notes.txt",
        "optimizer.safetensors",
        "photo.jpg",
        "restorer/diffusion_pytorch_model.bin",
    }


# --- nothing of this machine ---


def test_a_run_is_pushed_with_its_record_and_without_the_machines_paths(tmp_path):
    run = tmp_path / "somebodys run"
    build(unet=False).save_pretrained(run / "pipeline")
    options = {
        "clean": ["/home/somebody/photos/bsds"],
        "real": ["~/private/noisy", "C:\\Users\\somebody\\canon"],
        "degradation": {"type": "camera"},
        "variant": "hybrid",
        "init_from": str(run / "start"),
        "batch_size": 8,
        "patch": 64,
    }
    photos = {"real": [{"folder": "noisy", "photos": 9, "skipped": {"anna at the beach.jpg": "it is text"}}]}
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
    with pytest.raises(CheckpointError, match="'LICENSE' in .* is a link to a place outside the folder"):
        prepare(saved, "org/mine")


def test_a_folder_that_is_not_whole_is_refused(saved, tmp_path):
    (saved / "restorer/config.json").unlink()
    with pytest.raises(CheckpointError, match="missing files: restorer/config.json"):
        prepare(saved, "org/mine")
    with pytest.raises(CheckpointError, match="an existing folder or weight file"):
        prepare(tmp_path / "absent", "org/mine")


@pytest.mark.parametrize("repo_id", ["mine", "a/b/c", "org/..", "org/my weights", ""])
def test_a_repository_is_owner_and_name(saved, repo_id):
    with pytest.raises(ConfigurationError, match='`repo_id` must be "owner/name", got'):
        prepare(saved, repo_id)


# --- licenses and cards ---


def test_bundled_weights_say_that_they_are_for_research_only():
    name = "daa-denoise-research"
    upload = prepare(name, "org/copy")
    head = upload.card.split("---")[1]
    assert "license: other" in head and "license_name: non-commercial-research" in head
    assert "| identity |" in upload.card and "RENOIR" in upload.card
    with pytest.raises(
        ConfigurationError, match="`license` is 'mit', but these weights are under non-commercial-research"
    ):
        prepare(name, "org/copy", license="mit")


# "daa-denoise-plain" is no longer bundled; "daa-denoise" was for research only when records did not state licenses
@pytest.mark.parametrize("start", ["daa-denoise-research", "daa-deblur", "daa-denoise-plain", "daa-denoise"])
def test_weights_that_start_from_bundled_ones_inherit_their_license(saved, start):
    (saved / "training.json").write_text(json.dumps({"options": {"init_from": start}}))
    assert "license_name: non-commercial-research" in prepare(saved, "org/mine").card
    with pytest.raises(ConfigurationError, match="`license` is 'apache-2.0'"):
        prepare(saved, "org/mine", license="apache-2.0")


def test_what_started_from_a_renamed_checkpoint_stays_for_research_whatever_is_stated(saved):
    record = {"license": "mit", "options": {"init_from": "daa-denoise-plain"}}
    (saved / "training.json").write_text(json.dumps(record))
    assert "license_name: non-commercial-research" in prepare(saved, "org/mine").card


def test_a_loaded_pipeline_takes_its_record_along_and_its_numbers_while_they_hold(writable_hub, caplog):
    pipeline = DAARestorationPipeline.from_pretrained("daa-denoise-research")
    pipeline.push_to_hub("org/copy")
    pushed = writable_hub.revisions["org/copy"]["main"]
    assert "license_name: non-commercial-research" in (pushed / "README.md").read_text()
    assert (pushed / "evaluation.json").is_file() and (pushed / "training.json").is_file()
    with torch.no_grad():
        pipeline.restorer.conv_out.bias += 1
    pipeline.push_to_hub("org/other")
    assert "the weights may have changed after their evaluation" in caplog.text
    pushed = writable_hub.revisions["org/other"]["main"]
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
    with pytest.raises(ConfigurationError, match="`card` states license: apache-2.0, .*s-lab-license-1.0"):
        prepare(saved, "org/mine", card=tmp_path / "card.md")
    with pytest.raises(ConfigurationError, match="`card` must be a readable Markdown file"):
        prepare(saved, "org/mine", card=tmp_path / "absent.md")
    (tmp_path / "card.md").write_text("---\nlicense: [\n---\n# Mine\n")
    with pytest.raises(ConfigurationError, match="`card` has metadata that cannot be read"):
        prepare(saved, "org/mine", card=tmp_path / "card.md")


def test_a_rendered_card_is_rendered_again_for_another_name(saved):
    (saved / "README.md").write_text(prepare(saved, "org/mine").card)
    assert 'from_pretrained("org/other")' in prepare(saved, "org/other").card


# --- arguments that the Hub would refuse ---


@pytest.mark.parametrize(
    "argument", [{"license": "apache 2"}, {"license": ["mit"]}, {"revision": "a..b"}, {"revision": 2}]
)
def test_a_license_or_revision_that_the_hub_refuses_is_refused_before_any_request(writable_hub, argument):
    with pytest.raises(ConfigurationError, match=f"`{next(iter(argument))}` must be "):
        build(unet=False).push_to_hub("mine", **argument)
    with pytest.raises(ConfigurationError, match=f"`{next(iter(argument))}` must be "):
        build(unet=False).restorer.push_to_hub("mine", **argument)
    assert writable_hub.requests == []


def test_revisions_are_those_that_git_takes():
    for name in ("v2", "refs/pr/3", "feature/new-weights", "a.b", "ü", "0" * 39):
        check_revision(name)
    for name in (
        "",
        "a b",
        "-a",
        "a..b",
        "a/",
        "/a",
        "a//b",
        ".a",
        "a/.b",
        "a.lock",
        "a.lock/b",
        "a.",
        "@",
        "a@{b",
        "a\\b",
        "a~1",
    ):
        with pytest.raises(ConfigurationError, match="`revision` must be"):
            check_revision(name)


def test_licenses_without_an_identifier_of_the_hub_are_named_under_other(saved, tmp_path):
    assert "license: mit\n" in prepare(saved, "org/mine", license="MIT").card
    (saved / "training.json").write_text(json.dumps({"license": "house-license-2"}))
    assert "license: other\nlicense_name: house-license-2\n" in prepare(saved, "org/mine").card


def test_arguments_of_diffusers_are_known_and_others_named(writable_hub):
    with pytest.raises(ValueError, match="`safe_serialization` must be True"):
        build(unet=False).push_to_hub("org/mine", safe_serialization=False)
    with pytest.raises(TypeError, match="push_to_hub takes no argument `subfolder`, `upload`"):
        build(unet=False).push_to_hub("org/mine", subfolder="a", upload="b")
    assert writable_hub.requests == []
    assert build(unet=False).push_to_hub("org/mine", safe_serialization=True)
