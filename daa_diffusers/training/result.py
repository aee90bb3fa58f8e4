"""Result of a training run."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Exit status of a run without weights better than its start, whose weights it saved.
START_KEPT = 3


@dataclass
class TrainingResult:
    """Location of a run's results, and its final state.

    Attributes:
        pipeline: folder to pass to `DAARestorationPipeline.from_pretrained`; None where the run was interrupted.
        steps: optimizer steps taken so far, in all calls.
        seconds: time of this call (a resumed run's earlier calls are not counted).
        losses: the last logged losses.
        validation: the last validation scores; empty without validation photos.
        skipped_steps: steps that were not taken because a loss or gradient was not finite.
        signal: number of the signal that interrupted the run, whose checkpoint is saved; None where it ended.
        best: "step" and "score" of the weights kept, where `select_by` chose; else empty.
        health: the last label-free values (`training.health`).
        alarms: warnings, a sentence each.
        skipped_photos: photos that were left out, by role: name and reason.
        returns: how often exploded weights were reverted.
        rise: decibels by which the held-out loss of the last weights is above that of the start; None where it is not
            finite, or the run is not held to its start.
        kept_step: step of the weights that were saved instead, 0 for the start's; None where the last ones were good.
    """

    pipeline: Path | None
    steps: int
    seconds: float
    losses: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    skipped_steps: int = 0
    signal: int | None = None
    best: dict[str, float] = field(default_factory=dict)
    health: dict[str, float] = field(default_factory=dict)
    alarms: list[str] = field(default_factory=list)
    skipped_photos: dict[str, dict[str, str]] = field(default_factory=dict)
    returns: int = 0
    rise: float | None = None
    kept_step: int | None = None

    @property
    def start_kept(self) -> bool:
        """Whether the weights saved are the initial ones: no trained weights were better."""
        return self.kept_step == 0

    @classmethod
    def of(cls, counters: dict[str, Any], photos: dict[str, list[dict[str, Any]]], **where: Any) -> "TrainingResult":
        """From a run's counters and the photos that it was trained on.

        Args:
            where: pipeline, steps, seconds and signal.
        """
        skipped = {
            role: {name: reason for source in sources for name, reason in source["skipped"].items()}
            for role, sources in photos.items()
        }
        return cls(
            **where,
            losses=counters["losses"],
            validation=counters["validation"],
            skipped_steps=counters["skipped_steps"],
            best=counters["best"],
            health=counters["health"],
            alarms=[*counters["harm"], *counters["alarms"]],
            returns=len(counters["safeguard"].get("returns", ())),
            **counters.get("kept", {}),
            skipped_photos={role: names for role, names in skipped.items() if names},
        )
