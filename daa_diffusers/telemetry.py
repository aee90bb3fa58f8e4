"""Deactivation of the usage reports of libraries that this package uses.

Each of these libraries reads its variable when it is imported, so `daa_diffusers/__init__.py` calls `switch_off` before
any of them is. A variable that is set already is the user's decision and stays. wandb is not listed: it is
imported only where `report_to` asks for it, and reporting is its purpose.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

OFF = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime: a device id and a database of events in the cache, a collector
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, and with it diffusers, transformers, accelerate and datasets
    "GRADIO_ANALYTICS_ENABLED": "False",  # gradio, which trackio's dashboard uses too
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray; its workers inherit it
}


def switch_off() -> None:
    """Sets the variables of `OFF` that are not set, for this process and those that it starts."""
    for name, value in OFF.items():
        os.environ.setdefault(name, value)


@contextmanager
def without_onnxruntime() -> Iterator[None]:
    """Keeps diffusers from importing ONNX Runtime while it loads a pipeline.

    Diffusers asks of every component whether it is a `diffusers.OnnxRuntimeModel`, whose module imports ONNX Runtime.
    No component of this package is one, so an empty class answers the question.
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
