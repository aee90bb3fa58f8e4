"""Options for restoring photo files, validated here for the command, the demo page and bulk jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..photos.opening import pixel_limit
from ..photos.registry import checked_format
from ..photos.saving import check_options
from ..pipelines.limits import check_strength, check_tile


@dataclass(frozen=True)
class Options:
    """Options of `daa restore`.

    Args:
        format: output format, a key of `photos.FORMATS` or an alias; None: the photo's format.
        bits: bits per sample, 8 or 16; None: the photo's if the format supports them, else 8.
        quality: quality of lossy formats, 1 to 100; None: see `photos.save_photo`.
        strip_location: remove GPS coordinates and place names.
        overwrite: replace existing files.
        max_megapixels: maximum size of a photo; None: default of `photos.open_photo`.
        strength, guard, self_ensemble, tile: as for the pipeline.
        compare: folder for sheets that show each photo before and after; None: no sheets.
        dry_run: only list the photos.

    Raises:
        ConfigurationError: an invalid value, or options that contradict each other.
    """

    format: str | None = None
    bits: int | None = None
    quality: int | None = None
    strip_location: bool = False
    overwrite: bool = False
    max_megapixels: float | None = None
    strength: float = 1.0
    guard: bool = True
    self_ensemble: bool = False
    tile: int | Literal["auto"] | None = "auto"
    compare: str | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "format", checked_format(self.format))
        check_options(self.format, self.bits, self.quality)
        pixel_limit(self.max_megapixels)
        check_strength(self.strength)
        check_tile(self.tile)
