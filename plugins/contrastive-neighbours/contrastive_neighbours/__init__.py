"""Nearest neighbours as parts: NNCLR, NNBYOL, NNSiam, MSF, ReSSL and All4One."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from contrastive import hookimpl
from contrastive_neighbours.centroid import Centroid
from contrastive_neighbours.mean_shift import MSF
from contrastive_neighbours.redundancy import Redundancy
from contrastive_neighbours.relation import ReSSL
from contrastive_neighbours.target import Neighbours

contrastive_api = 2

Register = Callable[[str, Any], None]


@hookimpl
def register_target(register: Register) -> None:
    register("neighbours", Neighbours)


@hookimpl
def register_loss(register: Register) -> None:
    register("msf", MSF)
    register("ressl", ReSSL)
    register("centroid", Centroid)
    register("redundancy", Redundancy)
