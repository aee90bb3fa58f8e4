"""Functions shared by the tabs: restoration options, error messages, and updates on selection."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, ConfigurationError, UnreadablePhotoError
from ..restoring.options import Options

if TYPE_CHECKING:
    import gradio

logger = logging.getLogger(__name__)


def options_from(strength: float, guard: bool, ensemble: bool, location: bool) -> Options:
    """Returns options from the page's controls; raises ConfigurationError if `strength` is not a number in [0, 1]."""
    return Options(strength=strength, guard=guard, self_ensemble=ensemble, strip_location=location)


def error_text(error: Exception) -> str:
    """Returns the message for the page. Unexpected errors are also logged, and their message starts with their type."""
    if isinstance(error, ConfigurationError | CheckpointError | UnreadablePhotoError):
        return str(error)
    logger.error("the page's request failed", exc_info=error)
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"


def follow(choice: gradio.Dropdown, shown: gradio.blocks.Block, of: Callable[[str], Any]) -> None:
    """Updates a text or a row of examples when another checkpoint is selected.

    Args:
        choice: list of checkpoints.
        shown: block to update.
        of: function from the name of a checkpoint to the new value.
    """
    choice.change(of, choice, shown, show_progress="hidden", trigger_mode="always_last", api_visibility="private")
