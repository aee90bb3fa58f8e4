"""Earlier path of `daa_diffusers.foreign.restorer`, kept for saved pipelines that refer to it."""

from diffusers import ModelMixin  # diffusers looks for this name in the module of a component

from ..foreign.restorer import ForeignRestorer

__all__ = ["ForeignRestorer", "ModelMixin"]
