"""``scripts/label_free.py``: its statistics, its runs, and its tables."""

from __future__ import annotations

import json
import math
from pathlib import Path

import label_free
import numpy as np
import pytest
from label_free import (
    ACCURACY,
    METRICS,
    SUBJECTS,
    WITHOUT_LABELS,
    page_of,
    row_of,
    spearman,
    spearman_interval,
)
from scipy.stats import spearmanr

from contrastive.recipe import load_recipe
from contrastive.registry import load_registry


def test_the_rank_correlation_is_that_of_another_library():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, (2, 50, 12)).astype(float)  # with equal values
    expected = [spearmanr(*pair).statistic for pair in zip(x, y, strict=True)]
    np.testing.assert_allclose(spearman(x, y), expected, atol=1e-12)


def test_what_has_no_rank_correlation_is_nan():
    assert math.isnan(spearman(np.ones((1, 5)), np.arange(5.0)[None])[0])
    assert math.isnan(spearman(np.arange(2.0)[None], np.arange(2.0)[None])[0])
    assert str(spearman_interval(np.ones(5), np.arange(5.0))) == "-"


def test_a_monotone_relation_has_an_interval_of_one_point():
    x = np.arange(12.0)
    assert spearman_interval(x, x**3) == label_free.Correlation(1.0, 1.0, 1.0)
    assert spearman_interval(x, -x).high == -1.0


def test_the_interval_is_the_same_at_every_call_and_mostly_covers_the_truth():
    rng = np.random.default_rng(1)
    truth = 6 / math.pi * math.asin(0.7 / 2)  # Spearman's of two normal variables that correlate by 0.7
    covered = 0
    for _ in range(60):
        x, noise = rng.standard_normal((2, 40))
        y = 0.7 * x + math.sqrt(1 - 0.7**2) * noise
        interval = spearman_interval(x, y, resamples=400)
        covered += interval.low <= truth <= interval.high
        assert interval == spearman_interval(x, y, resamples=400)
    assert covered >= 50  # of 60; a percentile interval covers a little less than 95 %


def test_the_runs_are_valid_and_read_no_label():
    assert len({subject.name for subject in SUBJECTS}) == len(SUBJECTS) == 13
    assert [subject.name for subject in SUBJECTS if not subject.is_trained] == ["untrained", "collapsed"]
    registry = load_registry()
    for subject in SUBJECTS:
        sets = {**WITHOUT_LABELS, **subject.sets}
        recipe = load_recipe(subject.recipe, [f"{key}={value}" for key, value in sets.items()], registry)
        assert not recipe.evaluate.protocols, "so that nothing reads a label"
        assert not recipe.reads_labels


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The folder of finished runs: accuracy rises with recall, but for the collapsed one."""
    for number, subject in enumerate(SUBJECTS):
        views = {metric: float(number) for metric in METRICS} | {"median_rank": 20.0 - number}
        if subject.name == "untrained":
            del views["stability"]
        run, linear = tmp_path / "runs" / subject.name, tmp_path / "linear"
        run.mkdir(parents=True)
        linear.mkdir(exist_ok=True)
        (run / "summary.json").write_text(json.dumps({"views": {"trained": views}}))
        accuracy = 0.99 if subject.name == "collapsed" else 0.5 + number / 100
        (linear / f"{subject.name}.json").write_text(json.dumps({"trained": {ACCURACY: accuracy}}))
    return tmp_path


def test_the_tables_hold_every_run_and_both_correlations(work: Path):
    page = page_of([row_of(subject, work) for subject in SUBJECTS])
    assert "| `simclr` | 0.570 | 7.000 | 13.0 | 7.000 |" in page
    recall, rank = (
        next(line for line in page.splitlines() if line.startswith(f"| {metric} |"))
        for metric in ("recall 1", "median rank")
    )
    assert recall.endswith("| +1.00 (+1.00 to +1.00) |"), "without the collapsed one"
    assert "+0.64 (" in recall
    assert rank.startswith("| median rank | - | -0.64 (")
    assert "| `untrained` |" in page
    assert page.splitlines()[2].endswith("| - |"), "it has one evaluation, so no stability"
