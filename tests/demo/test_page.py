"""The page over HTTP: what it restores, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the page needs the extra demo")

from daa_diffusers.cli.app import main
from daa_diffusers.demo.adapt_job import Adaptation
from daa_diffusers.demo.page import build
from daa_diffusers.demo.restore_job import Limits, Work
from daa_diffusers.demo.serving import Settings, served

from ..conftest import PROJECT_ROOT


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    settings = Settings(
        limits=Limits(max_megapixels=1, max_file_mb=1, max_files=3),
        runs=tmp_path_factory.mktemp("runs"),
        device="cpu",
    )
    with served(settings) as found:
        yield found


@pytest.fixture(scope="module")
def client(address, tmp_path_factory):
    from gradio_client import Client

    return Client(address, verbose=False, analytics_enabled=False, download_files=str(tmp_path_factory.mktemp("got")))


def ask(client, name, files, checkpoint, strength=1.0):
    from gradio_client import handle_file

    given = [handle_file(file) for file in files] if isinstance(files, list) else files and handle_file(files)
    return client.predict(given, checkpoint, strength, False, False, False, api_name=name)


def status(address, path):
    """The HTTP status of a raw request."""
    try:
        with urllib.request.urlopen(address.rstrip("/") + path, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_photo_comes_back_as_daa_restore_writes_it(client, photos, checkpoint, tmp_path):
    _, pictures, report, result, *_ = ask(client, "/restore", photos["side.jpg"], checkpoint, 0.5)
    assert report.startswith("side.jpg: 128 x 96 pixels, jpeg of 8 bits") and len(pictures) == 2
    command = ["restore", photos["side.jpg"], "-o", str(tmp_path), "--checkpoint", checkpoint, "--device", "cpu"]
    assert main([*command, "--no-guard", "--strength", "0.5"]) == 0
    assert Path(result["value"]).name == "side_restored.jpg"
    assert Path(result["value"]).read_bytes() == (tmp_path / "side.jpg").read_bytes()


def test_without_choosing_anything_a_photo_comes_back_as_daa_restore_writes_it(client, photos, tmp_path):
    from gradio_client import handle_file

    _, _, report, result, *_ = client.predict(handle_file(photos["side.jpg"]), api_name="/restore")
    assert report.startswith("side.jpg: 128 x 96 pixels")
    assert main(["restore", photos["side.jpg"], "-o", str(tmp_path), "--device", "cpu"]) == 0
    assert Path(result["value"]).read_bytes() == (tmp_path / "side.jpg").read_bytes()


def test_errors_are_told_on_the_page(client, photos, checkpoint):
    for file, name, strength, wanted in (
        (photos["no photo.jpg"], checkpoint, 1.0, "could not be restored"),
        (photos["side.jpg"], "daa-denois", 1.0, "did you mean 'daa-denoise'"),
        (photos["side.jpg"], checkpoint, 1.0, "side.jpg: 128 x 96"),  # and the page goes on
        (None, checkpoint, 1.0, "choose photos first"),
        (photos["side.jpg"], None, 1.0, "choose a checkpoint first, such as daa-denoise"),
    ):
        report = ask(client, "/restore", file, name, strength)[2]
        assert wanted in report and "Traceback" not in report


def test_a_batch_comes_back_as_a_zip(client, photos, checkpoint):
    report, table, archive = ask(client, "/restore_all", [photos["side.jpg"], photos["no photo.jpg"]], checkpoint)
    assert report == "2 of 2, 1 failed" and Path(archive["value"]).name == "restored.zip"
    assert [row[:2] for row in table["data"]] == [["side.jpg", "restored"], ["no photo.jpg", "failed"]]
    report, *_ = ask(client, "/restore_all", 4 * [photos["side.jpg"]], checkpoint)
    assert report == "4 photos are more than the allowed 3"


def test_adapting_says_what_is_missing(client):
    assert client.predict(api_name="/adapting_progress")[0] == "No adaptation is running."
    assert client.predict([], [], "daa-denoise", 1, api_name="/adapt")[0] == "choose photos first"


@pytest.mark.parametrize("route", ["/gradio_api/file=", "/file=", "/static/", "/assets/", "/theme.css/"])
def test_no_file_of_the_machine_is_reachable(address, route, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    here = os.path.relpath("/etc/passwd", os.getcwd())
    for path in ("/etc/passwd", here, "../../../../../../etc/passwd", str(tmp_path / "secret.txt"), "README.md"):
        for spelt in (path, path.replace("/", "%2F"), path.replace("..", "%2e%2e")):
            assert status(address, route + spelt) in (403, 404, 405), route + spelt


def test_a_file_that_was_not_uploaded_is_not_restored(address, photos, checkpoint):
    """A request may name any path: only what lies among the uploads is taken."""
    for path in (photos["side.jpg"], "/etc/passwd", "../../README.md"):
        data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, checkpoint, 1.0, False, False, False]
        call = f"{address}gradio_api/call/restore"
        request = urllib.request.Request(
            call, json.dumps({"data": data}).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            event = json.load(answer)["event_id"]
        with urllib.request.urlopen(f"{call}/{event}", timeout=60) as answer:
            said = answer.read().decode()
        assert "event: error" in said and "pixels" not in said, said


def test_the_examples_are_still_there_when_old_files_were_cleared_away(tmp_path):
    from gradio.route_utils import delete_files_created_by_app

    page = build(Work(tmp_path / "work", Limits()), Adaptation(tmp_path / "runs", tmp_path / "work"))
    (examples,) = (block for block in page.blocks.values() if type(block).__name__ == "Dataset")
    delete_files_created_by_app(page, None)
    paths = [Path(sample["path"]) for (sample,) in examples.samples]
    assert len(paths) == 3 and all(path.is_file() and path.stat().st_size < 100_000 for path in paths)


def test_too_large_an_upload_is_refused(client, tmp_path, checkpoint):
    (tmp_path / "heavy.jpg").write_bytes(bytes(1_200_000))
    with pytest.raises(Exception, match=r"413|[Mm]ax(imum)? .*size|too large"):
        ask(client, "/restore", str(tmp_path / "heavy.jpg"), checkpoint)


def test_only_this_machine_is_listened_to_and_the_page_asks_nobody_else(address):
    assert address.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(address, timeout=30) as answer:
        page = answer.read().decode()
    for tag in ('src="http', 'href="http', 'url("http', "fonts.googleapis", "cdnjs"):
        assert tag not in page, tag


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--port", "99999"], "`--port` must be from 1 to 65535, got 99999"),
        (["--host", "192.0.2.99"], "cannot listen on 192.0.2.99: "),
        (["--port", "PORT"], "cannot listen on 127.0.0.1, port PORT: "),
        (["--checkpoint", "daa-denois"], "did you mean 'daa-denoise'"),
        (["--device", "gpu"], "`--device` 'gpu' cannot be used"),
        (["--allow-host", "http://example.org"], "`--allow-host` must be a host name"),
        (["--max-files", "0"], "`--max-files` must be a positive number, got 0"),
    ],
    ids=str,
)
def test_wrong_arguments_are_told_at_once(address, given, said, capsys):
    port = address.rstrip("/").rpartition(":")[2]
    arguments = [one.replace("PORT", port) for one in given]
    assert main(["demo", "--no-browser", *arguments]) == 2
    assert said.replace("PORT", port) in capsys.readouterr().err


@pytest.mark.slow
def test_daa_demo_ends_on_sigterm_and_leaves_nothing(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(PROJECT_ROOT)}
    command = [
        sys.executable,
        "-u",
        "-m",
        "daa_diffusers.cli",
        "demo",
        "--no-browser",
        "--runs",
        str(tmp_path / "runs"),
    ]
    with open(tmp_path / "said.txt", "wb") as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT)
    end = time.monotonic() + 200
    while b"Ctrl-C" not in (tmp_path / "said.txt").read_bytes():
        assert process.poll() is None and time.monotonic() < end, (tmp_path / "said.txt").read_text()
        time.sleep(0.2)
    assert list(tmp_path.glob("daa-demo-*"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert not list(tmp_path.glob("daa-demo-*")) and b"Traceback" not in (tmp_path / "said.txt").read_bytes()
