"""Translation of the trainer's option names in messages to those of `daa adapt`."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import ConfigurationError

# Option of the trainer -> option of `daa adapt`.
OPTION_NAMES = {
    "real": "photos",
    "clean": "--clean",
    "init_from": "--checkpoint",
    "output_dir": "--output",
    "minutes": "--minutes",
    "steps": "--minutes",
    "seed": "--seed",
    "validation_bursts": "--bursts",
}


@contextmanager
def adapt_option_names() -> Iterator[None]:
    """Context in which the trainer's errors and log messages use the option names of `daa adapt`."""
    handlers = logging.getLogger().handlers[:]
    for handler in handlers:
        handler.addFilter(_rename_options)
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(renamed(str(error).replace(", or set `resume_with_changes`", ""))) from error
    finally:
        for handler in handlers:
            handler.removeFilter(_rename_options)


def renamed(text: str) -> str:
    """Replaces the option names in a message of the trainer with those of `daa adapt`."""
    for trainer_name, adapt_name in OPTION_NAMES.items():
        text = text.replace(f"`{trainer_name}`", f"`{adapt_name}`")
    return text


def _rename_options(record: logging.LogRecord) -> bool:
    """Renames options in a log record, as a filter that keeps all records."""
    record.msg, record.args = renamed(record.getMessage()), ()
    return True
