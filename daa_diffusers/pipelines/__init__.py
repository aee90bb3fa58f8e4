"""Restoration pipeline for photos."""

from typing import Any

__all__ = ["DAARestorationPipeline", "DAARestorationPipelineOutput"]


def __getattr__(name: str) -> Any:
    """Imports public names when they are first used: commands read `limits` without importing torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import daa_diffusers

    return getattr(daa_diffusers, name)
