"""Optimizers: update rule, parameter groups and schedule."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contrastive.optimizers.groups import Group
    from contrastive.optimizers.lars import LARS
    from contrastive.optimizers.rates import LearningRate, ScaledRate
    from contrastive.optimizers.scheduled import AdamWPart, LARSPart, SGDPart

__all__ = ["LARS", "AdamWPart", "Group", "LARSPart", "LearningRate", "SGDPart", "ScaledRate"]

_MODULES = {
    "Group": "groups",
    "LARS": "lars",
    "LearningRate": "rates",
    "ScaledRate": "rates",
    "AdamWPart": "scheduled",
    "LARSPart": "scheduled",
    "SGDPart": "scheduled",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
