"""Renoised self-distillation: a restorer learns from its own result, noised and restored once more."""

import copy

import torch
from torch import nn

from ..models.restorer import RestorerContract
from .base import Batch, StepOutput, draw_each
from .losses import charbonnier
from .real_term import RealTermObjective, check_choice, check_option, check_whole, follow_average
from .schedules import Generators

TEACHERS = ("start", "average")


class Renoised(RealTermObjective):
    """The restorer learns to make of a real photo at once what a teacher makes of its own result, noised again.

    With the teacher f', `q' = f'(x_r)`, `z = q' + sigma eps`, `sigma ~ U(sigma_min, sigma_max)`, `eps ~ N(0, I)`:
    `L_re = mean sqrt((f(x_r) - f'(z))^2 + eps^2)`, `L = L_pair + w L_re` (7). The noise of the target differs from draw
    to draw, so that the restorer learns their mean. Two more passes than supervised training, no second network. The
    restorer has to be one that removes white noise.

    Args:
        restorer: as in `RealTermObjective`.
        weight: of L_re at the end of its ramp.
        sigma_min, sigma_max: standard deviation of the added noise, in 1/255 of the value range.
        teacher: "start", the restorer as it was; or "average", the moving average of its weights.
        decay: of the average, per step.
        restart: steps after which the average starts again from the restorer; 0: never.
        weight_schedule, charbonnier_eps: as in `RealTermObjective`.

    Losses: "adaptation" L_re. The teacher's weights are in the state dict.
    """

    name = "renoised"
    title = "renoised self-distillation"

    def __init__(
        self,
        restorer: nn.Module,
        *,
        weight: float = 1.0,
        sigma_min: float = 10.0,
        sigma_max: float = 50.0,
        teacher: str = "average",
        decay: float = 0.99,
        restart: int = 0,
        weight_schedule: str = "constant",
        charbonnier_eps: float = 1e-3,
    ):
        super().__init__(restorer, weight=weight, weight_schedule=weight_schedule, charbonnier_eps=charbonnier_eps)
        check_option("sigma_max", sigma_max, 0.0, 255.0, above=True)
        check_option("sigma_min", sigma_min, 0.0, sigma_max)
        check_choice("teacher", teacher, TEACHERS)
        check_option("decay", decay, 0.0, 1.0)
        check_whole("restart", restart, 0)
        low, high = RestorerContract.of(restorer).value_range
        self.sigma_range = (sigma_min / 255 * (high - low), sigma_max / 255 * (high - low))
        self.decay = 1.0 if teacher == "start" else decay
        self.restart = restart
        self.teacher = copy.deepcopy(restorer).requires_grad_(False).eval()
        self.steps_taken: torch.Tensor
        self.register_buffer("steps_taken", torch.zeros((), dtype=torch.int64))

    def train(self, mode: bool = True) -> "Renoised":
        """Sets the mode of all but the teacher, which always evaluates."""
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def after_step(self) -> None:
        """The teacher follows the restorer."""
        self.steps_taken += 1
        if self.decay == 1.0:
            return
        restarts = self.restart and int(self.steps_taken) % self.restart == 0
        follow_average(self.teacher, self.restorer, 0.0 if restarts else self.decay)

    def step(self, batch: Batch, real: torch.Tensor, weight: float, generator: Generators) -> StepOutput:
        """See `RealTermObjective`."""
        target = self.teach(real, generator)
        restored, restored_real = self.restorer(batch.synthetic), self.restorer(real)
        adaptation = charbonnier(restored_real, target, self.charbonnier_eps)
        return self.output(restored, batch.clean, weight, adaptation=adaptation, restored_real=restored_real)

    @torch.no_grad()
    def teach(self, real: torch.Tensor, generator: Generators = None) -> torch.Tensor:
        """The target f'(f'(x_r) + sigma eps) (B, C, H, W) of real photos (B, C, H, W)."""
        low, high = self.sigma_range
        first = self.teacher(real)

        def draw(one: torch.Generator | None, _: int) -> torch.Tensor:
            sigma = low + (high - low) * torch.rand((), generator=one)
            return sigma * torch.randn(real.shape[1:], generator=one)

        return self.teacher(first + draw_each(len(real), generator, draw).to(first))
