"""Compare metrics without labels with the labels that were hidden: runs on the Fashion-MNIST sample.

``python scripts/label_free.py WORK`` trains the runs below without protocols, so that nothing in them reads a
label, and then evaluates each by a linear probe. It prints Spearman's rank correlation of every metric of
``views/1`` with that accuracy over the runs, with a bootstrap interval, and again without the untrained and
the collapsed encoders. Twelve runs and the metrics were fixed here before any of them was trained; of these,
``no-predictor`` was meant to collapse and did not, so ``collapsed`` was added afterwards. Finished runs and
evaluations stay in WORK, so the script continues when restarted. ``--page docs/results.md`` puts the tables
between the page's markers.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pages import put
from scipy.stats import rankdata

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from contrastive.files import write_whole  # noqa: E402

HERE = (sys.executable, "-m", "contrastive")
#: What the metrics are compared with.
ACCURACY = "linear_top1"
#: The metrics of views, and whether a better encoder is expected to have a higher one.
METRICS = {
    "recall_1": True,
    "median_rank": False,
    "alignment": False,
    "uniformity": False,
    "effective_rank": True,
    "lidar": True,
    "stability": True,
}
#: Resamples of an interval, and the seed that they are drawn from.
RESAMPLES, SEED = 10_000, 0
MARK = "label-free"


@dataclass(frozen=True)
class Subject:
    """A run.

    Attributes:
        name: of its folder.
        recipe: that it starts from.
        sets: what it changes, as for ``--set``.
        is_trained: whether it counts once the untrained and the collapsed encoders are left out.
    """

    name: str
    recipe: str
    sets: Mapping[str, str]
    is_trained: bool = True


#: No protocol that reads a label, and an evaluation after each epoch.
WITHOUT_LABELS = {"evaluate.knn": "none", "evaluate.linear": "none", "evaluate.every": "1"}
#: Ten epochs in place of the recipes' own lengths, so that all take a few minutes.
TEN = {"train.epochs": "10"}
NO_PREDICTOR = {"predictor": "none", "allow": "[collapse]"}
#: Gradients reach the keys, and no batch norm keeps the embeddings apart.
NO_DEFENCE = {"target": "shared", "head.batch_norm": "none"}
SUBJECTS = (
    Subject("untrained", "simclr", {"optimizer.lr": "1.0e-12", "train.max_steps": "2"}, is_trained=False),
    Subject("collapsed", "byol", {**TEN, **NO_PREDICTOR, **NO_DEFENCE}, is_trained=False),
    Subject("no-predictor", "byol", {**TEN, **NO_PREDICTOR}),
    Subject("early-1", "simclr", {**TEN, "train.max_steps": "31"}),
    Subject("early-3", "simclr", {**TEN, "train.max_steps": "93"}),
    Subject("crop-only", "simclr", {**TEN, "augmentation.strength": "0", "augmentation.scale": "[0.8, 1.0]"}),
    Subject("colour-only", "simclr", {**TEN, "augmentation.scale": "[1.0, 1.0]"}),
    Subject("simclr", "simclr", TEN),
    Subject("moco_v2", "moco_v2", TEN),
    Subject("byol", "byol", TEN),
    Subject("barlow_twins", "barlow_twins", TEN),
    Subject("vicreg", "vicreg", TEN),
    Subject("mae", "mae", TEN),
)


@dataclass(frozen=True)
class Correlation:
    """A rank correlation with its 95 % bootstrap interval; NaN where there is none."""

    rho: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.rho):
            return "-"
        return f"{self.rho:+.2f} ({self.low:+.2f} to {self.high:+.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python scripts/label_free.py", description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder of the data, the runs and the evaluations")
    parser.add_argument("--page", type=Path, help="page whose tables are replaced")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    for subject in SUBJECTS:
        train(subject, work)
        evaluate(subject, work)
    text = page_of([row_of(subject, work) for subject in SUBJECTS])
    print(text)
    if arguments.page is not None:
        arguments.page.write_text(put(arguments.page.read_text(), MARK, text))


def train(subject: Subject, work: Path) -> None:
    """Train a run without its labels; a finished one is not repeated."""
    sets = {**WITHOUT_LABELS, **subject.sets}
    options = [f"--set={key}={value}" for key, value in sets.items()]
    command("run", subject.recipe, *options, f"--out={work / 'runs' / subject.name}")


def evaluate(subject: Subject, work: Path) -> None:
    """Evaluate a run by a linear probe, once."""
    path = work / "linear" / f"{subject.name}.json"
    if path.is_file():
        return
    path.parent.mkdir(exist_ok=True)
    run = work / "runs" / subject.name
    write_whole(path, command("evaluate", run, "--protocol=linear", "--json", capture=True))


def command(*words: object, capture: bool = False) -> str:
    """Run a command of the framework; its standard output if it is captured. Ends the script if it fails."""
    line = [*HERE, *map(str, words)]
    print("$ contrastive", *map(str, words), file=sys.stderr, flush=True)
    process = subprocess.run(line, cwd=ROOT, stdout=subprocess.PIPE if capture else sys.stderr, text=True)
    if process.returncode:
        raise SystemExit(process.returncode)
    return process.stdout or ""


def row_of(subject: Subject, work: Path) -> dict[str, Any]:
    """Name, accuracy and metrics of a run; None for a metric that it has not."""
    summary = json.loads((work / "runs" / subject.name / "summary.json").read_text())
    accuracy = json.loads((work / "linear" / f"{subject.name}.json").read_text())["trained"][ACCURACY]
    views = summary["views"]["trained"]
    return {
        "name": subject.name,
        "is_trained": subject.is_trained,
        ACCURACY: accuracy,
        **{metric: views.get(metric) for metric in METRICS},
    }


def page_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Both tables, in Markdown."""
    return "\n".join([*_runs(rows), "", *_correlations(rows)]) + "\n"


