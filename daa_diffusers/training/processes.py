"""Processes of a run and their device, managed by accelerate."""

import logging
import os

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import ProjectConfiguration

from ..errors import ConfigurationError
from .allocator import keep_freed_memory
from .config import TrainingConfig

logger = logging.getLogger(__name__)


def start_accelerator(config: TrainingConfig) -> Accelerator:
    """Creates the accelerator of a run.

    Raises:
        ConfigurationError: the package for `report_to` is not installed, or the device does not support
            `mixed_precision`.
    """
    if config.report_to not in ("none", *(tracker.value for tracker in get_available_trackers())):
        raise ConfigurationError(f"`report_to` {config.report_to} needs a package: pip install {config.report_to}")
    AcceleratorState._reset_state()  # an earlier run in this process may have used another precision
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # otherwise processes on CPUs would not communicate
        mixed_precision=config.mixed_precision,
        log_with=None if config.report_to == "none" else config.report_to,
        project_config=ProjectConfiguration(project_dir=config.output_dir, logging_dir=config.output_dir),
    )
    if config.mixed_precision != "no" and not accelerator.native_amp:
        raise ConfigurationError(
            f"`mixed_precision` {config.mixed_precision} is not available on {accelerator.device.type}; try bf16, or no"
        )
    if "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ and accelerator.num_processes == 1:
        logger.warning(
            "`accelerate launch --cpu --num_processes N` starts one process; `accelerate launch --multi_gpu "
            "--num_processes N` starts N, on CPUs as well"
        )
    return accelerator


def prepare_memory(device: torch.device) -> None:
    """Sets up the memory of `device` between the preparation and the first step."""
    if device.type == "cpu":
        keep_freed_memory()
    elif device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()  # the log reports the peak of training, not of the preparation


def accumulation_steps(config: TrainingConfig, processes: int) -> int:
    """Returns the number of batches per optimizer step in each process.

    Raises:
        ConfigurationError: `total_batch_size` cannot be divided among the processes.
    """
    if config.total_batch_size is None:
        return config.gradient_accumulation_steps
    together = config.batch_size * processes
    if config.total_batch_size % together:
        raise ConfigurationError(
            f"`total_batch_size` must be a multiple of `batch_size` times the processes, {config.batch_size} x "
            f"{processes}, got {config.total_batch_size}"
        )
    return config.total_batch_size // together


def on_any(accelerator: Accelerator, condition: bool | torch.Tensor) -> bool:
    """Whether `condition` holds on any process; all processes must call it together."""
    if accelerator.num_processes == 1:
        return bool(condition)
    return bool(accelerator.reduce(torch.tensor(float(condition), device=accelerator.device), "sum") > 0)


def from_main(accelerator: Accelerator, value: float) -> float:
    """Returns the main process's `value` (float32 if there are several); all processes must call it together."""
    if accelerator.num_processes == 1:
        return value
    ours = torch.tensor(value if accelerator.is_main_process else 0.0, dtype=torch.float32)
    return float(accelerator.reduce(ours.to(accelerator.device), "sum"))
