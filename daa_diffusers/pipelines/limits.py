"""Bounds of the pipeline's arguments, checked by the pipeline and by commands that have not loaded it yet."""

from typing import Any

from ..errors import ConfigurationError

MIN_TILE = 32  # pixels, the least that `tile` can be


def check_tile(tile: Any) -> None:
    """ConfigurationError where `tile` is not "auto", None or a whole number of pixels from `MIN_TILE`."""
    if tile not in ("auto", None) and (isinstance(tile, bool) or not isinstance(tile, int) or tile < MIN_TILE):
        raise ConfigurationError(f'`tile` must be "auto", None or at least {MIN_TILE} pixels, got {tile!r}')


def check_strength(strength: Any) -> None:
    """ConfigurationError where `strength` is no number in [0, 1]."""
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 <= strength <= 1:
        raise ConfigurationError(f"`strength` must be a number from 0 (the photo itself) to 1, got {strength!r}")
