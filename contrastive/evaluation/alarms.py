"""Warnings about collapsed, exploding or vanishing embeddings and dead memories."""

from __future__ import annotations

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
        self._before: dict[int, Tensor] = {}  # each memory at the previous evaluation
        self._warned_sources: set[int] = set()

    def evaluated(self, run: RunState, metrics: Mapping[str, float]) -> None:
        method = run.method
        if "embedding_std" not in metrics:
            run.warn("no image that validates can be read, so there are no monitors")
            return
        collapse = collapse_warning(
            metrics["embedding_std"],
            metrics["effective_rank"],
            method.head.out_features,
            min(method.backbone.features, self._images),
        )
        for message in filter(None, (collapse, length_warning(metrics["embedding_norm"]))):
            run.warn(message)
        for number, source in enumerate(method.sources):
            memory = source.memory()
            if memory is None or number in self._warned_sources:
                continue
            if reason := memory_warning(memory.z, memory.valid, self._before.get(number)):
                run.warn(f"negatives.{number}: {reason}")
                self._warned_sources.add(number)
            self._before[number] = memory.z.clone()
