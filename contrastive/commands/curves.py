"""The curves of a run: what its metrics.jsonl holds, over epochs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any


def curves(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """``loss``, monitors and metrics of metrics.jsonl as (epoch, value); the loss is the mean per epoch."""
    values_of: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        for key, value in line.items():
            if key not in ("step", "epoch", "lr", "images_per_second") and type(value) in (int, float):
                values_of[key][line["epoch"]].append(value)
    return {
        key: [(epoch, fmean(values)) for epoch, values in epochs.items()] for key, epochs in values_of.items()
    }
