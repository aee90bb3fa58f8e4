"""Mixed precision: chosen where it is faster and changes nothing that matters."""

import numpy as np
import pytest
import torch
from torch import nn

from daa_diffusers import DAARestorationPipeline, FastRestorationUNet, ForeignRestorer
from daa_diffusers.pipelines import precision
from daa_diffusers.pipelines.precision import TOLERATED, automatic_precision, bfloat16_error, is_fast_in_bfloat16

HERE = is_fast_in_bfloat16(torch.device("cpu"))


@pytest.fixture
def pipe():
    torch.manual_seed(0)
    pipeline = DAARestorationPipeline(FastRestorationUNet.from_preset("fast-tiny"))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class Direct(nn.Module):
    """Gives the photo as a convolution has it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.conv(x)


class Inaccurate(nn.Module):
    """Takes off a large multiple of what a convolution loses in bfloat16."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return x + 100 * self.conv(x).float()


def test_auto_is_bfloat16_where_the_processor_has_it(pipe):
    assert pipe.enable_mixed_precision() == (torch.bfloat16 if HERE else None)
    pipe.disable_mixed_precision()
    assert pipe.mixed_precision is None


def test_results_hardly_differ_and_have_fine_steps(pipe):
    photo = np.random.default_rng(0).integers(0, 65536, (40, 56, 3), dtype=np.uint16)
    exact = pipe(photo, output_type="np").images[0].astype(float)
    pipe.enable_mixed_precision(torch.bfloat16)
    mixed = pipe(photo, output_type="np").images[0].astype(float)
    error = np.sqrt(np.mean((exact - mixed) ** 2)) / 65535
    assert 0 < error < TOLERATED and len(np.unique(mixed)) > 1000
    assert error == pytest.approx(bfloat16_error(pipe.restorer), rel=5)


@pytest.mark.parametrize("network, infinite", [(Direct(), True), (Inaccurate(), False)])
def test_a_network_that_loses_accuracy_stays_in_float32(network, infinite):
    pipeline = DAARestorationPipeline(ForeignRestorer.wrap(network, value_range=(0, 1)))
    assert pipeline.enable_mixed_precision() is None
    error = bfloat16_error(pipeline.restorer)
    assert (error == float("inf")) == infinite and error > TOLERATED


def test_the_choice_says_why(pipe, monkeypatch):
    choice = automatic_precision(pipe.restorer)
    assert (choice.dtype is not None) == HERE and ("has instructions" if HERE else "no instructions") in choice.reason
    assert automatic_precision(nn.Identity()).reason == "the restorer has no weights"
    assert "bfloat16" in automatic_precision(Direct().bfloat16()).reason
    monkeypatch.setattr(precision, "is_fast_in_bfloat16", lambda device: True)
    for network, words in ((Direct(), "too coarse"), (Inaccurate(), "more than 0.3/255")):
        choice = automatic_precision(ForeignRestorer.wrap(network, value_range=(0, 1)))
        assert choice.dtype is None and words in choice.reason


def test_another_type_is_refused(pipe):
    with pytest.raises(ValueError, match="`dtype` must be"):
        pipe.enable_mixed_precision("int8")
