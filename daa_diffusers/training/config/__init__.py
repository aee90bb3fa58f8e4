"""Options of a training run, from defaults, presets, YAML files and the command line."""

from .options import TrainingConfig
from .presets import PRESETS
from .resolve import parse_arguments, read_yaml, resolve

__all__ = ["PRESETS", "TrainingConfig", "parse_arguments", "read_yaml", "resolve"]
