"""Protocols: how an encoder is scored. Names resolve on first use (PEP 562)."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {"FineTune": "finetune", "KNN": "knn", "LinearProbe": "linear", "Retrieval": "retrieval"}

__all__ = ["KNN", "FineTune", "LinearProbe", "Retrieval"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
