"""Losses, weights and random draws of noise-space adaptation."""

import pytest
import torch

from daa_diffusers.objectives.losses import charbonnier, contrastive
from daa_diffusers.objectives.schedules import NoiseSchedule, adaptation_weight


def test_contrastive_hinge():
    low, high = torch.tensor(0.2), torch.tensor(0.9)
    assert contrastive(low, high) == pytest.approx(0.1)  # the negative is far enough: only L+ / 2
    assert contrastive(high, low).item() == pytest.approx((0.9 + 0.9 - 0.2 + 0.1) / 2)


def test_half_precision_losses_are_taken_in_float32():
    x = torch.full((1, 3, 8, 8), 1000.0, dtype=torch.float16)
    assert torch.isfinite(charbonnier(x, torch.zeros_like(x)))  # 1000 squared overflows float16


@pytest.mark.parametrize("progress, share", [(0.0, 0.0), (0.5, 0.8483), (1.0, 0.98661), (7.0, 0.98661), (-1.0, 0.0)])
def test_paper_weight_ramp(progress, share):
    assert adaptation_weight("paper", 0.2, progress) == pytest.approx(0.2 * share, abs=1e-5)
    assert adaptation_weight("constant", 0.2, progress) == 0.2


def test_noise_levels_stay_between_the_gammas_of_the_range():
    schedule = NoiseSchedule(timestep_range=(1, 100))
    levels = schedule.draw((512, 1, 1, 1), generator=torch.Generator().manual_seed(0)).noise_level
    assert schedule.gammas[100] <= levels.min() and levels.max() <= schedule.gammas[0]
    assert levels.unique().numel() > 500  # continuous, not one value per step
