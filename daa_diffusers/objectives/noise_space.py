"""Noise-space domain adaptation: the joint training step of a restorer and a noise predictor, as one module."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import nn
from torch.func import functional_call

from ..models.restorer import RestorerContract
from .base import Batch, Objective, StepOutput
from .losses import charbonnier, contrastive, measure_gradients, squared_error
from .noise_predictors import initial_noise_predictor, shuffling
from .real_term import check_choice, check_option, choice_problems
from .schedules import WEIGHT_SCHEDULES, Generators, NoiseDraws, NoiseSchedule, adaptation_weight, noised

VARIANTS = ("paired", "extended", "hybrid")


class NoiseSpaceAdaptation(Objective):
    """The joint step of Noise-DA (docs/method.md, "One joint training step") for any restorer.

    All arguments except the networks are plain JSON.

    Args:
        restorer: f, which maps (B, C, H, W) to (B, C, H, W) in its own value range; its residual is `r(x) = f(x) - x`.
        unet: noise predictor: a `DAAUNet2DConditionModel`, or any module that maps (noised photo z, noise level,
            first condition, second condition) to the noise, see `noise_predictors.NOISE_PREDICTORS`. `shuffling` wraps
            the latter, so that both are called with `conditions=` and `swap=`.
        variant: "paired", the paper's main form; "extended", the paper's "Ex", where the noised photo is an unpaired
            clean one and there is no negative; or "hybrid", where the predictor learns from pairs as in "paired", and
            the restorer is adapted through the frozen predictor on noised unpaired clean photos.
        channel_shuffle: swap the two conditions of a sample at random, eq. (2). False: ablation.
        residual_swap: contrast with swapped residuals, eq. (3). False: ablation with `L_noise = L+`.
        weight: w_max of eq. (6); with "balanced", the ratio of both losses' gradient norms
            (`losses.measure_gradients`).
        weight_schedule: "paper" (the ramp of eq. (6)), "constant", or "balanced".
        margin: margin of the hinge in eq. (4).
        charbonnier_eps: eps of the Charbonnier loss, eq. (5), whose constant 1e-6 is eps**2.
        timestep_range: inclusive 0-based range of t; None: (1, 999).
        separate_passes: restore synthetic and real photos in two passes instead of one, and likewise predict positive
            and negative. Losses and gradients are the same up to rounding; it is slower and takes half the temporary
            memory, best in combination with `enable_gradient_checkpointing()` (`benchmarks/joint_step.py`).

    Losses, besides those of every objective: "noise" (4), "noise_positive" L+, "noise_negative" L-, and, for "hybrid",
    "adaptation"; "weight" is the factor of the adaptation gradient (with "balanced", it is set by `.backward()`).

    Examples:
        >>> import torch
        >>> from daa_diffusers import DAAUNet2DConditionModel, NoiseSpaceAdaptation, RestorationUNet
        >>> from daa_diffusers.objectives.base import Batch
        >>> unet = DAAUNet2DConditionModel(block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=8)
        >>> objective = NoiseSpaceAdaptation(RestorationUNet(width=4, depth=2), unet)
        >>> clean, real = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
        >>> step = objective(Batch(clean + 0.1 * torch.randn_like(clean), clean, real))
        >>> step.loss.backward()
        >>> sorted(step.losses)
        ['noise', 'noise_negative', 'noise_positive', 'pair', 'total', 'weight']
    """

    name = "noise_space"
    title = "noise-space adaptation"

    def __init__(
        self,
        restorer: nn.Module,
        unet: nn.Module,
        *,
        variant: str = "paired",
        channel_shuffle: bool = True,
        residual_swap: bool = True,
        weight: float = 0.2,
        weight_schedule: str = "paper",
        margin: float = 0.1,
        charbonnier_eps: float = 1e-3,
        timestep_range: Sequence[int] | None = None,
        separate_passes: bool = False,
    ):
        super().__init__()
        check_choice("variant", variant, VARIANTS)
        check_choice("weight_schedule", weight_schedule, WEIGHT_SCHEDULES)
        check_option("weight", weight, 0.0)
        check_option("charbonnier_eps", charbonnier_eps, 0.0, above=True)
        self.restorer = restorer
        self.unet = shuffling(unet)  # called with `conditions=` and `swap=`
        self.variant = variant
        self.channel_shuffle = channel_shuffle
        self.residual_swap = residual_swap
        self.weight = weight
        self.weight_schedule = weight_schedule
        self.margin = margin
        self.charbonnier_eps = charbonnier_eps
        self.schedule = NoiseSchedule(timestep_range=timestep_range)
        self.separate_passes = separate_passes
        # Batch statistics of synthetic and real photos must not mix (docs/method.md, step 1).
        self.has_batch_statistics = RestorerContract.of(restorer).has_batch_statistics

    @classmethod
    def from_options(
        cls,
        restorer: nn.Module,
        *,
        noise_predictor: str = "tiny",
        noise_predictor_options: Mapping[str, Any] | None = None,
        noise_predictor_from: str | None = None,
        **options: Any,
    ) -> Self:
        """Builds the joint step with a noise predictor that is built or loaded by name.

        Args:
            restorer: as for the class.
            noise_predictor: name in `noise_predictors.NOISE_PREDICTORS`.
            noise_predictor_options: constructor arguments that override the preset of this name.
            noise_predictor_from: initial weights of the noise predictor. None or "none": new ones, with which the
                paper's loss gains more than with the bundled ones (docs/adaptation.md). "bundled": the bundled ones if
                they fit the network and the restorer's value range, else new ones. Otherwise the folder or Hub id of a
                trained noise predictor, which replaces the two arguments above.
            options: arguments of the class.
        """
        unet = initial_noise_predictor(noise_predictor_from, noise_predictor, restorer, noise_predictor_options)
        return cls(restorer, unet, **options)

    @classmethod
    def photo_roles(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Returns real photos, and unpaired clean ones for the variants "extended" and "hybrid"."""
        return ("real",) if options["variant"] == "paired" else ("real", "unpaired_clean")

    @classmethod
    def problems(cls, options: Mapping[str, Any], run: Any) -> Iterator[str]:
        """See `Objective.problems`."""
        yield from choice_problems("variant", options["variant"], VARIANTS)
        yield from choice_problems("weight_schedule", options["weight_schedule"], WEIGHT_SCHEDULES)
        if options["variant"] == "extended" and not run.unpaired_clean:
            yield "`variant` extended needs `unpaired_clean` photos"

    def forward(
        self,
        batch: Batch,
        *,
        progress: float = 1.0,
        generator: Generators = None,
        adapt: bool = True,
        draws: NoiseDraws | None = None,
    ) -> StepOutput:
        """Computes the losses of one joint step.

        Args:
            batch: x_s, y, x_r and u, each (B, C, H, W) in the restorer's range. "extended" requires u (unpaired clean
                photos); without u, "hybrid" uses the clean photos of the batch in another order.
            progress: p of eq. (6), in [0, 1].
            generator: one CPU generator, or one per sample.
            adapt: False: the noise predictor is trained on detached conditions, and the restorer by L_pair alone. For
                the first steps, in which the gradient of a new noise predictor does not help the restorer yet.
            draws: random draws of the step; None: drawn with `generator` (or torch's global one).

        Raises:
            ValueError: shapes or draws do not match, photos are missing, or pixels are not finite.
        """
        # check inputs, and make the random draws of steps 2, 4 and 5 of docs/method.md
        batch.check("real", *(("unpaired_clean",) if self.variant == "extended" else ()))
        synthetic, clean, real, unpaired_clean = batch.synthetic, batch.clean, batch.real, batch.unpaired_clean
        if draws is None:
            draws = self.schedule.draw(clean.shape, generator=generator, channel_shuffle=self.channel_shuffle)
        draws.check(clean, negative=self._uses_negative)
        draws = draws.to(clean.device, clean.dtype)

        # step 1: restore synthetic and real photos
        assert real is not None
        s, q = self._restore(synthetic, real, adapt)
        output = StepOutput(s, restored_synthetic=s.detach(), restored_real=q.detach())
        losses, gradients = output.losses, output.gradients

        # step 6: L_pair (5), and s and q for L_noise; gradients are measured where they enter the restorer
        weight = adaptation_weight(self.weight_schedule, self.weight, progress)
        balanced = self.weight_schedule == "balanced"
        # w in (6); "balanced" applies it in `measure_gradients`, so that the noise predictor's gradient is not scaled
        factor = weight if adapt and not balanced else 1.0
        # |gradient of a mean over the batch| = rms of the samples' own gradient norms / sqrt(B)
        scale = len(s) ** 0.5

        # kept by the graph of `output.loss`: it must not refer to `output`, which would be freed late
        def report(pair_norm: torch.Tensor, noise_norm: torch.Tensor, balance: torch.Tensor | None) -> None:
            # L_noise without its factor; if that is 0, so is the norm
            gradients.update(pair=pair_norm * scale, noise=noise_norm * scale / (factor or 1.0))
            if balance is not None:
                losses.update(weight=balance)

        if adapt:
            s_pair, s_noise, q_noise = measure_gradients(s, q, report, weight if balanced else None)
        else:
            s_pair, s_noise, q_noise = s, s.detach(), q.detach()
        pair = charbonnier(s_pair, clean, self.charbonnier_eps)

        # steps 3 to 6: L_noise (4), by variant (docs/method.md, "Variants"), and the sum (6)
        if self.variant == "hybrid" and adapt:
            # the noise predictor learns from L_noise, the restorer from the frozen predictor
            noise = self._noise_loss(clean, synthetic, real, s.detach(), q.detach(), draws, losses)
            other = clean.roll(1, 0) if unpaired_clean is None else unpaired_clean
            adaptation = self._frozen_prediction_loss(other, s_noise, q_noise, draws)
            losses["adaptation"] = adaptation.detach()
            output.loss = pair + factor * adaptation + noise
        else:
            target = unpaired_clean if self.variant == "extended" else clean
            output.loss = pair + factor * self._noise_loss(target, synthetic, real, s_noise, q_noise, draws, losses)
        losses.update(pair=pair.detach(), weight=pair.new_tensor(weight * adapt), total=output.loss.detach())
        return output

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The noise predictor."""
        return {"noise_predictor": self.unet}

    @property
    def _uses_negative(self) -> bool:
        return self.residual_swap and self.variant in ("paired", "hybrid")

    def _restore(self, synthetic, real, adapt: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns s and q, the restored synthetic and real photos."""
        if not adapt:  # q needs no gradient
            with torch.no_grad():
                q = self.restorer(real)
            return self.restorer(synthetic), q
        if self.separate_passes or self.has_batch_statistics:
            return self.restorer(synthetic), self.restorer(real)
        s, q = self.restorer(torch.cat([synthetic, real])).chunk(2)  # (2B, C, H, W) -> 2 x (B, C, H, W)
        # torch.compile breaks its graph at `measure_gradients`; two views of one tensor across a break crash torch 2.14
        return s.clone(), q.clone()

    def _predict(self, z, noise_level, *conditions: tuple[torch.Tensor, ...]) -> Sequence[torch.Tensor]:
        """(2), (3): predicts the noise in z (B, C, H, W) under each of `conditions`, triples (first, second, swap)."""
        if self.separate_passes:
            return [self.unet(z, noise_level, conditions=(a, b), swap=swap).sample for a, b, swap in conditions]
        first, second, swap = (torch.cat(parts) for parts in zip(*conditions, strict=True))  # (N * B, C, H, W)
        count = len(conditions)
        z, noise_level = torch.cat([z] * count), torch.cat([noise_level] * count)
        return self.unet(z, noise_level, conditions=(first, second), swap=swap).sample.chunk(count)

    def _noise_loss(self, target, synthetic, real, s, q, draws: NoiseDraws, losses: dict) -> torch.Tensor:
        """Returns L_noise of eq. (4), a scalar, and adds its parts to `losses`."""
        z = noised(target, draws.noise, draws.noise_level)  # (1)
        if not self._uses_negative:
            (predicted,) = self._predict(z, draws.noise_level, (s, q, draws.swap))
            positive = squared_error(predicted, draws.noise)
            losses.update(noise=positive.detach(), noise_positive=positive.detach())
            return positive
        assert draws.swap_negative is not None
        # (3) residual swapping: each photo with the residual of the other
        swapped = (synthetic + (q - real), real + (s - synthetic), draws.swap_negative)
        predictions = self._predict(z, draws.noise_level, (s, q, draws.swap), swapped)
        positive, negative = (squared_error(predicted, draws.noise) for predicted in predictions)
        noise = contrastive(positive, negative, self.margin)  # (4)
        losses.update(noise=noise.detach(), noise_positive=positive.detach(), noise_negative=negative.detach())
        return noise

    def _frozen_prediction_loss(self, target, s, q, draws: NoiseDraws) -> torch.Tensor:
        """Returns L+ on noised unpaired clean photos; its gradient reaches the conditions, not the noise predictor."""
        frozen = {name: parameter.detach() for name, parameter in self.unet.named_parameters()}
        predicted = functional_call(
            self.unet,
            frozen,
            (noised(target, draws.noise, draws.noise_level), draws.noise_level),
            {"conditions": (s, q), "swap": draws.swap},
        ).sample
        return squared_error(predicted, draws.noise)
