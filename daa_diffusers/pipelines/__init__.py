"""The restoration pipeline, from photo to photo."""

from typing import Any

__all__ = ["DAARestorationPipeline", "DAARestorationPipelineOutput"]


def __getattr__(name: str) -> Any:
    """The public names, imported when first used: `limits` is read by commands that import no torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import daa_diffusers

    return getattr(daa_diffusers, name)
