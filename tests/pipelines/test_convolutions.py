"""Fused convolutions: the result of plain ones, or plain ones themselves where torch has no such operator."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from daa_diffusers import FastRestorationUNet
from daa_diffusers.pipelines import convolutions, run
from daa_diffusers.pipelines.strips import strips_of

from .conftest import quiet
from .contract import photo

DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(params=["fused", "plain"])
def kind(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(convolutions, "can_fuse", lambda dtype: False)
    elif not all(convolutions.can_fuse(dtype) for dtype in DTYPES):
        pytest.skip("torch has no fused convolutions on this processor")
    return request.param


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("options", [{}, {"slope": 0.0}, {"slope": 0.2}, {"adds": True}])
def test_rows_are_those_of_plain_layers(kind, dtype, count, options):
    torch.manual_seed(0)
    rows = torch.randn(count, 12, 9, 17).to(dtype, memory_format=torch.channels_last)
    weight, bias = torch.randn(20, 12, 3, 3).to(dtype) / 10, torch.randn(20).to(dtype)
    memory = torch.randn(count, 20, 12, 17).to(dtype, memory_format=torch.channels_last)
    target = memory[:, :, 3:10]  # as in a buffer of rows: with two photos, not contiguous
    expected = F.conv2d(rows.float(), weight.float(), bias.float(), padding=(0, 1))
    if options.get("adds"):
        expected += target.float()
    if "slope" in options:
        expected = F.leaky_relu(expected, options["slope"])
    around = memory[:, :, [0, 1, 2, 10, 11]].clone()
    convolutions.convolve(rows, weight, bias, target, **options)
    assert torch.allclose(target.float(), expected, **({"rtol": 0.02, "atol": 0.02} if dtype == DTYPES[1] else {}))
    assert torch.equal(memory[:, :, [0, 1, 2, 10, 11]], around)


def test_an_activation_of_a_sum_is_refused(kind):
    rows, weight, target = torch.zeros(1, 2, 4, 3), torch.zeros(2, 2, 3, 3), torch.zeros(1, 2, 2, 3)
    with pytest.raises(ValueError, match="`slope` must be None with `adds`, got 0.0"):
        convolutions.convolve(rows, weight, None, target, slope=0.0, adds=True)


@pytest.mark.parametrize("mixed", [False, True])
def test_strips_give_the_whole_with_either(kind, mixed):
    torch.manual_seed(0)
    network = FastRestorationUNet(widths=[16, 32], blocks=[2, 1]).eval()
    batch = torch.rand(1, 3, 64, 40)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        strips = strips_of(network)(network, 64)
        pushed = [strips.push(part) for part in batch.split(16, 2)]
        restored = torch.cat([each[1] for each in pushed if each], 2)
        expected = network(batch)
    assert torch.allclose(restored, expected, rtol=0, atol=0.05 if mixed else 1e-5)


@pytest.mark.parametrize("error", [AttributeError, RuntimeError, None])
def test_an_operator_that_is_missing_or_wrong_is_not_used(error, monkeypatch):
    def other(rows, weight, bias, target, rectified):
        if error:
            raise error

    monkeypatch.setattr(convolutions, "_add_fused", other)
    assert not convolutions.can_fuse.__wrapped__(torch.float32)


def test_weights_that_changed_between_calls_are_used(kind, monkeypatch):
    monkeypatch.setattr(run, "STRIP_PIXELS", 1000)  # larger photos are restored in strips
    pipe, given = quiet(FastRestorationUNet(widths=[16, 32], blocks=[1, 1])), photo(90, 70)
    pipe(given, output_type="np")
    with torch.no_grad():
        for parameter in pipe.restorer.parameters():
            parameter.mul_(0.9)
    changed, whole = (pipe(given, output_type="np", tile=tile).images[0].astype(int) for tile in ("auto", None))
    assert np.abs(changed - whole).max() <= 1 < np.abs(changed - given).max()
