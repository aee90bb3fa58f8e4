"""Every command in an empty home: it leaves no file there that it does not need, and talks to this machine alone."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from skimage import data

from daa_diffusers import DAARestorationPipeline, DAAUNet2DConditionModel, RestorationUNet

from ..conftest import PROJECT_ROOT
from ..hub.hub_server import loopback_hub

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

DAA = ["-m", "daa_diffusers.cli"]
TRAIN = [str(PROJECT_ROOT / "examples" / "train_daa.py")]
# Command -> patterns of the files below the home that it may leave, and why.
MAY_LEAVE = {
    "bulk": [r"\.ray/auth_token"],  # Ray's, so that no other user's processes join the cluster
    "train, with trackio": [r"\.cache/huggingface/trackio/.+"],  # asked for by --report_to trackio
    "restore, from the Hub": [r"\.cache/huggingface/.+"],  # the checkpoint that was downloaded
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with noisy photos, a checkpoint with its noise predictor, and one photo."""
    folder = tmp_path_factory.mktemp("files")
    draws = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for number in range(4):
        photo = data.coffee()[40 * number : 40 * number + 128, 100:260] + draws.normal(0, 15, (128, 160, 3))
        Image.fromarray(photo.clip(0, 255).round().astype(np.uint8)).save(folder / "photos" / f"{number}.png")
    for name in ("one", "clean"):
        (folder / name).mkdir()
    Image.fromarray(data.astronaut()[:128, :128]).save(folder / "clean" / "0.png")
    shutil.copy(folder / "photos" / "0.png", folder / "one")
    torch.manual_seed(0)
    sizes = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 8}
    DAARestorationPipeline(RestorationUNet(width=4, depth=2), DAAUNet2DConditionModel(**sizes)).save_pretrained(
        folder / "tiny"
    )
    return folder


@pytest.fixture(scope="module")
def strace():
    """The program that sees every connection, those of libraries written in C++ too."""
    program = shutil.which("strace")
    if program is None or subprocess.run([program, "-o", os.devnull, "true"], check=False).returncode:
        pytest.skip("no strace that works here (apt install strace)")
    return program


