"""Exceptions of ``daa_diffusers``.

All of them are subclasses of ``ValueError``. A message states the argument, option or file, the value received, and the
value expected. The modules in ``daa_diffusers/models`` raise plain ``ValueError``: they import only torch and
diffusers, so that each also works as custom code in a Hub repository.
"""

import difflib
from collections.abc import Iterable


class ConfigurationError(ValueError):
    """Invalid options, folders or degradations, or invalid combinations of them."""


class UnreadablePhotoError(ValueError):
    """A photo file cannot be decoded, or has values or a layout that restorers do not support.

    Args:
        message: full message.
        reason: message without the file name, for lists that show the name; None: same as `message`.
    """

    def __init__(self, message: str, reason: str | None = None):
        super().__init__(message)
        self.reason = reason or message


class MissingPackageError(ConfigurationError, UnreadablePhotoError):
    """A file format requires a package that is not installed."""


class CheckpointError(ValueError):
    """A checkpoint is missing, incomplete or of an unknown type, or does not fit the model."""


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Returns the end of a message about an unknown `name`: the most similar known one, or "" if none is similar."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" (did you mean {close[0]!r}?)" if close else ""


__all__ = ["CheckpointError", "ConfigurationError", "MissingPackageError", "UnreadablePhotoError"]
