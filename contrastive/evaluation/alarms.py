"""Warnings about collapsed, exploding or vanishing embeddings and dead memories."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from contrastive.evaluation.objective_monitors import PATCH_IMAGES, PATCHES, prefix_of
from contrastive.evaluation.views import NeighbourMemory
from contrastive.monitors import collapse_warning, length_warning, memory_warning, patch_collapse_warning
from contrastive.parts import Callback, RunState
from contrastive.training import Method


class Alarms(Callback):
    """Warns at every evaluation whose embeddings collapse, explode or vanish, and once about each memory that
    is dead. What it saves is what the next evaluation is compared with.

    Args:
        images: that the monitors read.
        neighbours: of images at the last evaluation.
    """

    def __init__(self, images: int, neighbours: NeighbourMemory | None = None):
        self._images = images
        self._neighbours = neighbours or NeighbourMemory()
        self._before: dict[str, Tensor] = {}  # each memory at the previous evaluation
        self._warned_sources: set[str] = set()

    def evaluated(self, run: RunState, metrics: Mapping[str, float]) -> None:
        method = run.method
        self._neighbours.keep()
        if "effective_rank" not in metrics:
            run.warn("no image that validates can be read, so there are no monitors")
            return
        for message in self._warnings(method, metrics):
            run.warn(message)
        for path, source in method.named_parts("negatives").items():
            memory = source.memory()
            if memory is None or path in self._warned_sources:
                continue
            if reason := memory_warning(memory.z, memory.valid, self._before.get(path)):
                run.warn(f"{path}: {reason}")
                self._warned_sources.add(path)
            self._before[path] = memory.z.clone()

    def state_dict(self) -> dict[str, Any]:
        return self._neighbours.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._neighbours.load_state_dict(state)

    def _warnings(self, method: Method, metrics: Mapping[str, float]) -> Iterator[str]:
        """What is wrong with the embeddings of each objective; the rank of h counts once."""
        image = method.image_objective
        width = 1 if image is None else image.head.out_features
        features, rank = method.backbone.features, metrics["effective_rank"]
        std = metrics.get("embedding_std", math.nan)
        yield from filter(None, [collapse_warning(std, rank, width, min(features, self._images))])
        yield from filter(None, [length_warning(metrics.get("embedding_norm", math.nan))])
        for objective in method.objectives:
            prefix = prefix_of(method, objective)
            own = {
                key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)
            }
            width = objective.head.out_features
            messages: list[str | None] = []
            if objective.level == "patch":
                spread = own.get("std_within_images", math.nan), own.get("std_across_images", math.nan)
                most = min(features, PATCHES * min(self._images, PATCH_IMAGES))
                messages = [patch_collapse_warning(*spread, own.get("effective_rank", math.nan), width, most)]
            elif objective is not image:
                messages = [
                    collapse_warning(own.get("embedding_std", math.nan), math.nan, width, features),
                    length_warning(own.get("embedding_norm", math.nan)),
                ]
            yield from (f"{objective.name}: {message}" for message in messages if message)
