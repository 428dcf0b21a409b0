"""The whole plugin interface: one hook per kind, called once with ``register(name, part)``.

``part`` is a class derived from the kind's base in :mod:`contrastive.parts`, or a reference
``"package.module:Class"`` that is imported when the part is first used. A hook registers parts
and does nothing else: a recipe names what acts during a run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from contrastive.kinds import hookspec

Register = Callable[[str, Any], None]


@hookspec
def register_dataset(register: Register) -> None:
    """Register datasets: subclasses of ``contrastive.parts.Dataset``."""


@hookspec
def register_augmentation(register: Register) -> None:
    """Register augmentations: subclasses of ``contrastive.parts.Augmentation``."""


@hookspec
def register_backbone(register: Register) -> None:
    """Register backbones: subclasses of ``contrastive.parts.Backbone``."""


@hookspec
def register_head(register: Register) -> None:
    """Register heads and predictors: subclasses of ``contrastive.parts.Head``."""


@hookspec
def register_target(register: Register) -> None:
    """Register targets: subclasses of ``contrastive.parts.Target``."""


@hookspec
def register_negatives(register: Register) -> None:
    """Register sources of negatives: subclasses of ``contrastive.parts.Negatives``."""


@hookspec
def register_loss(register: Register) -> None:
    """Register losses: subclasses of ``contrastive.parts.Loss``."""


@hookspec
def register_optimizer(register: Register) -> None:
    """Register optimizers: subclasses of ``contrastive.parts.Optimizer``."""


@hookspec
def register_callback(register: Register) -> None:
    """Register callbacks: subclasses of ``contrastive.parts.Callback``."""


@hookspec
def register_protocol(register: Register) -> None:
    """Register evaluation protocols: subclasses of ``contrastive.parts.Protocol``."""
