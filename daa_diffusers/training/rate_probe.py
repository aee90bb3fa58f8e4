"""Choice of the learning rate by a few supervised steps at several rates."""

import logging
import math
from typing import Any

import torch
from torch import nn

from ..objectives.losses import charbonnier
from .batches import Batches
from .config import TrainingConfig
from .held_out import HeldOut, Pairs, pairs_apart
from .optimizers import OPTIMIZERS
from .processes import from_main
from .run_folder import RunFolder
from .steps import Steps

logger = logging.getLogger(__name__)

FACTORS = (1.0, 1 / 4, 1 / 16, 1 / 64)  # tried multiples of the given learning rate
STEPS = 12  # steps per tried rate
ACCEPTED = 1.0  # largest accepted rise of the held-out loss in dB


def probe_rate(config: TrainingConfig, restorer: nn.Module, batches: Batches, held_out: HeldOut) -> dict[str, Any]:
    """Finds the largest learning rate at which the held-out loss rises by at most `ACCEPTED`.

    Tries the given rate and fractions of it (`FACTORS`); the smallest is used if none is accepted. At each rate the
    initial restorer takes `STEPS` steps of the optimizer on eq. (5), on pairs that are not used for training. Since
    single steps fluctuate, the mean of its weights over the second half of these steps is evaluated. The restorer is
    not changed.

    Returns:
        JSON-plain: "of", the given learning rate; "factor", the chosen factor; and "tried", a list with the "rate" and
        the "rise" of the held-out loss in dB (None if not finite) of each try.
    """
    unused = pairs_apart(batches.dataset, "rate probe", STEPS * config.batch_size, config.batch_size)
    batches_of_pairs = [batches.in_range(batch) for batch in unused]
    start = {name: value.detach().clone() for name, value in restorer.state_dict().items()}
    tried = []
    for factor in FACTORS:
        rate = config.learning_rate * factor
        parameters = [p for p in restorer.parameters() if p.requires_grad]
        optimizer = OPTIMIZERS[config.optimizer](parameters, lr=rate)
        _train(restorer, optimizer, batches_of_pairs, config.objective["charbonnier_eps"])
        rise = held_out.rise(restorer)
        restorer.load_state_dict(start)
        tried.append({"rate": rate, "rise": rise if math.isfinite(rise) else None})
        if rise <= ACCEPTED:
            break
    return {"factor": factor, "of": config.learning_rate, "tried": tried}


def _train(restorer: nn.Module, optimizer: torch.optim.Optimizer, batches: Pairs, eps: float) -> None:
    """Takes a step on every batch, then sets the weights to their mean over the second half of the steps."""
    parameters = optimizer.param_groups[0]["params"]
    half = len(batches) // 2
    means = [torch.zeros_like(p) for p in parameters]
    for number, batch in enumerate(batches):
        optimizer.zero_grad()
        charbonnier(restorer(batch["synthetic"]), batch["clean"], eps).backward()
        optimizer.step()
        if number >= half:
            for mean, parameter in zip(means, parameters, strict=True):
                mean += parameter.detach() / (len(batches) - half)
    optimizer.zero_grad()
    with torch.no_grad():
        for parameter, mean in zip(parameters, means, strict=True):
            parameter.copy_(mean)


def learning_rate_factor(config: TrainingConfig, folder: RunFolder, steps: Steps, held_out: HeldOut) -> float:
    """Returns the factor of the restorer's learning rate, from the record if the run was probed before."""
    record, accelerator = folder.record, steps.accelerator
    probed = record.get("learning_rate", {})
    if not config.probe_learning_rate or (record["steps"] and not probed):  # record of an earlier version
        return 1.0
    if accelerator.is_main_process and probed.get("of") != config.learning_rate:
        logger.info("preparing: probing learning rates")
        probed = probe_rate(config, steps.bare.restorer, steps.batches, held_out)
        folder.update(learning_rate=probed)
    return from_main(accelerator, probed["factor"] if accelerator.is_main_process else 0.0)
