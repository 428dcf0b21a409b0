"""Does the batched augmentation train as torchvision's does? kNN accuracy of paired runs that differ in it.

The shipped SimCLR recipe, shortened, once with its own augmentation and once with the same distribution from
torchvision v2, image by image; paired by seed (weights and order of the images are the same). Each run has
its own folder and continues from where it stopped.

python -m benchmarks fidelity                 the row of the table (about an hour on one core)
python -m benchmarks.fidelity --out FOLDER    with the runs under FOLDER
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import Row, child, markdown

RUNS = Path("runs/fidelity")
SEEDS = range(5)
STUDENT_T = 2.776  # 97.5 % quantile of 4 degrees of freedom, of five differences
STRENGTH = 0.5

#: What ``{name: simclr, size: 28, strength: 0.5, scale: [0.3, 1.0]}`` draws, in torchvision's words.
TORCHVISION: list[dict[str, Any]] = [
    {"transform": "RandomResizedCrop", "options": {"size": 28, "scale": [0.3, 1.0], "interpolation": 3}},
    {"transform": "RandomHorizontalFlip"},
    {
        "transform": "RandomApply",
        "options": {
            "p": 0.8,
            "transforms": [
                {
                    "transform": "ColorJitter",
                    "options": {
                        "brightness": 0.8 * STRENGTH,
                        "contrast": 0.8 * STRENGTH,
                        "saturation": 0.8 * STRENGTH,
                        "hue": 0.2 * STRENGTH,
                    },
                }
            ],
        },
    },
    {"transform": "RandomGrayscale", "options": {"p": 0.2}},
]
AUGMENTATIONS: dict[str, Any] = {
    "fast": {"name": "simclr", "size": 28, "strength": STRENGTH, "scale": [0.3, 1.0]},
    "torchvision": [{"name": "torchvision", **entry} for entry in TORCHVISION],
}
OVERRIDES = {"train.epochs": 15, "train.workers": 0, "evaluate.every": 0, "evaluate.linear": "none"}


def train(path: str, seed: int, out: str) -> float:
    """kNN accuracy on test, in percent, of one run; a finished run is only read."""
    import contrastive

    overrides = {**OVERRIDES, "train.seed": seed, "augmentation": AUGMENTATIONS[path]}
    run = contrastive.run("simclr", overrides, out=Path(out) / f"{path}-seed{seed}")
    return 100 * run.summary["trained"]["knn_top1"]


def rows(out: Path = RUNS) -> Iterator[Row]:
    fast, theirs = (
        [child("benchmarks.fidelity:train", path, seed, str(out.resolve()), threads=1) for seed in SEEDS]
        for path in AUGMENTATIONS
    )
    differences = [a - b for a, b in zip(fast, theirs, strict=True)]
    mean = statistics.mean(differences)
    half = STUDENT_T * statistics.stdev(differences) / math.sqrt(len(differences))
    yield Row(
        f"simclr, {OVERRIDES['train.epochs']} epochs, {len(SEEDS)} seeds",
        "% kNN",
        statistics.mean(fast),
        "torchvision v2, image by image",
        statistics.mean(theirs),
        mean,
        mean - half,
        mean + half,
        target=-2.0,
        note="difference in points and its Student-t 95 % interval, not a ratio",
        criterion="low",
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fidelity", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", type=Path, default=RUNS, help="folder of the runs")
    print(markdown(list(rows(parser.parse_args().out))))


if __name__ == "__main__":
    main()
