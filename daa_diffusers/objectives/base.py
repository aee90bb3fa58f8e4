"""What the loop trains: any module that takes one step of a restorer on synthetic and real photos."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from .schedules import Generators, NoiseDraws


@dataclass
class AdaptationOutput:
    """What a joint step gives.

    Attributes:
        loss: scalar with a graph; call `.backward()`.
        losses: detached scalars by name: "pair" (5); "noise" (4), "noise_positive" L+, "noise_negative" L- and, in the
            hybrid variant, "adaptation"; "weight" w, the factor of the adaptation gradient (with
            `weight_schedule="balanced"` it is known, and filled in, during `.backward()`); "total". A baseline
            names its own ("adaptation" is then its term on real photos).
        gradients: filled in during `.backward()` where real photos adapt the restorer: "pair" |dL_pair/ds| and "noise"
            |dL_noise/dq| before the weight, detached scalars: root mean squares over the samples of the L2 norm of a
            sample's own loss, so that they do not depend on the batch size (but on a loss scale).
        restored_synthetic: s (B, C, H, W), detached, in the restorer's range.
        restored_real: q (B, C, H, W), detached; None in the vanilla variant.
    """

    loss: torch.Tensor
    losses: dict[str, torch.Tensor] = field(default_factory=dict)
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)
    restored_synthetic: torch.Tensor | None = None
    restored_real: torch.Tensor | None = None


class JointStep(nn.Module):
    """One training step of a restorer, as one module: the loop knows nothing of the loss inside.

    The loop trains the parameters of `restorer` and `networks`, keeps a moving average of the restorer, and saves and
    resumes the whole state dict: whatever else a step remembers is a buffer or a frozen parameter.

    Attributes:
        restorer: maps (B, C, H, W) to restored (B, C, H, W).
        networks: further networks that are trained beside the restorer, by name.
        size_multiple: sides of the photos must be multiples of this, beyond what the networks need.
        smallest_side: sides of the photos must be at least this.
    """

    restorer: nn.Module
    size_multiple: int = 1
    smallest_side: int = 1

    @property
    def networks(self) -> dict[str, nn.Module]:
        """See the class."""
        return {}

    def forward(
        self,
        synthetic: torch.Tensor,
        clean: torch.Tensor,
        real: torch.Tensor | None = None,
        unpaired_clean: torch.Tensor | None = None,
        *,
        progress: float = 1.0,
        draws: NoiseDraws | None = None,
        generator: Generators = None,
        adapt: bool = True,
    ) -> AdaptationOutput:
        """One step on a batch; all photos (B, C, H, W) in the restorer's value range, which they may exceed.

        Args:
            synthetic, clean: a degraded photo and its target.
            real: real degraded photos, unpaired.
            unpaired_clean: clean photos of any collection.
            progress: share of the ramp of the weight that is done, 0 to 1.
            draws: the step's randomness, of steps that know such; None draws it with `generator`.
            generator: one CPU generator, or one a sample: everything random is drawn from it. None: torch's global.
            adapt: False keeps the real photos from the restorer, while the other networks learn.
        """
        raise NotImplementedError

    def after_step(self) -> None:
        """The loop calls this after every optimizer step that was taken, on every process."""


def check_photos(photos: Mapping[str, torch.Tensor | None], like: torch.Tensor) -> None:
    """Raises ValueError, naming the photo, unless all are finite, floating and of the shape of `like` (B, C, H, W)."""
    for name, photo in photos.items():
        if photo is None:
            raise ValueError(f"`{name}` must be given, got None")
        if photo.ndim != 4 or photo.shape != like.shape or not photo.is_floating_point():
            raise ValueError(
                f"`{name}` must be floating (B, C, H, W) of the shape of `clean`, {tuple(like.shape)}, got "
                f"{photo.dtype} of {tuple(photo.shape)}"
            )
        if not torch.compiler.is_compiling() and not torch.isfinite(photo).all():
            raise ValueError(f"`{name}` holds NaN or infinite pixels")


def draw_each(
    batch: int, generator: Generators, draw: Callable[[torch.Generator | None, int], torch.Tensor]
) -> torch.Tensor:
    """Stacks `draw(generator, number)` of every sample of a batch.

    With a generator for each sample, its draws do not depend on its neighbours.

    Raises:
        ValueError: `generator` is neither one generator nor one a sample.
    """
    each = list(generator) if isinstance(generator, Sequence) else [generator] * batch
    if len(each) != batch:
        raise ValueError(f"`generator` must be one or {batch} generators, got {len(each)}")
    return torch.stack([draw(one, number) for number, one in enumerate(each)])