@pytest.fixture
def temporary():
    """A short path, below which Ray has its sockets; a socket's path has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="daa", dir="/tmp") as folder:
        yield folder


def environment_of(home, temporary, **more):
    """That of a person who has set nothing."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV") if name in os.environ}
    home.mkdir()
    kept |= {"HOME": str(home), "TMPDIR": temporary, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
    return {**kept, "PYTHONPATH": str(PROJECT_ROOT), "RAY_worker_niceness": "0", **more}


def beyond(trace):
    """What a trace shows of connections and datagrams to other machines."""
    own = {address.address for one in psutil.net_if_addrs().values() for address in one}
    found = []
    for line in trace.read_text(errors="replace").splitlines():
        call = re.search(r"\b(connect|sendto|sendmsg|sendmmsg)\(", line)
        address = re.search(r'inet_addr\("([\d.]+)"\)|inet_pton\(AF_INET6, "([\da-f:.]+)"', line)
        if not call or not address:
            continue
        machine = (address[1] or address[2]).removeprefix("::ffff:")
        here = machine.startswith("127.") or machine in ("::1", "0.0.0.0", "::") or machine in own
        # a datagram socket that is connected sends nothing: Ray asks so which address this machine has
        asks = call[1] == "connect" and machine == "8.8.8.8"
        if not (here or asks):
            found.append(line)
    return found


def left_in(home):
    return [str(path.relative_to(home)) for path in sorted(home.rglob("*")) if not path.is_dir()]


def check(name, home, trace):
    allowed = MAY_LEAVE.get(name, [])
    assert [file for file in left_in(home) if not any(re.fullmatch(one, file) for one in allowed)] == []
    assert beyond(trace) == []


RUNS = {
    "help": [*DAA, "--help"],
    "restore": [*DAA, "restore", "one", "-o", "out"],
    "restore, by ONNX Runtime": [*DAA, "restore", "one", "-o", "out", "--checkpoint", "tiny", "--backend", "onnx"],
    "info": [*DAA, "info", "daa-denoise"],
    "convert": [*DAA, "convert", "tiny", "tiny.onnx"],
    "fit-noise": [*DAA, "fit-noise", "photos", "--output", "noise.yaml"],
    "evaluate": [*DAA, "evaluate", "photos", "--checkpoint", "tiny"],
    "rank": [*DAA, "rank", "photos", "--checkpoint", "tiny"],
    "adapt": [*DAA, "adapt", "photos", "--checkpoint", "tiny", "--minutes", "0.02"],
    "bulk": [*DAA, "bulk", "one", "-o", "out", "--checkpoint", "tiny"],
    "train, with trackio": [
        *TRAIN, "--preset", "tiny", "--init_from", "tiny", "--clean", "clean", "--real", "photos", "--steps", "2",
        "--patch", "32", "--batch_size", "1", "--validate_every", "0", "--report_to", "trackio", "--output_dir", "run",
    ],
    "the Python API": [
        "-c", "import numpy, daa_diffusers; "
        "pipe = daa_diffusers.DAARestorationPipeline.from_pretrained('daa-denoise'); "
        "pipe(numpy.zeros((32, 32, 3), numpy.uint8)); "
        "import onnxruntime",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_a_command_tells_nobody_and_leaves_nothing(name, files, strace, tmp_path, temporary):
    if name == "bulk":
        pytest.importorskip("ray")
    if "trackio" in name:
        pytest.importorskip("trackio")
    shutil.copytree(files, tmp_path / "work")
    home, trace = tmp_path / "home", tmp_path / "trace.txt"
    command = [strace, "-f", "-e", "trace=network", "-o", trace, sys.executable, *RUNS[name]]
    done = subprocess.run(
        command, cwd=tmp_path / "work", env=environment_of(home, temporary), capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    check(name, home, trace)


def test_the_page_tells_nobody_and_leaves_nothing(files, strace, tmp_path, temporary):
    pytest.importorskip("gradio")
    gradio_client = pytest.importorskip("gradio_client")
    home, trace = tmp_path / "home", tmp_path / "trace.txt"
    program = [sys.executable, "-u", *DAA, "demo", "--no-browser", "--runs", str(tmp_path / "runs")]
    command = [strace, "-f", "-e", "trace=network", "-o", str(trace), *program]
    with open(tmp_path / "said.txt", "wb") as said:
        process = subprocess.Popen(command, env=environment_of(home, temporary), stdout=said, stderr=subprocess.STDOUT)
    end = time.monotonic() + 300
    while not (address := re.search(r"(http://\S+) \(Ctrl-C", (tmp_path / "said.txt").read_text())):
        assert process.poll() is None and time.monotonic() < end, (tmp_path / "said.txt").read_text()
        time.sleep(0.2)
    with urllib.request.urlopen(address[1], timeout=60) as answer:
        assert answer.status == 200
    client = gradio_client.Client(address[1], verbose=False, analytics_enabled=False, download_files=str(tmp_path))
    report = client.predict(gradio_client.handle_file(str(files / "one" / "0.png")), api_name="/restore")[2]
    assert report.startswith("0.png: 160 x 128 pixels"), report
    (page,) = psutil.Process(process.pid).children()
    page.send_signal(signal.SIGTERM)
    assert process.wait(120) == 130
    check("demo", home, trace)
    assert [path.name for path in Path(temporary).iterdir() if path.name != "torchinductor_root"] == []


@pytest.mark.parametrize("name", ["push", "restore, from the Hub"])
def test_the_hub_alone_is_asked_and_told_no_more_than_it_needs(name, files, strace, tmp_path, temporary, monkeypatch):
    home, trace = tmp_path / "home", tmp_path / "trace.txt"
    with loopback_hub(monkeypatch, tmp_path / "hub") as hub:
        if name != "push":
            DAARestorationPipeline.from_pretrained(files / "tiny").push_to_hub("org/mine", token=hub.write_token)
        arguments = {
            "push": [*DAA, "push", str(files / "tiny"), "org/mine"],
            "restore, from the Hub": [*DAA, "restore", str(files / "one"), "-o", "out", "--checkpoint", "org/mine"],
        }[name]
        more = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": hub.write_token}
        command = [strace, "-f", "-s", "4000", "-e", "trace=network", "-o", trace, sys.executable, *arguments]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment_of(home, temporary, **more),
            capture_output=True,
            text=True,
            timeout=600,
        )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    check(name, home, trace)
    agents = set(re.findall(r"[Uu]ser-[Aa]gent: ([^\\\r\n]+)", trace.read_text(errors="replace")))
    assert not [agent for agent in agents if "session" in agent or "torch" in agent], agents


def test_without_the_switch_the_measurement_would_see_it(tmp_path, temporary):
    """ONNX Runtime by itself leaves a device id: what the tests above look for is there to be found."""
    pytest.importorskip("onnxruntime")
    home = tmp_path / "home"
    environment = {**environment_of(home, temporary), "ORT_DISABLE_TELEMETRY": "0"}
    statement = "import daa_diffusers, onnxruntime, time; time.sleep(2)"  # what a person has set stays
    subprocess.run([sys.executable, "-c", statement], env=environment, check=True, timeout=300)
    assert left_in(home), "nothing is left: the switch can go"
