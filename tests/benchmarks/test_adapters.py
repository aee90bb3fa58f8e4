"""The benchmarks of adapters and of `daa rank`: they resume, and report every row."""

import importlib.util
import shutil
import sys

import pytest
import torch

from daa_diffusers.sources.demo_photos import demo_photos

from .test_benchmarks import ROOT, run


@pytest.fixture
def data(tmp_path):
    made = demo_photos(tmp_path / "made")
    for kind in ("bsds", "highres"):
        shutil.copytree(made.clean, tmp_path / "data" / "clean" / kind)
    for name in ("renoir", "polyu", "sidd_small"):
        for part in ("train", "val"):
            for kind, source in (("noisy", made.real_val_noisy), ("clean", made.real_val_clean)):
                folder = tmp_path / "data" / "real_noise" / name / part / kind
                folder.mkdir(parents=True)
                for photo in sorted(source.iterdir())[:3]:
                    shutil.copy(photo, folder)
    return tmp_path / "data"


def benchmark(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_chance_is_the_share_of_orders_that_correlate_as_strongly():
    ranking = benchmark("ranking")
    values = [float(value) for value in range(8)]
    assert ranking.spearman(values, values) == pytest.approx(1) and ranking.chance(values, values) < 0.01
    assert ranking.spearman(values, values[::-1]) == pytest.approx(-1) and ranking.chance(values, values[::-1]) < 0.01
    torch.manual_seed(0)
    assert ranking.chance([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == pytest.approx(1 / 3, abs=0.03)


@pytest.mark.slow
def test_the_adapter_benchmark_resumes_and_reports_every_row(data, tmp_path):
    options = ("--data", data, "--steps", "3", "--output_dir", "out", "--report", "r.md")
    printed = run("benchmarks/adapters.py", *options, cwd=tmp_path)
    assert "renoir, full, 0.0001: trained" in printed and "PolyU, Canon" in printed and "bias, extracted" in printed
    again = run("benchmarks/adapters.py", *options, cwd=tmp_path)
    assert ": trained" not in again and "| full" in again
    assert str(tmp_path) not in (tmp_path / "r.md").read_text().replace(str(data), "")


@pytest.mark.slow
def test_the_ranking_benchmark_reports_every_score(data, tmp_path):
    options = ("--data", data, "--steps", "2", "--output_dir", "out", "--report", "r.md")
    printed = run("benchmarks/ranking.py", *options, cwd=tmp_path)
    assert "## val" in printed and "| critic, all g" in printed and "| what was removed" in printed
