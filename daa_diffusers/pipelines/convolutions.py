"""3x3 convolutions of rows, together with the activation or the sum that follows them.

oneDNN's fused convolutions write to the target without an intermediate result. Torch's operator for them is private (it
is what `torch.compile` calls), so it is tested before it is used; without it, torch's public functions do the same.
"""

from functools import cache

import torch
import torch.nn.functional as F


def convolve(
    rows: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    target: torch.Tensor,
    *,
    slope: float | None = None,
    adds: bool = False,
) -> None:
    """Writes the convolution of rows to `target`, or adds it.

    Args:
        rows: (N, C, h + 2, W), with the row above and the row below; columns are padded with zeros here.
        weight: (D, C, 3, 3) of the same dtype.
        bias: (D,) of the same dtype, or None.
        target: (N, D, h, W) of the same dtype, channels last; modified.
        slope: negative slope of a LeakyReLU of the result; None: no activation.
        adds: add the result to `target`; requires that `slope` is None.
    """
    if adds and slope is not None:
        raise ValueError(f"`slope` must be None with `adds`, got {slope!r}")
    # the operator supports no activation but ReLU, and only adds to its target; adding to zeros is faster than a copy
    if slope in (None, 0.0) and rows.device.type == "cpu" and can_fuse(rows.dtype):
        _add_fused(rows, weight, bias, target if adds else target.zero_(), rectified=slope is not None)
        return
    result = F.conv2d(rows, weight, bias, padding=(0, 1))
    if adds:
        target.add_(result)
    elif slope is None:
        target.copy_(result)
    else:
        torch.ops.aten.leaky_relu.out(result, slope, out=target)


def _add_fused(
    rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, target: torch.Tensor, rectified: bool
) -> None:
    operator = torch.ops.mkldnn._convolution_pointwise_.binary
    layer = [0, 1], [1, 1], [1, 1], 1  # padding, stride, dilation, groups
    activation = "relu" if rectified else None
    # photo by photo: in a batch, the rows of a photo do not follow those of the one before in memory
    for one, given in zip(target.split(1), rows.split(1), strict=True):
        operator(one, given, weight, bias, *layer, "add", 1.0, activation, [], None)


@cache
def can_fuse(dtype: torch.dtype) -> bool:
    """Whether oneDNN's fused convolutions exist for `dtype`, and give the result of `conv2d` on a small example."""
    rows, weight, target = (
        torch.linspace(-1, 1, count).sin_().view(shape).to(dtype, memory_format=torch.channels_last)
        for count, shape in ((480, (1, 16, 6, 5)), (2304, (16, 16, 3, 3)), (320, (1, 16, 4, 5)))
    )
    bias = torch.linspace(-1, 1, 16).to(dtype)
    expected = (F.conv2d(rows, weight, bias, padding=(0, 1)) + target).relu()
    try:
        _add_fused(rows, weight, bias, target, rectified=True)
    except (AttributeError, TypeError, RuntimeError):  # another torch, or another processor
        return False
    return torch.allclose(target, expected, rtol=0.02, atol=0.02)
