"""Optimizers by name: Adam, and Muon, which makes the update of each weight matrix orthogonal (Jordan et al., 2024).

The gradients of a restorer's convolutions are dominated by a few directions, along which Adam oscillates while all
others learn slowly. Muon gives all directions the same step: a new `fast` restorer is 0.2 dB better than with Adam at
its best learning rate after the same processor time (benchmarks/results/optimizers.md).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

MOMENTUM = 0.95
MIN_SIDE = 16  # rows and columns: smaller matrices, such as those of a network's last layer, are updated by Adam
# Quintic Newton-Schulz iteration of Jordan et al.: five rounds map singular values in (0.01, 1] to about 0.7 to 1.2
COEFFICIENTS, ROUNDS = (3.4445, -4.7750, 2.0315), 5
ADAM_RMS = 0.2  # root mean square of Adam's updates per learning rate (Liu et al., 2025), so that its rates can be used


class Muon(torch.optim.Adam):
    """Muon for weight matrices and the kernels of convolutions, flattened to (outputs, rest); Adam for everything else.

    Depthwise kernels, vectors, and matrices of fewer than `MIN_SIDE` rows or columns are updated by Adam. Updates of
    matrices are scaled to the root mean square of Adam's, so that learning rates of Adam have a similar effect.
    Arguments are those of `torch.optim.Adam`; all but `params` and `lr` concern the parameters that Adam updates.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates all parameters that have a gradient; gradients of matrices are None afterwards.

        Raises:
            ValueError: a `closure` is given, which would have to be evaluated between the two kinds of updates.
        """
        if closure is not None:
            raise ValueError("Muon does not evaluate closures, call `step()` after the backward pass")
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None and is_matrix(parameter):
                        self._update(parameter, group["lr"])
                        parameter.grad = None  # Adam passes over parameters without a gradient
        return super().step()

    def _update(self, parameter: nn.Parameter, rate: float) -> None:
        """Updates one matrix by the orthogonalized Nesterov momentum of its gradient."""
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if not state:  # with Adam's names: loading a state needs a "step" of every parameter
            state.update(step=torch.zeros(()), exp_avg=torch.zeros_like(parameter))
        momentum = state["exp_avg"]
        momentum.lerp_(gradient, 1 - MOMENTUM)
        matrix = gradient.lerp(momentum, MOMENTUM).flatten(1)
        update = orthogonalized(matrix) * (ADAM_RMS * math.sqrt(max(matrix.shape)))
        parameter.add_(update.view_as(parameter).to(parameter), alpha=-rate)


def is_matrix(parameter: torch.Tensor) -> bool:
    """Whether a parameter is updated as a matrix: a linear layer or convolution, neither narrow nor depthwise."""
    return parameter.ndim >= 2 and parameter.shape[1] > 1 and min(parameter.shape[0], parameter[0].numel()) >= MIN_SIDE


def orthogonalized(matrix: torch.Tensor) -> torch.Tensor:
    """Replaces the singular values of a matrix by values around 1; those below 0.01 of its norm become smaller ones.

    Returns:
        The new matrix, in bfloat16.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.T
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, polynomial, x, beta=a)  # a x + (b gram + c gram^2) x
    return x.T if tall else x


OPTIMIZERS: dict[str, type[torch.optim.Adam]] = {"adam": torch.optim.Adam, "muon": Muon}
