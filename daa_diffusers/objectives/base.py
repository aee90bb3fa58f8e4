"""The interface of an objective: one training step of a restorer, from a batch to a loss."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

import torch
from torch import nn

from .schedules import Generators


@dataclass(frozen=True)
class Batch:
    """Photos of one step, each (B, C, H, W) in the restorer's value range, which they may exceed.

    Attributes:
        synthetic, clean: a degraded photo and its target.
        real: real degraded photos, unpaired.
        unpaired_clean: clean photos of any collection.
    """

    synthetic: torch.Tensor
    clean: torch.Tensor
    real: torch.Tensor | None = None
    unpaired_clean: torch.Tensor | None = None

    @classmethod
    def from_mapping(cls, photos: Mapping[str, torch.Tensor]) -> Self:
        """The batch of the entries of `photos` that have its names; others are ignored."""
        return cls(**{f.name: photos[f.name] for f in fields(cls) if f.name in photos})

    def check(self, *needed: str) -> Self:
        """This batch, after a check that all its photos are finite, floating and of one shape.

        Args:
            needed: names of photos that must be given beyond `synthetic` and `clean`.

        Raises:
            ValueError: a photo is missing or does not fit; the message names it.
        """
        names = ["synthetic", "clean", *needed]
        names += [name for name in ("real", "unpaired_clean") if name not in needed and getattr(self, name) is not None]
        check_photos({name: getattr(self, name) for name in names}, self.clean)
        return self


@dataclass
class StepOutput:
    """Result of one step.

    Attributes:
        loss: scalar with a graph; call `.backward()`.
        losses: detached scalars by name: "pair" (5) and "total", and those that the objective adds: "weight" w,
            "adaptation" (its term on real photos), and others that its class names.
        gradients: filled in during `.backward()` by noise-space adaptation: "pair" |dL_pair/ds| and "noise"
            |dL_noise/dq| before the weight, detached scalars: root mean squares over the samples of the L2 norm of a
            sample's own loss, so that they do not depend on the batch size (but on a loss scale).
        restored_synthetic: s (B, C, H, W), detached, in the restorer's range.
        restored_real: q (B, C, H, W), detached; None where the objective restores no real photos.
    """

    loss: torch.Tensor
    losses: dict[str, torch.Tensor] = field(default_factory=dict)
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)
    restored_synthetic: torch.Tensor | None = None
    restored_real: torch.Tensor | None = None


class Objective(nn.Module):
    """One training step of a restorer as a module: independent of the loop.

    The loop trains the parameters of `restorer` and `networks`, keeps a moving average of the restorer, and saves and
    resumes the whole state dict: whatever else an objective remembers is a buffer or a frozen parameter.

    The options of an objective are the keyword-only arguments of its constructor and of `from_options`, plain JSON; a
    config names them beside the objective's name: `{"type": "mean_teacher", "views": 8}`.

    Attributes:
        name: in a config.
        title: on a model card.
        compares: True for a baseline: the preparation of real photos by presets is not applied to it unless asked for.
        compiles: False where the step cannot be compiled.
        measures: True where `measure` is to be called when a run begins from a given restorer.
        restorer: maps (B, C, H, W) to restored (B, C, H, W).
        networks: further networks that are trained beside the restorer, by name.
        kept_networks: the same, with the weights that a pipeline is to keep.
        charbonnier_eps: of eq. (5), by which restored synthetic photos are compared with the clean ones.
        size_multiple: sides of the photos must be multiples of this, beyond what the networks need.
        smallest_side: sides of the photos must be at least this.
        evaluating: names of modules that stay in eval mode.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    compares: ClassVar[bool] = False
    compiles: ClassVar[bool] = True
    measures: ClassVar[bool] = False
    restorer: nn.Module
    charbonnier_eps: float = 1e-3
    size_multiple: int = 1
    smallest_side: int = 1
    evaluating: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_options(cls, restorer: nn.Module, **options: Any) -> Self:
        """The objective over `restorer`, with new weights from torch's global generator in its further networks.

        Raises:
            ConfigurationError: an option out of its range; the message names it.
        """
        return cls(restorer, **options)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Options and their defaults: the keyword-only arguments of the constructor and of `from_options`.

        Where one of them passes on `**options`, the arguments of the base class are options too.
        """
        found: dict[str, Any] = {}
        for method in ("__init__", "from_options"):
            for owner in (c for c in cls.__mro__ if method in vars(c)):
                parameters = inspect.signature(getattr(owner, method)).parameters.values()
                found |= {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in found}
                if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                    break
        return found

    @classmethod
    def photo_roles(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Fields of `Batch` beyond the pairs that it reads with these options."""
        return ("real",)

    @classmethod
    def problems(cls, options: Mapping[str, Any], run: Any) -> Iterator[str]:
        """A sentence for each contradiction between `options` and the run's other options (a `TrainingConfig`)."""
        yield from ()

    @property
    def networks(self) -> dict[str, nn.Module]:
        """See the class."""
        return {}

    @property
    def kept_networks(self) -> dict[str, nn.Module]:
        """See the class."""
        return self.networks

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of all modules but those of `evaluating`."""
        super().train(mode)
        for name in self.evaluating:
            getattr(self, name).eval()
        return self

    def forward(
        self, batch: Batch, *, progress: float = 1.0, generator: Generators = None, adapt: bool = True
    ) -> StepOutput:
        """One step.

        Args:
            batch: of photos.
            progress: share of the ramp of the weight that is done, 0 to 1.
            generator: one CPU generator, or one a sample: everything random is drawn from it. None: torch's global.
            adapt: False: real photos train the other networks only, not the restorer.

        Raises:
            ValueError: photos that are missing, differ in shape or are not finite.
        """
        raise NotImplementedError

    def measure(self, real: Iterable[torch.Tensor], clean: torch.Tensor, generator: torch.Generator) -> dict[str, Any]:
        """Measures the photos and the initial restorer; the run records the result, and resumes with it.

        Args:
            real: some real photos (C, H, W) in [0, 1].
            clean: clean patches (B, C, H, W) in [0, 1].
            generator: everything random is drawn from it.

        Returns:
            JSON-plain, for `use_measured`; empty: nothing.

        Raises:
            ConfigurationError: the restorer or the photos do not suit the objective.
        """
        return {}

    def use_measured(self, measured: Mapping[str, Any]) -> None:
        """Sets what `measure` returned, when the run began or now."""

    def after_step(self, planned: int) -> None:
        """The loop calls this after every optimizer step that was taken, on every process.

        Args:
            planned: number of steps of the run, as planned by now.
        """


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

    With a generator for each sample, its draws do not depend on its neighbors.

    Raises:
        ValueError: `generator` is neither one generator nor one a sample.
    """
    each = list(generator) if isinstance(generator, Sequence) else [generator] * batch
    if len(each) != batch:
        raise ValueError(f"`generator` must be one or {batch} generators, got {len(each)}")
    return torch.stack([draw(one, number) for number, one in enumerate(each)])
