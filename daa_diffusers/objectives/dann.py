"""Domain-adversarial training on features (Ganin et al., "Domain-Adversarial Training of Neural Networks", 2016)."""

from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import ConfigurationError
from ..models.restorer import RestorerContract, in_eval_mode, round_up
from .base import Batch, StepOutput
from .losses import upcast
from .real_term import RealTermObjective, check_whole
from .schedules import Generators

PROBE_SIDE = 32  # side in pixels of the photo that is restored to determine the number of feature channels


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, factor):
        ctx.factor = factor
        return features.view_as(features)

    @staticmethod
    def backward(ctx, gradient):
        return -ctx.factor * gradient, None


def reverse_gradient(features: torch.Tensor, factor: float) -> torch.Tensor:
    """Returns `features`; in the backward pass, multiplies their gradient by `-factor`."""
    return _ReverseGradient.apply(features, factor)


class Dann(RealTermObjective):
    """Trains the restorer's deepest features to be indistinguishable between synthetic and real photos.

    A classifier reads the features (B, F, h, w) at every position and learns, by cross-entropy, which photos are real.
    Its gradient is multiplied by `-lambda(p)`, `lambda(p) = weight (2 / (1 + exp(-10 p)) - 1)`, before it reaches the
    restorer. The features at every position are first normalized over the channels; otherwise those of a restorer
    without normalization layers grow without bound to evade the classifier, and training diverges.

    Args:
        restorer: as in `RealTermObjective`.
        weight: value of lambda at the end of its ramp; 1 in the paper.
        features: name of the restorer's submodule whose output is classified; None: the last of `down_blocks`, which is
            the bottleneck of a `RestorationUNet`.
        hidden: number of channels of the classifier's two hidden layers.
        options: further arguments of `RealTermObjective`.

    Losses: "domain", the cross-entropy (ln 2 if the domains are not separable), and "domain_accuracy".
    """

    name = "dann"
    title = "domain-adversarial features (DANN)"
    uses_preparation = False
    compiles = False  # features are captured by a forward hook
    steepness = 10.0  # of the ramp lambda(p)

    def __init__(
        self,
        restorer: nn.Module,
        *,
        weight: float = 0.05,
        features: str | None = None,
        hidden: int = 64,
        **options: Any,
    ):
        super().__init__(restorer, weight=weight, **options)
        check_whole("hidden", hidden, 1)
        self.features = _bottleneck(restorer) if features is None else features
        if self.features not in dict(restorer.named_modules()):
            raise ConfigurationError(f"`features` must name a submodule of {type(restorer).__name__}, got {features!r}")
        self.classifier = nn.Sequential(
            nn.Conv2d(self._channels(), hidden, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(hidden, hidden, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(hidden, 1, 1),
        )

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The domain classifier."""
        return {"classifier": self.classifier}

    def step(self, batch: Batch, real: torch.Tensor, weight: float, generator: Generators) -> StepOutput:
        """See `RealTermObjective`."""
        with self._capture_features() as captured:
            restored, restored_real = self.restorer(batch.synthetic), self.restorer(real)
        domain_losses, accuracies = [], []
        for is_real, features in zip((False, True), captured, strict=True):
            logits = upcast(self.classifier(reverse_gradient(_normalized(features), weight)))  # (B, 1, h, w)
            domain_losses.append(F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, is_real)))
            accuracies.append(((logits > 0) == is_real).to(logits.dtype).mean())
        domain = torch.stack(domain_losses).mean()
        output = self.output(restored, batch.clean, weight, further={"domain": domain}, restored_real=restored_real)
        output.losses["domain_accuracy"] = torch.stack(accuracies).mean()
        return output

    @contextmanager
    def _capture_features(self):
        """Context with a list to which every forward pass of the restorer appends its features."""
        captured: list[torch.Tensor] = []
        module = self.restorer.get_submodule(self.features)
        # removed after the pass: recomputation (gradient checkpointing) must not append features
        handle = module.register_forward_hook(lambda module, inputs, output: captured.append(output))
        try:
            yield captured
        finally:
            handle.remove()

    @torch.no_grad()
    def _channels(self) -> int:
        """Returns the number of channels of the features, found by restoring a black photo."""
        like = next(self.restorer.parameters())
        contract = RestorerContract.of(self.restorer)
        side = round_up(PROBE_SIDE, contract.size_multiple)
        with in_eval_mode(self.restorer), self._capture_features() as captured:
            self.restorer(like.new_zeros(1, contract.channels, side, side))
        if len(captured) != 1 or not isinstance(captured[0], torch.Tensor) or captured[0].ndim != 4:
            raise ConfigurationError(
                f"`features` must name a submodule with output (B, F, h, w), got {self.features!r}"
            )
        return captured[0].shape[1]


def _normalized(features: torch.Tensor) -> torch.Tensor:
    """Normalizes features (B, F, h, w) to mean 0 and variance 1 over F at every position."""
    return F.layer_norm(features.movedim(1, -1), features.shape[1:2]).movedim(-1, 1)


def _bottleneck(restorer: nn.Module) -> str:
    """Returns the name of the last submodule of `down_blocks`."""
    blocks = getattr(restorer, "down_blocks", None)
    if not isinstance(blocks, nn.ModuleList) or not len(blocks):
        raise ConfigurationError(f"`features` must name a submodule: {type(restorer).__name__} has no `down_blocks`")
    return f"down_blocks.{len(blocks) - 1}"
