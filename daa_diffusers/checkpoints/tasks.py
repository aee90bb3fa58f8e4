"""Registry of restoration tasks: descriptions, degradations and checkpoints. To add a task, extend `_TASKS`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Task:
    """Restoration task.

    Args:
        name: name in configs, records and `--task`; lower case with underscores.
        doing: gerund, e.g. "denoising", for the text and the Hub tag of model cards.
        purpose: sentence on what restorers for this task do.
        limits: sentences on what these restorers do not do.
        degradations: types of synthetic degradations for training, the default first; each belongs to one task only.
        start: bundled checkpoint from which adaptation starts by default.
        checkpoint: default bundled checkpoint for restoring; None: none is bundled.
        caution: additional sentence for the model card.
        removes_noise: whether the task is noise removal. If so, the pipeline's guard measures noise, evaluation reports
            the noise left in results, and adaptation fits a noise model to the photos and trains on their restored
            versions.
        removes_streaks: whether the task is removal of rain streaks. If so, the pipeline's guard is that of derainers.
        example: degradation config for the example photos; empty: the first of `degradations`, with its defaults.
        example_words: name of that degradation in the title of the example photos, e.g. "camera noise".
    """

    name: str
    doing: str
    purpose: str
    limits: str
    degradations: tuple[str, ...]
    start: str = "daa-denoise"
    checkpoint: str | None = None
    caution: str = ""
    removes_noise: bool = False
    removes_streaks: bool = False
    example: Mapping[str, Any] = field(default_factory=dict)
    example_words: str = ""

    @property
    def description(self) -> str:
        """Sentences on what restorers for this task do and do not do."""
        return f"{self.purpose} {self.limits}"

    @property
    def preset(self) -> str:
        """Name of the training preset that adapts a restorer to this task."""
        return "adapt" if self.name == DEFAULT_TASK else f"adapt-{self.name.replace('_', '-')}"


DEFAULT_TASK = "denoise"
_TASKS = (
    Task(
        "denoise",
        "denoising",
        "Removes the noise of cameras.",
        "It does not remove blur or rain.",
        ("gaussian", "camera", "fitted", "transplant"),
        checkpoint="daa-denoise",
        caution="It can remove fine texture from almost clean photos.",
        removes_noise=True,
        # one camera at one high ISO setting: strong noise, correlated by demosaicing and coarsened by JPEG, about 27 dB
        example={
            "type": "camera",
            "shot": [0.008, 0.016],
            "read": [0.004, 0.008],
            "demosaic_probability": 1.0,
            "smoothing_probability": 0.0,
            "gamma": [2.4, 2.4],
            "jpeg_quality": [85, 95],
            "jpeg_probability": 1.0,
        },
        example_words="camera noise",
    ),
    Task(
        "derain",
        "deraining",
        "Removes rain streaks.",
        "It does not remove noise or blur.",
        ("rain", "filtered_rain"),
        start="daa-derain",
        checkpoint="daa-derain",
        removes_streaks=True,
        example={
            "type": "filtered_rain",
            "cover": [0.08, 0.15],
            "layers": [2, 2],
            "angle": [12, 20],
            "brightness": [0.6, 0.8],
            "length": [20, 40],
        },
        example_words="rain",
    ),
    Task(
        "deblur",
        "deblurring",
        "Removes the blur of a moving camera.",
        "It does not remove noise, rain or strong defocus.",
        ("motion_blur",),
        start="daa-deblur",
        checkpoint="daa-deblur",
        example={"type": "motion_blur", "length": [10, 14], "shake": [0, 2], "pull": [0, 2], "shot": [1e-6, 1e-5]},
        example_words="camera shake",
    ),
)
TASKS = {task.name: task for task in _TASKS}


def task_of_degradation(kind: str) -> str | None:
    """The task of a degradation type; None for types without one, such as "mixture"."""
    return next((task.name for task in TASKS.values() if kind in task.degradations), None)


def judged_by_noise(task: str | None) -> bool:
    """Whether the guard of denoisers and the scores of noise apply to a task; True for None and unknown tasks."""
    return task not in TASKS or TASKS[task].removes_noise


def judged_by_streaks(task: str | None) -> bool:
    """Whether the guard of derainers (`pipelines.rain_guard`) applies to a task."""
    return task in TASKS and TASKS[task].removes_streaks


def known_tasks() -> str:
    """All task names, for messages and help: "denoise, derain or deblur"."""
    *others, last = TASKS
    return f"{', '.join(others)} or {last}"
