"""Methods whose targets are assignments to prototypes: SwAV, DeepCluster-v2, DINO, iBOT, DINOv2 and MSN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from contrastive import hookimpl
from contrastive_clusters.assignments import sinkhorn
from contrastive_clusters.deepcluster import DeepCluster, kmeans
from contrastive_clusters.dino import DINO, DINOHead
from contrastive_clusters.msn import MSN
from contrastive_clusters.swav import SwAV

__all__ = ["DINO", "MSN", "DINOHead", "DeepCluster", "SwAV", "kmeans", "sinkhorn"]

contrastive_api = 2

Register = Callable[[str, Any], None]


@hookimpl
def register_head(register: Register) -> None:
    register("dino", DINOHead)


@hookimpl
def register_loss(register: Register) -> None:
    register("dino", DINO)
    register("msn", MSN)
    register("swav", SwAV)
    register("deepcluster_v2", DeepCluster)
