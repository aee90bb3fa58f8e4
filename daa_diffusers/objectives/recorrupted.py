"""Self-supervision by more noise (Pang et al., "Recorrupted-to-Recorrupted", CVPR 2021), beside synthetic pairs."""

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
    """Training on pairs of noisier copies of a real photo, whose noises are independent.

    With noise z of the photo's own covariance, `L_real = mean (f(x + alpha z) - (x - z / alpha))^2`, whose expectation
    is the supervised error up to a constant where the noise of x is normal and has that covariance. z is drawn by
    `photo_noise.Noise`, estimated from each photo as it comes: it depends on brightness, and is correlated
    as the photo's is. From a training patch without any flat part the noise is overestimated, hence `noise_max`.
    A restorer is then used in one plain pass; the paper averages passes over many x + alpha z.

    Args:
        restorer: as in `RealTermObjective`.
        weight: of L_real at the end of its ramp.
        alpha: 0.5 in the paper.
        noise_max: largest standard deviation of z, in 1/255 of the value range.
        options: further arguments of `RealTermObjective`.

    Losses: "adaptation" L_real. The output's `restored_real` is f(x + alpha z).
    """

    name = "recorrupted"
    title = "Recorrupted-to-Recorrupted"
    compares = True
    smallest_side = 32  # that `Noise.of` takes

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
        """Noise (B, C, H, W) as each of the photos `real` could have had, in the restorer's value range."""
        unit = (real - self.low) / (self.high - self.low)

        def draw(one: torch.Generator | None, number: int) -> torch.Tensor:
            photo = unit[number]
            z = Noise.of(photo).sample(photo, one or torch.default_generator)
            return z * (self.noise_max / 255 / z.std().clamp(min=1e-8)).clamp(max=1)

        with torch.autocast(real.device.type, enabled=False):  # FFT and eigenvalues need float32
            return draw_each(len(unit), generator, draw).to(real) * (self.high - self.low)
