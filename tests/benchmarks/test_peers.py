"""Classic denoisers as rows of the comparison with peers."""

import importlib.util
from pathlib import Path

import pytest
import torch

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