def _runs(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    keys = [ACCURACY, *METRICS]
    yield _line(["run", *(key.replace("_", " ") for key in keys)])
    yield _line("---" for _ in ["", *keys])
    for row in rows:
        yield _line([f"`{row['name']}`", *(_number(row[key]) for key in keys)])


def _correlations(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    trained = [row for row in rows if row["is_trained"]]
    yield _line(
        ["metric", "expected", f"all: {len(rows)}", f"neither untrained nor collapsed: {len(trained)}"]
    )
    yield _line(["---"] * 4)
    for metric, is_higher_better in METRICS.items():
        cells = [str(correlation_of(some, metric)) for some in (rows, trained)]
        yield _line([metric.replace("_", " "), "+" if is_higher_better else "-", *cells])


def correlation_of(rows: Sequence[Mapping[str, Any]], metric: str) -> Correlation:
    """Of a metric with the accuracy, over the runs that have it."""
    pairs = [(row[metric], row[ACCURACY]) for row in rows if row[metric] is not None]
    values, accuracies = np.array(pairs, dtype=float).reshape(-1, 2).T
    return spearman_interval(values, accuracies)


def spearman_interval(
    x: np.ndarray, y: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED
) -> Correlation:
    """Spearman's rank correlation with its 95 % percentile bootstrap interval.

    Runs are resampled with replacement. A resample in which all values of one side are equal has no
    correlation and is left out. With few runs such an interval is too narrow rather than too wide.

    Args:
        x, y: float [n], paired.
    """
    (rho,) = spearman(x[None], y[None])
    if math.isnan(rho):
        return Correlation(math.nan, math.nan, math.nan)
    choice = np.random.default_rng(seed).integers(0, len(x), (resamples, len(x)))
    correlations = spearman(x[choice], y[choice])
    low, high = np.quantile(correlations[~np.isnan(correlations)], [0.025, 0.975])
    return Correlation(float(rho), float(low), float(high))


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each row, float [r, n] and [r, n] -> [r]; equal values share their mean
    rank. NaN for fewer than three values, and if all values of a row are equal."""
    if x.shape[1] < 3:
        return np.full(len(x), math.nan)
    a, b = (rankdata(values, axis=1) for values in (x, y))
    a, b = (ranks - ranks.mean(1, keepdims=True) for ranks in (a, b))
    scale = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    with np.errstate(invalid="ignore"):
        return np.where(scale > 0, (a * b).sum(1) / scale, math.nan)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
