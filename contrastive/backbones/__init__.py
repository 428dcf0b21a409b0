"""Backbones: pixels -> features h. timm and torchvision are imported when a backbone is built."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contrastive.backbones.loading import load_backbone
    from contrastive.backbones.onnx import export_onnx
    from contrastive.backbones.timm import Timm
    from contrastive.backbones.torchvision import Torchvision

__all__ = ["Timm", "Torchvision", "export_onnx", "load_backbone"]

_MODULES = {
    "Timm": "timm",
    "Torchvision": "torchvision",
    "export_onnx": "onnx",
    "load_backbone": "loading",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
