"""Classic denoisers as rows of the comparison with peers."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from daa_diffusers import DAARestorationPipeline

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "peers.py"


@pytest.fixture(scope="module")
def peers():
    pytest.importorskip("skimage", reason="the classic denoisers are of scikit-image")
    spec = importlib.util.spec_from_file_location("peers", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("sigma", [0.05, 0.15])
def test_the_noise_level_is_estimated_and_nl_means_removes_most_of_it(peers, sigma):
    draws = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0.3, 0.7, 48).expand(1, 3, 48, 48)
    noisy = ramp + sigma * torch.randn(1, 3, 48, 48, generator=draws)
    assert peers.noise_level(noisy[0].permute(1, 2, 0).double().numpy()) == pytest.approx(sigma, rel=0.1)
    pipeline = DAARestorationPipeline(peers.Classic(peers.nl_means))
    pipeline.set_progress_bar_config(disable=True)
    restored = pipeline(noisy.clamp(0, 1), output_type="pt").images
    assert (restored - ramp).std() < 0.5 * (noisy - ramp).std()


def test_results_of_other_programs_are_rows_beside_the_bundled_restorer(peers, tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "SIDE", 32)
    degraded_folder, clean_folder = peers.DOMAINS["levin"].val
    draws = np.random.default_rng(0)
    clean = draws.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    results = tmp_path / "results" / "OTHER" / "levin"
    for folder, image in ((clean_folder, clean), (degraded_folder, clean // 2)):
        (tmp_path / folder).mkdir(parents=True)
        name = "im2.png" if folder == clean_folder else "2_4.png"
        Image.fromarray(image).save(tmp_path / folder / name)
    results.mkdir(parents=True)
    Image.fromarray(clean).save(results / "2_4.png")
    (results / "seconds.json").write_text(json.dumps({"2_4.png": 12.5}))
    table = peers.table("deblur", tmp_path, tmp_path, tmp_path / "results")
    rows = {line.split("|")[1].strip(): line for line in table.splitlines()}
    assert {"identity", "daa-deblur", "OTHER"} <= set(rows)
    assert "100.00" in rows["OTHER"] and rows["OTHER"].endswith("| 12.50 |")  # the clean photo itself
