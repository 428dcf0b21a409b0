"""What a run tells its user in plain words when its numbers go wrong without being wrong."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from contrastive.monitors import collapse_warning, length_warning, memory_warning
from contrastive.parts import Callback, RunState


class Alarms(Callback):
    """Says in plain words when embeddings collapse, explode or vanish, at every evaluation that shows it, or
    that a memory is dead, once."""

    def __init__(self, images: int):
        self._images = images
        self._before: dict[int, Tensor] = {}  # what each memory held at the evaluation before
        self._warned_sources: set[int] = set()

    def evaluated(self, run: RunState, metrics: Mapping[str, float]) -> None:
        method = run.method
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
            if message := memory_warning(memory.z, memory.valid, self._before.get(number)):
                run.warn(f"negatives.{number}: {message}")
                self._warned_sources.add(number)
            self._before[number] = memory.z.clone()
