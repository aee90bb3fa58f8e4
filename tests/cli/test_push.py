"""`daa push`, run as people run it, against a Hub on the loopback interface."""

import pytest

from daa_diffusers import DAARestorationPipeline, RestorationUNet
from daa_diffusers.cli.app import main

from ..hub.hub_server import loopback_hub


@pytest.fixture
def folder(tmp_path):
    DAARestorationPipeline(RestorationUNet(width=4, depth=2)).save_pretrained(tmp_path / "mine")
    return tmp_path / "mine"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with loopback_hub(monkeypatch, tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_TOKEN", hub.write_token)
        yield hub


def test_a_folder_is_pushed(folder, hub, capsys):
    arguments = ["--private", "--revision", "v1", "--message", "First", "--license", "mit"]
    assert main(["push", str(folder), "org/mine", *arguments]) == 0
    assert capsys.readouterr().out.startswith(f"pushed: {hub.url}/org/mine/commit/")
    (commit,) = hub.commits
    assert (commit["revision"], commit["summary"]) == ("v1", "First") and hub.private["org/mine"]
    assert "license: mit" in (hub.revisions["org/mine"]["v1"] / "README.md").read_text()


def test_a_dry_run_lists_the_files_prints_the_card_and_sends_nothing(folder, hub, capsys):
    (folder / "notes.txt").write_text("x")
    assert main(["push", str(folder), "org/mine", "--dry-run"]) == 0
    said = capsys.readouterr().out
    for text in ("restorer/restoration_unet.py", "not sent notes.txt", "library_name: diffusers", "# mine"):
        assert text in said
    assert hub.requests == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "org/mine"], "`folder` 'nowhere' is not a bundled checkpoint"),
        (["daa-denois", "org/mine"], "did you mean 'daa-denoise'?"),
        (
            ["not/here", "org/mine"],
            "`folder` must be the folder of a pipeline or restorer, or a bundled name, got 'not/here'",
        ),
        (["daa-denoise", "mine"], '`repo_id` must be "owner/name"'),
        (["daa-denoise-research", "org/mine", "--license", "mit"], "under non-commercial-research"),
        (["daa-denoise", "org/mine", "--license", "foo"], "`--license` must be an identifier that the Hub lists"),
        (["daa-denoise", "org/mine", "--license", "apache2"], "did you mean 'apache-2.0'?"),
        (["daa-denoise", "org/mine", "--revision", "my branch"], "`--revision` must be a branch name"),
        (["daa-denoise", "org/mine", "--revision", 40 * "0"], "`--revision` must be a branch name, not a commit"),
        (["daa-denoise", "org/mine", "--card", "nowhere.md"], "`--card` must be a readable Markdown file"),
    ],
)
def test_what_cannot_be_pushed_is_said_in_a_line(arguments, message, hub, capsys):
    assert main(["push", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert hub.requests == []


def test_without_a_token_that_may_write_the_hubs_answer_is_passed_on(folder, hub, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert main(["push", str(folder), "org/mine"]) == 2
    error = capsys.readouterr().err
    assert "401" in error and "hf_wrong" not in error


def test_a_hub_that_cannot_be_reached_is_no_defect(folder, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("HF_TOKEN", "hf_some")
    assert main(["push", str(folder), "org/mine"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the Hub cannot be reached: ") and "defect" not in error


@pytest.mark.parametrize("arguments", [["push", "{folder}", "org/mine"], ["info", "org/absent"]], ids=["push", "info"])
def test_a_token_that_the_hub_refuses_is_one_line_with_the_way_to_another(folder, hub, capsys, monkeypatch, arguments):
    monkeypatch.setenv("HF_TOKEN", "wrong")
    assert main([one.format(folder=folder) for one in arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and "`hf auth login`" in said, said
