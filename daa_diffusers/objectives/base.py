"""Interface of an objective: one training step of a restorer, from a batch to a loss."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

import torch
from torch import nn

from .schedules import Generators


@dataclass(frozen=True)
class Batch:
    """Photos of one step, each (B, C, H, W) in the restorer's value range, which noise may exceed.

    Attributes:
        synthetic, clean: degraded photos and their targets.
        real: real degraded photos, unpaired.
        unpaired_clean: clean photos, unpaired.
    """

    synthetic: torch.Tensor
    clean: torch.Tensor
    real: torch.Tensor | None = None
    unpaired_clean: torch.Tensor | None = None

    @classmethod
    def from_mapping(cls, photos: Mapping[str, torch.Tensor]) -> Self:
        """Builds a batch from the entries of `photos` named as its fields; others are ignored."""
        return cls(**{f.name: photos[f.name] for f in fields(cls) if f.name in photos})

    def check(self, *needed: str) -> Self:
        """Checks that all photos are finite, floating point and of one shape; returns this batch.

        Args:
            needed: names of fields that must be given besides `synthetic` and `clean`.

        Raises:
            ValueError: a photo is missing or invalid; the message names it.
        """
        photos = {f.name: getattr(self, f.name) for f in fields(self)}
        required = ("synthetic", "clean", *needed)
        check_photos({name: p for name, p in photos.items() if name in required or p is not None}, self.clean)
        return self


@dataclass
class StepOutput:
    """Result of one step.

    Attributes:
        loss: scalar with a graph, for `.backward()`.
        losses: detached scalars by name: "pair" (5), "total", and those of the objective, which its class describes,
            such as "weight" w and "adaptation" (the term on real photos).
        gradients: detached scalars that noise-space adaptation sets during `.backward()`: "pair" |dL_pair/ds| and
            "noise" |dL_noise/dq| before the weight. Each is the root mean square over the samples of the L2 norm of the
            gradient of the sample's own loss; it does not depend on the batch size, but includes a loss scale.
        restored_synthetic: s (B, C, H, W), detached, in the restorer's range.
        restored_real: q (B, C, H, W), detached; None if the objective restores no real photos.
    """

    loss: torch.Tensor
    losses: dict[str, torch.Tensor] = field(default_factory=dict)
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)
    restored_synthetic: torch.Tensor | None = None
    restored_real: torch.Tensor | None = None


class Objective(nn.Module):
    """One training step of a restorer, as a module that is independent of the loop.

    The loop trains the parameters of `restorer` and `networks`, keeps a moving average of the restorer, and saves and
    resumes the whole state dict. Any other state of an objective must be a buffer or a frozen parameter.

    The options of an objective are the keyword-only arguments of its constructor and of `from_options`, plain JSON. A
    config holds them together with the objective's name: `{"type": "mean_teacher", "views": 8}`.

    Attributes:
        name: name in a config.
        title: title on a model card.
        uses_preparation: whether presets prepare real photos for it (fits, pseudo-clean photos); not for baselines.
        compiles: whether the step can be compiled.
        measures: whether to call `measure` before the first step of a run that starts from a given restorer.
        restorer: network that maps (B, C, H, W) to restored (B, C, H, W).
        networks: other trained networks, by name.
        kept_networks: the same, with the weights that a pipeline keeps.
        charbonnier_eps: constant of the Charbonnier loss, eq. (5).
        size_multiple: number of which the sides of the photos must be multiples, besides the networks' own.
        smallest_side: smallest side of the photos.
        evaluating: names of modules that stay in eval mode.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    uses_preparation: ClassVar[bool] = True
    compiles: ClassVar[bool] = True
    measures: ClassVar[bool] = False
    restorer: nn.Module
    charbonnier_eps: float = 1e-3
    size_multiple: int = 1
    smallest_side: int = 1
    evaluating: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_options(cls, restorer: nn.Module, **options: Any) -> Self:
        """Builds the objective for `restorer`; new weights of other networks are drawn from torch's global generator.

        Raises:
            ConfigurationError: an option is out of range; the message names it.
        """
        return cls(restorer, **options)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Returns the options and their defaults: the keyword-only arguments of the constructor and `from_options`.

        If one of these passes on `**options`, the arguments of the base class are also options.
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
        """Returns the fields of `Batch` that the objective reads with these options, besides the synthetic pairs."""
        return ("real",)

    @classmethod
    def problems(cls, options: Mapping[str, Any], run: Any) -> Iterator[str]:
        """Yields a sentence for each contradiction between `options` and the options `run` (a `TrainingConfig`)."""
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
        """Sets the train/eval mode of all modules except those in `evaluating`."""
        super().train(mode)
        for name in self.evaluating:
            getattr(self, name).eval()
        return self

    def forward(
        self, batch: Batch, *, progress: float = 1.0, generator: Generators = None, adapt: bool = True
    ) -> StepOutput:
        """Computes the losses of one step.

        Args:
            batch: photos of the step.
            progress: fraction of the run that is done, 0 to 1, on which the weight's ramp depends.
            generator: source of all random draws: one CPU generator, or one per sample. None: torch's global one.
            adapt: whether real photos train the restorer; otherwise they only train the other networks.

        Raises:
            ValueError: photos are missing, differ in shape or are not finite.
        """
        raise NotImplementedError

    def measure(self, real: Iterable[torch.Tensor], clean: torch.Tensor, generator: torch.Generator) -> dict[str, Any]:
        """Measures the photos and the initial restorer; the run records the result, and resumes with it.

        Args:
            real: some real photos (C, H, W) in [0, 1].
            clean: clean patches (B, C, H, W) in [0, 1].
            generator: source of all random draws.

        Returns:
            JSON-plain argument for `use_measured`; empty if nothing is measured.

        Raises:
            ConfigurationError: the restorer or the photos are unsuitable for the objective.
        """
        return {}

    def use_measured(self, measured: Mapping[str, Any]) -> None:
        """Applies the result of `measure`; also called with the recorded result when a run is resumed."""

    def after_step(self, planned: int) -> None:
        """Hook that the loop calls on every process after every optimizer step, except skipped ones.

        Args:
            planned: planned number of steps of the run.
        """


def check_photos(photos: Mapping[str, torch.Tensor | None], like: torch.Tensor) -> None:
    """Raises ValueError, naming the photo, unless all are finite floating point of the shape of `like` (B, C, H, W)."""
    for name, photo in photos.items():
        if photo is None:
            raise ValueError(f"`{name}` must be given, got None")
        if photo.ndim != 4 or photo.shape != like.shape or not photo.is_floating_point():
            raise ValueError(
                f"`{name}` must be floating point (B, C, H, W) of the shape of `clean`, {tuple(like.shape)}, got "
                f"{photo.dtype} of {tuple(photo.shape)}"
            )
        if not torch.compiler.is_compiling() and not torch.isfinite(photo).all():
            raise ValueError(f"`{name}` holds NaN or infinite pixels")


def draw_each(
    batch: int, generator: Generators, draw: Callable[[torch.Generator | None, int], torch.Tensor]
) -> torch.Tensor:
    """Stacks `draw(generator, number)` of every sample of a batch.

    With one generator per sample, a sample's draws do not depend on the rest of the batch.

    Raises:
        ValueError: `generator` is neither one generator nor one per sample.
    """
    generators = list(generator) if isinstance(generator, Sequence) else [generator] * batch
    if len(generators) != batch:
        raise ValueError(f"`generator` must be one or {batch} generators, got {len(generators)}")
    return torch.stack([draw(own, number) for number, own in enumerate(generators)])
