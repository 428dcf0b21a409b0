"""Protocols: how a frozen encoder is scored. Names resolve on first use (PEP 562)."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {"KNN": "knn", "LinearProbe": "linear"}

__all__ = ["KNN", "LinearProbe"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
