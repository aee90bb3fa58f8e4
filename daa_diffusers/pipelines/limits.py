"""Checks of the pipeline's arguments, shared with commands that have not yet loaded the pipeline."""

from typing import Any

from ..errors import ConfigurationError

MIN_TILE = 32  # pixels, minimum of `tile`


def check_tile(tile: Any) -> None:
    """Raises ConfigurationError unless `tile` is "auto", None or an integer of at least `MIN_TILE`."""
    if tile not in ("auto", None) and (isinstance(tile, bool) or not isinstance(tile, int) or tile < MIN_TILE):
        raise ConfigurationError(f'`tile` must be "auto", None or at least {MIN_TILE} pixels, got {tile!r}')


def check_strength(strength: Any) -> None:
    """Raises ConfigurationError unless `strength` is a number in [0, 1]."""
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 <= strength <= 1:
        raise ConfigurationError(f"`strength` must be a number from 0 (unchanged photo) to 1, got {strength!r}")
