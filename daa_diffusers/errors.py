"""The typed errors of ``daa_diffusers``.

All of them are ``ValueError`` subclasses, so a caller who does not care about the difference catches that one class. A
message names the argument, option or file, the value received, and the value expected. The files in
``daa_diffusers/models`` raise plain ``ValueError``: they import only torch and diffusers, so that each of them also
works as a single file of custom Hub code.
"""


class ConfigurationError(ValueError):
    """Options, folders or degradations that cannot work, alone or together."""


class UnreadablePhotoError(ValueError):
    """A file that should hold a photo cannot be decoded, or holds values or a layout that no restorer can take.

    Args:
        message: the whole text.
        reason: the same without the file's name, for lists that have it already; None: the message.
    """

    def __init__(self, message: str, reason: str | None = None):
        super().__init__(message)
        self.reason = reason or message


class MissingPackageError(ConfigurationError, UnreadablePhotoError):
    """A file format needs a package that is not installed."""


class CheckpointError(ValueError):
    """A checkpoint is missing, incomplete, of an unknown kind, or does not fit the model it is loaded into."""


__all__ = ["CheckpointError", "ConfigurationError", "MissingPackageError", "UnreadablePhotoError"]
