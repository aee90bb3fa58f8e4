"""Earlier path of `daa_diffusers.official.convert`, kept for existing code."""

from .official.convert import convert_official_state_dict

__all__ = ["convert_official_state_dict"]
