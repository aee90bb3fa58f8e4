"""Options of a training run: dataclass -> preset -> YAML file -> command line."""

from .options import TrainingConfig
from .presets import PRESETS
from .resolve import parse_arguments, read_yaml, resolve

__all__ = ["PRESETS", "TrainingConfig", "parse_arguments", "read_yaml", "resolve"]
