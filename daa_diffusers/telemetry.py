"""Deactivation of telemetry in libraries that this package uses.

Each library reads its environment variable when it is imported, so `daa_diffusers/__init__.py` calls `switch_off`
before any of these imports. Variables that are already set are the user's decision and stay. wandb is not listed: it is
imported only where `report_to` asks for it, and reporting is its purpose.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

OFF = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, and with it diffusers, transformers, accelerate and datasets
    "GRADIO_ANALYTICS_ENABLED": "False",  # gradio, also used by trackio's dashboard
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray; its workers inherit it
}


def switch_off() -> None:
    """Sets the environment variables in `OFF` that are not yet set, for this process and its subprocesses."""
    for name, value in OFF.items():
        os.environ.setdefault(name, value)


@contextmanager
def without_onnxruntime() -> Iterator[None]:
    """Context in which diffusers does not import ONNX Runtime when it loads a pipeline.

    diffusers checks whether a component is a `diffusers.OnnxRuntimeModel`, whose module imports ONNX Runtime. An empty
    class replaces it, since no component of this package is one.
    """
    import diffusers

    name = "OnnxRuntimeModel"
    if name in vars(diffusers) or "onnxruntime" in sys.modules:
        yield
        return
    setattr(diffusers, name, type(name, (), {}))
    try:
        yield
    finally:
        vars(diffusers).pop(name, None)  # the next access loads the real class
