"""Result of an evaluation: scores of each photo in several rows, with means, intervals and differences."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline
from .label_free import label_free_score
from .named_metrics import PSNR_CAP, Column
from .photo_pairs import PhotoPairs
from .statistics import PairedDifference, bootstrap_interval, paired_bootstrap

IDENTITY = "identity"  # name of the row of the untouched input

Restorers = Mapping[str, DAARestorationPipeline | None]


@dataclass(frozen=True)
class Evaluation:
    """Scores of each photo in several rows.

    Attributes:
        columns: measured columns.
        photos: names of the scored photos.
        scores: row -> name of a column -> scores in the order of `photos`. "identity" is the first row. The PSNR of
            identical images is inf.
        skipped: name of a photo skipped in all rows -> reason.
        pairs, restorers: evaluated photos and restorers, for contact sheets.
        protocol: description of the computation of all numbers, for reports.
        unmeasured: name of a photo excluded from the estimated gain, because its noise cannot be measured -> reason.
    """

    columns: tuple[Column, ...]
    photos: tuple[str, ...]
    scores: dict[str, dict[str, list[float]]]
    skipped: dict[str, str]
    protocol: str
    pairs: PhotoPairs = field(repr=False)
    restorers: Restorers = field(repr=False)
    unmeasured: dict[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the rows, "identity" first."""
        return tuple(self.scores)

    @property
    def main(self) -> Column:
        """Column by which photos are ranked: the first metric, else the remaining noise."""
        return self.columns[0]

    def values(self, row: str, column: str) -> npt.NDArray[np.float64]:
        """Returns the scores (n,) as used in means, with PSNR capped at 100 dB."""
        values = np.asarray(self.scores[row][column], dtype=np.float64)
        return np.minimum(values, PSNR_CAP) if column.startswith("psnr") else values

    def mean(self, row: str, column: str) -> float:
        """Returns the mean of the scores."""
        return float(self.values(row, column).mean())

    def interval(self, row: str, column: str) -> tuple[float, float] | None:
        """Returns the bootstrap interval (95 %) of the mean; None with a single photo."""
        return bootstrap_interval(self.values(row, column)) if len(self.photos) > 1 else None

    def difference(self, row: str, column: str, baseline: str) -> PairedDifference | None:
        """Returns the mean of `row` minus `baseline` over photos with its interval (95 %); None with a single photo."""
        if len(self.photos) < 2:
            return None
        return paired_bootstrap(self.values(row, column), self.values(baseline, column))

    def gains(self, row: str, column: Column, baseline: str = IDENTITY) -> npt.NDArray[np.float64]:
        """Returns by how much each photo (n,) is better in `row` than in `baseline`; negative if worse."""
        return (column.sign or 1) * (self.values(row, column.name) - self.values(baseline, column.name))

    @property
    def gain_is_known(self) -> bool:
        """Whether a gain is estimated, which requires that the noise of at least half of the photos can be measured."""
        return 2 * len(self.unmeasured) <= len(self.photos)

    def label_free_scores(self, row: str) -> tuple[float, float] | None:
        """Returns (estimated gain in dB, score) of `evaluation.label_free` over the photos whose noise can be measured.

        None unless `gain_is_known`.
        """
        if not self.gain_is_known:
            return None
        included = [name not in self.unmeasured for name in self.photos]
        noise_left, correlation = (
            float(self.values(row, column)[included].mean()) for column in ("noise_left", "signal_correlation")
        )
        gain = 10 * math.log10(1 / noise_left)
        return gain, label_free_score(gain, correlation)
