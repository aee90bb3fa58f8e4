"""The benchmarks and the bundling script run, on small folders and networks."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from daa_diffusers import DAARestorationPipeline, DAAUNet2DConditionModel, NoiseSpaceAdaptation, RestorationUNet
from daa_diffusers.hub.licenses import license_of
from daa_diffusers.objectives.base import Batch
from daa_diffusers.objectives.schedules import NoiseSchedule
from daa_diffusers.sources.demo_photos import demo_photos
from daa_diffusers.sources.folders import PhotoFolder

ROOT = Path(__file__).resolve().parents[2]


def run(script, *arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def joint_step():
    spec = importlib.util.spec_from_file_location("joint_step", ROOT / "benchmarks" / "joint_step.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_joint_step_benchmark_reports_time_memory_and_what_was_not_measured(tmp_path):
    options = ("--sizes", "tiny", "--rows", "ours", "--batch", "1", "--patch", "16", "--threads", "1", "--repeats", "1")
    printed = run("benchmarks/joint_step.py", *options, "--devices", "cpu", "--report", "r.md", cwd=tmp_path)
    assert "| tiny, 1 x 16 px | ours |" in printed
    report = (tmp_path / "r.md").read_text()
    assert "| tiny, 1 x 16 px | plain reading |" in report and "not measured" in report
    assert "--repeats 1" in report and str(tmp_path) not in report


def test_the_plain_reading_is_the_same_step():
    benchmark = joint_step()
    sizes = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 8}
    torch.manual_seed(0)
    step = NoiseSpaceAdaptation(
        RestorationUNet(width=4, depth=2), DAAUNet2DConditionModel(**sizes, dropout=0.0), weight_schedule="constant"
    )
    plain = benchmark.PlainNoisePredictor(**sizes, dropout=0.0)
    plain.load_state_dict(step.unet.state_dict())
    images = [torch.rand(4, 3, 16, 16) for _ in range(3)]
    draws = NoiseSchedule().draw(images[0].shape)
    loss = step(Batch(*images), draws=draws).loss
    loss.backward()
    ours = [p.grad.clone() for p in step.parameters()]
    step.zero_grad()
    plain_loss = benchmark.plain_loss(step.restorer, plain, *images, draws)
    plain_loss.backward()
    torch.testing.assert_close(loss, plain_loss)
    for one, other in zip(ours, [*step.restorer.parameters(), *plain.parameters()], strict=True):
        torch.testing.assert_close(one, other.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "card, peak",
    [("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA L40S", 362), ("NVIDIA L4", 121), ("X", None)],
)
def test_the_peak_of_a_card_follows_from_its_name(card, peak):
    assert joint_step().peak_tflops(card) == peak


def test_the_rows_of_a_card_hold_speed_and_the_share_of_its_peak(monkeypatch):
    benchmark = joint_step()
    monkeypatch.setattr(benchmark, "CUDA_STEPS", 1)
    rows = list(benchmark.cuda_rows(("tiny", 1, 16), torch.device("cpu"), 790.0, 1))
    names, speeds = zip(*[(row.split("|")[1].strip(), float(row.split("|")[3])) for row in rows], strict=True)
    assert names == ("plain reading", "ours, not compiled", "ours") and speeds[0] == 1 and min(speeds) > 0
    assert rows[0].split("|")[4].strip() == "" and float(rows[2].split("|")[4]) >= 0


def test_bundling_stores_half_precision_and_no_paths_of_the_machine(tmp_path):
    folder = tmp_path / "run"
    DAARestorationPipeline(RestorationUNet(width=4, depth=2)).save_pretrained(folder / "pipeline")
    record = {"options": {"clean": ["/home/somebody/photos/clean/bsds"], "real": []}, "steps": 3, "photos": {}}
    (folder / "run.json").write_text(json.dumps({**record, "versions": {}}))
    run("examples/bundle_checkpoint.py", folder, "mine", "--folder", tmp_path / "bundled", cwd=tmp_path)
    assert "somebody" not in (tmp_path / "bundled" / "mine" / "training.json").read_text()
    loaded = DAARestorationPipeline.from_pretrained(tmp_path / "bundled" / "mine")
    assert loaded.dtype == torch.float32
    weights = next((tmp_path / "bundled" / "mine").rglob("*.safetensors"))
    assert weights.stat().st_size < 2.5 * sum(p.numel() for p in loaded.restorer.parameters()) + 8192


@pytest.mark.parametrize(("first", "license"), [("clean/free", "cc-by-4.0"), ("clean/bsds", "non-commercial-research")])
def test_bundled_weights_are_free_where_the_photos_of_every_stage_are(tmp_path, first, license):
    runs = [tmp_path / "first", tmp_path / "second"]
    for run_folder, clean, start in zip(runs, (first, "photos/lomiri"), (None, runs[0] / "pipeline"), strict=True):
        DAARestorationPipeline(RestorationUNet(width=4, depth=2)).save_pretrained(run_folder / "pipeline")
        options = {"clean": [f"/data/{clean}"], "init_from": start and str(start)}
        record = {"options": options, "steps": 3, "photos": {}, "versions": {}}
        (run_folder / "run.json").write_text(json.dumps(record))
    run("examples/bundle_checkpoint.py", runs[1], "mine", "--folder", tmp_path / "bundled", cwd=tmp_path)
    made = json.loads((tmp_path / "bundled" / "mine" / "training.json").read_text())
    found = license_of(made)
    assert (found.key, found.non_commercial) == (license, first == "clean/bsds")
    assert set(made["sources"]) == {Path(first).name, "lomiri"}


@pytest.mark.slow
def test_the_start_of_the_command_is_measured_with_its_imports(tmp_path):
    printed = run("benchmarks/startup.py", "--repeats", "1", "--shown", "3", cwd=tmp_path)
    assert "peak MiB" in printed and "| `torch` " in printed


@pytest.mark.slow
def test_the_adaptation_benchmark_resumes_and_reports_every_row(tmp_path):
    made = demo_photos(tmp_path / "made")
    data = tmp_path / "data"
    for kind in ("bsds", "highres"):
        shutil.copytree(made.clean, data / "clean" / kind)
    real = data / "real_noise" / "renoir"
    shutil.copytree(made.real_train_noisy, real / "train" / "noisy")
    shutil.copytree(made.real_train_noisy, real / "train" / "clean")
    shutil.copytree(made.real_val_noisy, real / "val" / "noisy")
    shutil.copytree(made.real_val_clean, real / "val" / "clean")
    arguments = ("--data", data, "--domains", "renoir", "--steps", "3", "--output_dir", "out")
    arguments = (*arguments, "--scores", "scores", "--report", "report.md")
    first = run("benchmarks/adaptation.py", *arguments, "--rows", "control", cwd=tmp_path)
    assert "| identity" in first and "| control" in first and "| adapted" not in first
    rows = ("control", "DANN", "adapted", "oracle")
    second = run("benchmarks/adaptation.py", *arguments, "--rows", *rows, "--seeds", "2", "--jobs", "2", cwd=tmp_path)
    assert "renoir, control, seed 0" not in second and "renoir, control, seed 1" in second  # what is there is kept
    assert all(f"| {row} " in second for row in rows) and "gap closed" in second
    table = (tmp_path / "report.csv").read_text()
    assert table.count("renoir,control") == table.count("renoir,adapted") == table.count("renoir,identity") == 10
    for picture in ("renoir.png", "renoir_steps.png"):
        assert (tmp_path / "report" / picture).stat().st_size > 1000
    assert str(tmp_path) not in (tmp_path / "report.md").read_text().split("\n\n", 2)[2]
    shutil.rmtree(tmp_path / "out")  # a clone holds the scores and no runs
    again = run("benchmarks/adaptation.py", *arguments, "--rows", *rows, "--seeds", "2", "--only-report", cwd=tmp_path)
    assert again.split("## renoir")[1].strip() in second


@pytest.mark.parametrize("kind", ["camera", "phone", "grain", "enlarged", "coded"])
def test_photos_of_our_own_are_made_once_and_hold_correlated_noise(tmp_path, monkeypatch, kind):
    made = demo_photos(tmp_path / "made")
    for part in ("train", "val"):
        shutil.copytree(made.real_val_clean, tmp_path / "data" / "real_noise" / "polyu" / part / "clean")
    import camera_photos

    monkeypatch.setattr(camera_photos, "OWN_PHOTOS", tmp_path)
    camera_photos.make_photos(kind, tmp_path / "data")
    own = tmp_path / f"{kind}_photos"
    noisy, clean = PhotoFolder(own / "val" / "noisy"), PhotoFolder(own / "val" / "clean")
    noise = noisy.photo(0).float() - clean.photo(0).float()
    neighbors = torch.corrcoef(torch.stack([noise[1, :, 1:].flatten(), noise[1, :, :-1].flatten()]))[0, 1]
    assert float(noise.std()) > 5 and float(neighbors) > 0.4
    last = own / "train" / "noisy" / "000.png"
    before = last.stat().st_mtime_ns
    camera_photos.make_photos(kind, tmp_path / "data")
    assert last.stat().st_mtime_ns == before
