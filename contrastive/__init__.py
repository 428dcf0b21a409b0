"""contrastive: contrastive and self-supervised image representation learning, composed from plugins.

Names resolve when they are first used (PEP 562), so that ``import contrastive`` imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from contrastive.kinds import hookimpl

if TYPE_CHECKING:
    from contrastive.backbones.loading import load_backbone as load_backbone
    from contrastive.comparison import Comparison as Comparison
    from contrastive.method import Method as Method
    from contrastive.run_folder import Run as Run
    from contrastive.runs import run as run

_PUBLIC = {
    "Comparison": "contrastive.comparison",
    "Method": "contrastive.method",
    "Run": "contrastive.run_folder",
    "load_backbone": "contrastive.backbones.loading",
    "run": "contrastive.runs",
}

__all__ = ["hookimpl", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'contrastive' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
