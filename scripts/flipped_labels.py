"""Average precision of ``contrastive labels`` when some labels of the Fashion-MNIST sample are wrong::

    python scripts/flipped_labels.py --encoder RUN

A label that is flipped becomes another class, each equally likely. The ranking is by the same probe on raw
pixels and on the features of an encoder. Average precision is that of flipped labels, most suspicious first;
a random order has the share of flipped labels.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import torch

from contrastive.curation import FeatureTable, open_features, rank_labels
from contrastive.curation.features import texts
from contrastive.datasets import FashionMNISTSample
from contrastive.registry import load_registry


def pixels() -> FeatureTable:
    """The sample with its pixels as features."""
    dataset = FashionMNISTSample()
    tables = {split: dataset.table(split) for split in ("train", "test")}
    images = [table.decode(row).flatten() for table in tables.values() for row in range(len(table))]
    splits = [split for split, table in tables.items() for _ in range(len(table))]
    return FeatureTable(
        splits=texts(splits),
        ids=np.concatenate([table.ids for table in tables.values()]),
        names=texts(splits),
        labels=np.concatenate([table.labels for table in tables.values() if table.labels is not None]),
        vectors=torch.stack(images).float() / 255,
    )


def flip(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Labels of which a share is another class."""
    rng = np.random.default_rng(seed)
    classes = int(labels.max()) + 1
    rows = rng.choice(len(labels), round(share * len(labels)), replace=False)
    flipped_labels = labels.copy()
    flipped_labels[rows] = (labels[rows] + rng.integers(1, classes, len(rows))) % classes
    return flipped_labels


def average_precision(is_relevant: np.ndarray) -> float:
    """Of a ranking [n] bool, most suspicious first."""
    ranks = np.flatnonzero(is_relevant) + 1
    return float((np.arange(1, len(ranks) + 1) / ranks).mean())


def precision_of(table: FeatureTable, labels: np.ndarray) -> float:
    ranking = rank_labels(replace(table, labels=labels))
    return average_precision(labels[ranking.rows] != table.labels[ranking.rows])


def main() -> None:
    parser = argparse.ArgumentParser(description="Rank labels of which some are flipped.")
    parser.add_argument("--encoder", action="append", default=[], help="may be repeated")
    parser.add_argument("--share", type=float, default=0.05, help="of the labels (default: 0.05)")
    parser.add_argument("--seeds", type=int, default=3, help="default: 3")
    arguments = parser.parse_args()
    sources = {"raw pixels": pixels()}
    for encoder in arguments.encoder:
        sources[encoder] = open_features(encoder, load_registry(), {"dataset": "fashion_mnist_sample"})
    for name, table in sources.items():
        values = [
            precision_of(table, flip(table.labels, arguments.share, seed)) for seed in range(arguments.seeds)
        ]
        print(f"{name}: average precision {np.mean(values):.3f} ({', '.join(f'{v:.3f}' for v in values)})")


if __name__ == "__main__":
    main()
