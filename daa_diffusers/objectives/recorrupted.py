"""Self-supervision by added noise (Pang et al., "Recorrupted-to-Recorrupted", CVPR 2021), with synthetic pairs."""

from typing import Any

import torch
from torch import nn

from ..degradations.fitting.photo_noise import Noise
from ..models.restorer import RestorerContract
from .base import Batch, StepOutput, draw_each
from .losses import squared_error
from .real_term import RealTermObjective, check_option
from .schedules import Generators


class RecorruptedToRecorrupted(RealTermObjective):
    """Trains the restorer on two noisier copies of each real photo, whose noise is independent.

    Let z be noise with the covariance of the photo's own noise: `L_real = mean (f(x + alpha z) - (x - z / alpha))^2`.
    If the noise of x is Gaussian, the expectation of L_real is the supervised error plus a constant. z is drawn from
    `photo_noise.Noise`, estimated from each training patch, with the patch's dependence on brightness and correlation.
    In a patch without flat parts the noise is overestimated, therefore `noise_max` limits it. Inference is one pass
    without added noise; the paper averages passes over several x + alpha z.

    Args:
        restorer: as in `RealTermObjective`.
        weight: weight of L_real at the end of the ramp.
        alpha: factor of the added noise; 0.5 in the paper.
        noise_max: largest standard deviation of z over a patch, in 1/255 of the value range.
        options: further arguments of `RealTermObjective`.

    Losses: "adaptation", L_real. The output's `restored_real` is f(x + alpha z).
    """

    name = "recorrupted"
    title = "Recorrupted-to-Recorrupted"
    uses_preparation = False
    smallest_side = 32  # required by `Noise.of`

    def __init__(
        self,
        restorer: nn.Module,
        *,
        weight: float = 2.0,
        alpha: float = 0.5,
        noise_max: float = 25.0,
        **options: Any,
    ):
        super().__init__(restorer, weight=weight, **options)
        check_option("alpha", alpha, 0.0, above=True)
        check_option("noise_max", noise_max, 0.0, 255.0, above=True)
        self.alpha = alpha
        self.noise_max = noise_max
        self.low, self.high = RestorerContract.of(restorer).value_range

    def step(self, batch: Batch, real: torch.Tensor, weight: float, generator: Generators) -> StepOutput:
        """See `RealTermObjective`."""
        noise = self.noise(real, generator)
        restored, predicted = self.restorer(batch.synthetic), self.restorer(real + self.alpha * noise)
        adaptation = squared_error(predicted, real - noise / self.alpha)
        return self.output(restored, batch.clean, weight, adaptation=adaptation, restored_real=predicted)

    @torch.no_grad()
    def noise(self, real: torch.Tensor, generator: Generators = None) -> torch.Tensor:
        """Draws noise (B, C, H, W) like that of each of the photos `real`, on the scale of the value range."""
        unit = (real - self.low) / (self.high - self.low)

        def draw(own: torch.Generator | None, number: int) -> torch.Tensor:
            photo = unit[number]
            z = Noise.of(photo).sample(photo, own or torch.default_generator)
            return z * (self.noise_max / 255 / z.std().clamp(min=1e-8)).clamp(max=1)

        with torch.autocast(real.device.type, enabled=False):  # FFT and eigenvalues need float32
            return draw_each(len(unit), generator, draw).to(real) * (self.high - self.low)
