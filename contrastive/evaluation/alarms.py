"""Warnings about collapsed, exploding or vanishing embeddings and dead memories."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from contrastive.monitors import collapse_warning, length_warning, memory_warning
from contrastive.parts import Callback, RunState


class Alarms(Callback):
    """Warns at every evaluation whose embeddings collapse, explode or vanish, and once about each memory that
    is dead.

    Args:
        images: that the monitors read.
    """

    def __init__(self, images: int):
        self._images = images
        self._before: dict[str, Tensor] = {}  # each memory at the previous evaluation
        self._warned_sources: set[str] = set()

    def evaluated(self, run: RunState, metrics: Mapping[str, float]) -> None:
        method = run.method
        if "effective_rank" not in metrics:
            run.warn("no image that validates can be read, so there are no monitors")
            return
        image = method.image_objective
        collapse = collapse_warning(
            metrics.get("embedding_std", math.nan),
            metrics["effective_rank"],
            1 if image is None else image.head.out_features,
            min(method.backbone.features, self._images),
        )
        length = length_warning(metrics.get("embedding_norm", math.nan))
        for message in filter(None, (collapse, length)):
            run.warn(message)
        for path, source in method.named_parts("negatives").items():
            memory = source.memory()
            if memory is None or path in self._warned_sources:
                continue
            if reason := memory_warning(memory.z, memory.valid, self._before.get(path)):
                run.warn(f"{path}: {reason}")
                self._warned_sources.add(path)
            self._before[path] = memory.z.clone()
