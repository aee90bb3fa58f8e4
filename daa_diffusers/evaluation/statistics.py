"""Statistics of per-image scores: bootstrap intervals, paired differences, the share of a gap; Markdown tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Scores = Sequence[float] | npt.NDArray[np.floating[Any]]

DRAWS_AT_A_TIME = 2_000_000  # resampled values held in memory at once


@dataclass(frozen=True)
class PairedDifference:
    """The mean per-image difference of two rows of scores, with its interval.

    Attributes:
        mean: mean of `a - b`.
        low, high: bounds of the bootstrap interval of that mean.
        n: number of images.
    """

    mean: float
    low: float
    high: float
    n: int


def bootstrap_interval(
    values: Scores, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean.

    With few images it is too narrow: of normally distributed scores, an interval of 95 % covers the true mean 85 times
    in 100 with 5 images, 90 times with 12, 93 times with 20. It covers other images of the same kind, not other
    training runs.

    Args:
        values: one score for each image (n,), n >= 2, finite.
        level: wanted coverage, in (0, 1).
        resamples: how many times the images are drawn anew, at least 1.
        seed: makes it repeatable.

    Returns:
        (low, high).

    Raises:
        ValueError: an invalid argument.
    """
    scores = _check_scores("values", values)
    if not 0 < level < 1:
        raise ValueError(f"`level` must be in (0, 1), got {level!r}")
    if resamples < 1:
        raise ValueError(f"`resamples` must be at least 1, got {resamples!r}")
    rng = np.random.default_rng(seed)
    at_a_time = max(1, DRAWS_AT_A_TIME // len(scores))
    means = [
        scores[rng.integers(len(scores), size=(min(at_a_time, resamples - start), len(scores)))].mean(axis=1)
        for start in range(0, resamples, at_a_time)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_bootstrap(a: Scores, b: Scores) -> PairedDifference:
    """Mean of the per-image differences `a - b` and its `bootstrap_interval`.

    Args:
        a, b: scores of the same images in the same order, (n,) each, n >= 2, finite.

    Raises:
        ValueError: the lengths differ, or scores are not as above.
    """
    first, second = _check_scores("a", a), _check_scores("b", b)
    if len(first) != len(second):
        raise ValueError(f"`a` and `b` must score the same images, got {len(first)} and {len(second)}")
    difference = first - second
    low, high = bootstrap_interval(difference)
    return PairedDifference(float(difference.mean()), low, high, len(difference))


def gap_closed(adapted: float, control: float, oracle: float) -> float:
    """The share `(adapted - control) / (oracle - control)` of the gap that adaptation closes.

    0: no better than training on without real photos; 1: as good as training on the real pairs; negative: worse than
    the control. NaN where the oracle is not above the control, because then there is no gap.

    Args:
        adapted, control, oracle: mean scores of which more is better, finite.

    Raises:
        ValueError: a score is not finite.
    """
    for name, value in (("adapted", adapted), ("control", control), ("oracle", oracle)):
        if not math.isfinite(value):
            raise ValueError(f"`{name}` must be finite, got {value!r}")
    return (adapted - control) / (oracle - control) if oracle > control else math.nan


def markdown_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | Mapping[str, str] | None = None) -> str:
    """A Markdown table, padded so that its text reads as a table too.

    Args:
        rows: a dict for each row. A missing key or None is an empty cell.
        columns: the columns in order, or a dict from column to format (`{"PSNR": ".2f"}`; an empty one is `str`).
            None: the keys, in order of appearance. Columns of numbers are aligned to the right.

    Returns:
        The table without a final newline.

    Raises:
        ValueError: no column.
    """
    if columns is None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
    if not columns:
        raise ValueError("`columns` must name at least one column, got none")
    formats = dict(columns) if isinstance(columns, Mapping) else dict.fromkeys(columns, "")
    titles = [_cell(column, "") for column in formats]
    cells = [[_cell(row.get(column), spec) for column, spec in formats.items()] for row in rows]
    right = [all(_is_number(row[index]) for row in cells) and bool(cells) for index in range(len(titles))]
    widths = [max(3, *(len(row[index]) for row in [titles, *cells])) for index in range(len(titles))]
    rule = [
        ("-" * (width - 1) + ":") if is_right else "-" * width for width, is_right in zip(widths, right, strict=True)
    ]
    lines = []
    for row in [titles, rule, *cells]:
        padded = (
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        )
        lines.append("| " + " | ".join(padded) + " |")
    return "\n".join(lines)


def _check_scores(name: str, values: Scores) -> npt.NDArray[np.float64]:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or len(scores) < 2:
        raise ValueError(f"`{name}` must hold the scores of at least two images, (n,), got shape {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError(
            f"`{name}` must be finite, got {int((~np.isfinite(scores)).sum())} scores that are not (the PSNR of "
            "identical images is infinite)"
        )
    return scores


def _cell(value: Any, spec: str) -> str:
    text = "" if value is None else value if isinstance(value, str) else format(value, spec)
    return " ".join(text.replace("|", "\\|").split())


def _is_number(cell: str) -> bool:
    try:
        float(cell.removesuffix("%").strip() or "0")
    except ValueError:
        return False
    return True
