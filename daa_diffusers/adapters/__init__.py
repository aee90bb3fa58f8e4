"""Camera adapters: small trained updates of a frozen restorer, each in its own folder.

`updates` defines the updates, `files` reads and writes adapters, `matching` chooses an adapter for a photo, and
`loaded` applies adapters to a restorer. Pipelines load adapters (`pipelines.adapter_mixin`); training produces them
(`training.adapter_training`).
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
