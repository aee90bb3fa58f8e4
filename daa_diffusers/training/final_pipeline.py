"""The pipeline that a run saves after its last step."""

from typing import cast

from ..errors import CheckpointError
from ..files import UnwritableError
from ..hub.records import keep_run_record
from ..models.daa_unet import DAAUNet2DConditionModel
from ..objectives.base import Objective
from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline
from ..sources.folders import PhotoSource
from .adapter_training import save_trained_adapter
from .config import TrainingConfig
from .kept_weights import KeptWeights
from .run_folder import RunFolder


def save_pipeline(
    config: TrainingConfig, folder: RunFolder, model: Objective, kept: KeptWeights, real: list[PhotoSource]
) -> None:
    """Saves the pipeline of a run with its final weights, and its adapter if it trains one.

    Args:
        config: options of the run.
        folder: its output folder.
        model: the trained networks.
        kept: the weights to save.
        real: sources of the real photos.

    Raises:
        CheckpointError: the pipeline cannot be written. It can be saved later from the last checkpoint.
    """
    try:
        with kept.chosen() as restorer:
            unet = model.kept_networks.get("noise_predictor") if config.save_noise_predictor else None
            restorer.float()
            if config.adapter:
                restorer = save_trained_adapter(config, restorer, folder.adapter, real)
            keep_run_record(restorer, folder.record)
            pipeline = DAARestorationPipeline(restorer, cast(DAAUNet2DConditionModel | None, unet))
            pipeline.save_pretrained(str(folder.pipeline))
    except UnwritableError as error:
        raise CheckpointError(
            f"all steps are done and their checkpoint is kept, but the pipeline is not saved: {error}. Run "
            "the same command again to save it"
        ) from error
