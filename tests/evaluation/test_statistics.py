"""Intervals that cover what they promise, paired differences, the share of a gap, Markdown tables."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daa_diffusers.evaluation import bootstrap_interval, gap_closed, markdown_table, paired_bootstrap


def test_coverage_is_near_what_was_asked():
    # 400 experiments with 60 skewed scores each; the true mean is 1. The standard error of the coverage is 1.5 %.
    rng = np.random.default_rng(0)
    for level in (0.8, 0.95):
        bounds = [bootstrap_interval(rng.exponential(size=60), level=level, resamples=500, seed=i) for i in range(400)]
        coverage = np.mean([low <= 1.0 <= high for low, high in bounds])
        assert level - 0.06 < coverage < level + 0.04


def test_interval_is_that_of_the_normal_approximation_for_many_images():
    values = np.random.default_rng(1).normal(30, 2, size=2000)
    low, high = bootstrap_interval(values, seed=3)
    half = 1.96 * values.std() / math.sqrt(2000)
    assert low == pytest.approx(values.mean() - half, abs=0.01)
    assert high == pytest.approx(values.mean() + half, abs=0.01)


def test_interval_equals_scipys():
    from scipy.stats import bootstrap

    values = np.random.default_rng(2).gamma(2.0, size=15)
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=0).confidence_interval
    assert bootstrap_interval(values, resamples=20_000) == pytest.approx(tuple(theirs), abs=0.03)


def test_interval_is_repeatable_and_independent_of_the_memory_split(monkeypatch):
    values = np.random.default_rng(3).normal(size=30)
    first = bootstrap_interval(values, seed=7)
    assert first == bootstrap_interval(values.tolist(), seed=7)
    assert first != bootstrap_interval(values, seed=8)
    monkeypatch.setattr("daa_diffusers.evaluation.statistics.DRAWS_AT_A_TIME", 1000)
    assert bootstrap_interval(values, seed=7) == pytest.approx(first, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30), st.floats(0.5, 0.9))
def test_interval_lies_among_the_values_and_widens_with_its_level(values, level):
    low, high = bootstrap_interval(values, level=level, resamples=200)
    wide_low, wide_high = bootstrap_interval(values, level=0.99, resamples=200)
    slack = 1e-9 * max(map(abs, values), default=0)
    assert min(values) - slack <= wide_low <= low <= high <= wide_high <= max(values) + slack


def test_pairing_sees_what_unpaired_scores_hide():
    rng = np.random.default_rng(4)
    control = rng.normal(33, 4, size=20)  # photos differ by far more than methods
    adapted = control + 0.15 + rng.normal(0, 0.1, size=20)
    difference = paired_bootstrap(adapted, control)
    assert difference.n == 20
    assert difference.mean == pytest.approx((adapted - control).mean(), abs=1e-12)
    assert 0 < difference.low < difference.mean < difference.high
    assert (difference.low, difference.high) == bootstrap_interval(adapted - control)
    mirrored = paired_bootstrap(control, adapted)
    assert mirrored.high < 0
    unclear = paired_bootstrap(control + rng.normal(0, 1, size=20), control)
    assert unclear.low <= 0 <= unclear.high


def test_gap_closed():
    assert gap_closed(35.0, 34.0, 36.0) == 0.5
    assert gap_closed(33.5, 34.0, 36.0) == -0.25
    assert math.isnan(gap_closed(35.0, 34.0, 34.0)) and math.isnan(gap_closed(35.0, 34.0, 33.0))
    with pytest.raises(ValueError, match="`oracle` must be finite, got inf"):
        gap_closed(35.0, 34.0, math.inf)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval([]), "`values` must hold the scores of at least two images"),
        (lambda: bootstrap_interval([31.0]), "at least two images"),
        (lambda: bootstrap_interval(np.ones((3, 2))), r"got shape \(3, 2\)"),
        (lambda: bootstrap_interval([31.0, math.inf]), "`values` must be finite, got 1 scores"),
        (lambda: bootstrap_interval([31.0, math.nan]), "finite"),
        (lambda: bootstrap_interval([1.0, 2.0], level=95), r"`level` must be in \(0, 1\), got 95"),
        (lambda: bootstrap_interval([1.0, 2.0], resamples=0), "`resamples` must be at least 1"),
        (lambda: paired_bootstrap([1.0, 2.0], [1.0, 2.0, 3.0]), "the same images, got 2 and 3"),
        (lambda: paired_bootstrap([1.0, 2.0], [1.0, math.nan]), "`b` must be finite"),
        (lambda: markdown_table([]), "`columns` must name at least one column"),
        (lambda: markdown_table([{"a": 1}], []), "`columns` must name at least one column"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_markdown_table():
    rows = [
        {"row": "identity", "PSNR": 28.1449},
        {"row": "adapted | paper", "PSNR": 35.1, "note": "first\nline"},
    ]
    assert markdown_table(rows, {"row": "", "PSNR": ".2f", "note": ""}).split("\n") == [
        "| row              |  PSNR | note       |",
        "| ---------------- | ----: | ---------- |",
        "| identity         | 28.14 |            |",
        "| adapted \\| paper | 35.10 | first line |",
    ]
    assert markdown_table(rows).split("\n")[0] == "| row              |    PSNR | note       |"
    assert markdown_table(rows, ["PSNR"]).split("\n")[2:] == ["| 28.1449 |", "|    35.1 |"]
    assert markdown_table([], ["PSNR"]).split("\n") == ["| PSNR |", "| ---- |"]
    shares = markdown_table([{"gap": "50 %"}, {"gap": "-4 %"}, {}], ["gap"])
    assert shares.split("\n")[1:] == ["| ---: |", "| 50 % |", "| -4 % |", "|      |"]
