"""Terms of the joint objective, eq. (4) to (6) of docs/method.md; half-precision inputs are converted to float32."""

from collections.abc import Callable

import torch
import torch.distributed
import torch.nn.functional as F


def upcast(x: torch.Tensor) -> torch.Tensor:
    """Converts half precision to float32; other dtypes are unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def mean_over_processes(x: torch.Tensor) -> torch.Tensor:
    """Returns the detached mean of `x` over all processes of a run."""
    x = x.detach()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        x = x.clone()
        torch.distributed.all_reduce(x)
        x = x / torch.distributed.get_world_size()
    return x


def charbonnier(restored: torch.Tensor, clean: torch.Tensor, eps: float = 1e-3) -> torch.Tensor:
    """Eq. (5): `mean sqrt((restored - clean)^2 + eps^2)` over tensors of one shape."""
    return ((upcast(restored) - upcast(clean)).square() + eps**2).sqrt().mean()


def squared_error(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared error over tensors of one shape; for predicted noise, L+ or L- of eq. (4)."""
    return F.mse_loss(upcast(predicted), upcast(target))


def contrastive(positive: torch.Tensor, negative: torch.Tensor, margin: float = 0.1) -> torch.Tensor:
    """Eq. (4): `(L+ + relu(L+ - L- + margin)) / 2` for the scalars L+ and L-.

    The means over all processes decide whether the hinge is active, so that several processes take the same step as
    one process on the whole batch.
    """
    difference = positive - negative + margin
    is_open = (mean_over_processes(difference) > 0).to(difference.dtype)
    return (positive + is_open * difference) / 2


class _MeasureGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx, synthetic, real, ratio, report):
        ctx.ratio, ctx.report = ratio, report
        # s twice, so that the gradients of both losses arrive separately
        return synthetic.view_as(synthetic), synthetic.view_as(synthetic), real.view_as(real)

    @staticmethod
    def backward(ctx, pair_gradient, synthetic_gradient, real_gradient):
        # |dL_pair/ds|, |dL_noise/dq|
        norms = torch.stack([upcast(pair_gradient).norm(), upcast(real_gradient).norm()])
        if ctx.ratio is None:
            ctx.report(*norms, None)
            return pair_gradient + synthetic_gradient, real_gradient, None, None
        norms = mean_over_processes(norms)
        # balanced: w = ratio |dL_pair/ds| / |dL_noise/dq|, applied only to the gradient that reaches the restorer
        factor = ctx.ratio * norms[0] / (norms[1] + 1e-12)
        ctx.report(*norms, factor)
        factor = factor.to(real_gradient.dtype)
        return pair_gradient + factor * synthetic_gradient, factor * real_gradient, None, None


def measure_gradients(
    synthetic: torch.Tensor,
    real: torch.Tensor,
    report: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], None],
    ratio: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Identity that reports, and optionally balances, the gradients of L_pair and L_noise at the restorer's output.

    In the backward pass, the norms of both gradients are reported. With a `ratio`, the gradient of L_noise at s and q
    is multiplied by `w = ratio * |dL_pair/ds| / (|dL_noise/dq| + 1e-12)`, where the L2 norms are those of the batch,
    averaged over processes; the gradients of the noise predictor are not scaled. Both norms are taken in one backward
    pass, so that a loss scale (float16) or an accumulation factor cancels in w.

    Args:
        synthetic: s, the restored synthetic photos (B, C, H, W).
        real: q, the restored real photos (B, C, H, W).
        report: function called during the backward pass with detached scalars: |dL_pair/ds|, |dL_noise/dq|
            (before w, with the factor of L_noise in the loss), and w or None.
        ratio: target ratio of the two norms; None: gradients are not changed.

    Returns:
        s for L_pair, s for L_noise, q for L_noise. All three must be used.
    """
    return _MeasureGradients.apply(synthetic, real, ratio, report)
