"""The restoration pipeline, from photo to photo."""

from .pipeline_daa_restoration import DAARestorationPipeline
from .pipeline_output import DAARestorationPipelineOutput

__all__ = ["DAARestorationPipeline", "DAARestorationPipelineOutput"]
