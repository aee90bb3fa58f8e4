"""Selection of the photos of a source whose noise can be measured, and refusal of sources without them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...errors import ConfigurationError
from ...files import one_line
from ...photos.pixels import unit_float
from ...sources.folders import PhotoSource
from ..jpeg_coding import jpeg_quality
from .photo_noise import BLOCK
from .profile import MIN_PHOTOS, NAMED
from .suitability import signs_of, without_impulses

MAX_PHOTOS = 200  # of a source; of more, equally spaced ones are used
FIT_SHARE = 0.5  # of the photos must have noise that can be measured


@dataclass(frozen=True)
class Choice:
    """Result of the inspection of a source: `looked` photos, of which some are `unfit`, by index, with the reason."""

    looked: int
    unfit: dict[int, str] = field(default_factory=dict)


def look_over(source: PhotoSource, most: int = MAX_PHOTOS) -> Choice:
    """Finds photos whose noise cannot be measured, among at most `most` equally spaced ones."""
    unfit, looked = {}, 0
    for index, photo in source.sample(most):
        if min(photo.shape[1:]) < 2 * BLOCK:  # too small to measure
            continue
        looked += 1
        reason = signs_of(without_impulses(unit_float(photo)), jpeg_quality(source.encoded(index))).unfit
        if reason:
            unfit[index] = reason
    return Choice(looked, unfit)


def check_choices(sources: Sequence[PhotoSource], choices: Sequence[Choice]) -> None:
    """Raises ConfigurationError unless there are enough photos, half of which have noise that can be measured."""
    counts = [source.count for source in sources]
    known = [count for count in counts if count is not None]  # None: of a stream
    if len(known) == len(counts) and sum(known) < MIN_PHOTOS:
        raise ConfigurationError(f"`real` must hold at least {MIN_PHOTOS} photos to fit noise to, got {sum(known)}")
    looked, unfit = sum(choice.looked for choice in choices), sum(len(choice.unfit) for choice in choices)
    if unfit <= (1 - FIT_SHARE) * looked:
        return
    reasons = [
        f"{source.label(index)}: {reason}"
        for source, choice in zip(sources, choices, strict=True)
        for index, reason in choice.unfit.items()
    ]
    more = f"\n- and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
    raise ConfigurationError(
        f"`real`: there is nothing to adapt to: in {unfit} of {looked} photos no noise can be measured. A restorer "
        "adapted to them would remove detail as noise. Clean photos need none: leave these out, or, if they are noisy "
        "all the same, train without the fit (examples/train_daa.py --preset adapt --fit_noise 0)"
        + "".join("\n" + one_line(f"- {reason}") for reason in reasons[:NAMED])
        + more
    )
