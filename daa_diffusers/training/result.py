"""Result of a training run."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Exit status of a run that saved its initial weights, because no trained weights were better.
START_KEPT = 3


@dataclass
class TrainingResult:
    """Final state of a run, and the folder of its pipeline.

    Attributes:
        pipeline: folder to pass to `DAARestorationPipeline.from_pretrained`; None if the run was interrupted.
        steps: optimizer steps taken so far, in all calls.
        seconds: duration of this call, without a resumed run's earlier calls.
        losses: the last logged mean losses.
        validation: the last validation scores; empty without validation photos.
        skipped_steps: number of steps skipped for a loss or gradient that was not finite or an outlier.
        signal: number of the signal that interrupted the run; None if the run ended.
        best: "step" and "score" of the kept weights if `select_by` chose them; else empty.
        health: the last `HealthReport.values`.
        alarms: warnings, one sentence each.
        skipped_photos: role -> name -> reason for which the photo was skipped.
        returns: number of times that exploded weights were reverted.
        rise: rise of the held-out loss in dB, from the initial to the last weights; None if not finite, or without
            `hold_to_start`.
        kept_step: step of the weights that were saved instead of the last ones, 0 for the initial ones; None if the
            last ones were saved.
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
        """Whether the saved weights are the initial ones, because no trained weights were better."""
        return self.kept_step == 0

    @classmethod
    def of(cls, counters: dict[str, Any], photos: dict[str, list[dict[str, Any]]], **where: Any) -> "TrainingResult":
        """Builds the result of a run.

        Args:
            counters: counters of the run.
            photos: record of the photos that the run was trained on, by role.
            where: the attributes `pipeline`, `steps`, `seconds` and `signal`.
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
