"""Camera adapters: small trained changes of a frozen restorer, each in a folder of its own.

`updates` defines the changes, `files` stores them, `matching` chooses one for a photo, `loaded` applies it to a
restorer. Pipelines load adapters (`pipelines.adapter_mixin`), training makes them (`training.adapter_training`).
"""

from .files import AdapterConfig, read_adapter, save_adapter
from .loaded import LoadedAdapters
from .matching import Camera, choose_adapter, read_camera
from .updates import KINDS, attach, attached, extract, fingerprint, updates_for

__all__ = [
    "KINDS",
    "AdapterConfig",
    "Camera",
    "LoadedAdapters",
    "attach",
    "attached",
    "choose_adapter",
    "extract",
    "fingerprint",
    "read_adapter",
    "read_camera",
    "save_adapter",
    "updates_for",
]
