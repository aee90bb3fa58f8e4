"""Inspection of sources for photos whose noise cannot be measured, and rejection of sources with too many of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import ConfigurationError
from ...files import one_line
from ...photos.pixels import unit_float
from ...sources.folders import PhotoSource
from ..jpeg_coding import jpeg_quality
from .photo_noise import BLOCK
from .profile import MIN_PHOTOS, NAMED
from .suitability import measured_part, signs_of, without_impulses

MAX_PHOTOS = 200  # largest number of photos used per source; equally spaced in a larger source
FIT_SHARE = 0.5  # noise is fitted if it can be measured in at least this share of the photos
ENOUGH = 6  # least number of photos to inspect, whatever the time limit


@dataclass(frozen=True)
class Inspection:
    """Result of the inspection of a source.

    Attributes:
        inspected: number of inspected photos.
        unfit: index of a photo whose noise cannot be measured -> reason.
    """

    inspected: int
    unfit: dict[int, str]


def inspect_photos(source: PhotoSource, seconds: float | None = None) -> Inspection:
    """Finds photos whose noise cannot be measured, among at most `MAX_PHOTOS` equally spaced ones.

    With a time limit in `seconds`, as many as fit into it, and at least `ENOUGH`.
    """
    reasons: dict[int, str | None] = {}
    for index, photo in source.sample(MAX_PHOTOS, seconds=seconds, enough=lambda: len(reasons) >= ENOUGH):
        if min(photo.shape[1:]) < 2 * BLOCK:  # too small to measure
            continue
        pixels = without_impulses(unit_float(measured_part(photo)))
        reasons[index] = signs_of(pixels, jpeg_quality(source.encoded(index))).unfit
    return Inspection(len(reasons), {index: reason for index, reason in sorted(reasons.items()) if reason})


def check_inspections(sources: Sequence[PhotoSource], inspections: Sequence[Inspection]) -> None:
    """Raises ConfigurationError unless there are enough photos, and at least half have noise that can be measured."""
    counts = [source.count for source in sources]
    known = [count for count in counts if count is not None]  # None: a stream, whose length is unknown
    if len(known) == len(counts) and sum(known) < MIN_PHOTOS:
        raise ConfigurationError(f"`real` must hold at least {MIN_PHOTOS} photos to fit noise, got {sum(known)}")
    inspected = sum(inspection.inspected for inspection in inspections)
    unfit = sum(len(inspection.unfit) for inspection in inspections)
    if unfit <= (1 - FIT_SHARE) * inspected:
        return
    reasons = [
        f"{source.label(index)}: {reason}"
        for source, inspection in zip(sources, inspections, strict=True)
        for index, reason in inspection.unfit.items()
    ]
    more = f"\n- and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
    raise ConfigurationError(
        f"`real`: there is nothing to adapt to: in {unfit} of {inspected} photos no noise can be measured. A restorer "
        "adapted to them would remove detail as noise. Remove clean photos, which need no adaptation. If these photos "
        "are noisy nevertheless, train without the fit (examples/train_daa.py --preset adapt --fit_noise 0)"
        + "".join("\n" + one_line(f"- {reason}") for reason in reasons[:NAMED])
        + more
    )
