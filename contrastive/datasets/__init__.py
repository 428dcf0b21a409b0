"""Datasets: where images, ids and (if any) labels come from.

Names resolve on first use, so that importing this package imports neither torchvision nor pyarrow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contrastive.datasets.fashion_mnist import FashionMNISTSample
    from contrastive.datasets.folder import ImageFolder
    from contrastive.datasets.hugging_face import HuggingFace
    from contrastive.datasets.parquet import Parquet
    from contrastive.datasets.subset import Subset
    from contrastive.datasets.torchvision_sets import Torchvision

__all__ = ["FashionMNISTSample", "HuggingFace", "ImageFolder", "Parquet", "Subset", "Torchvision"]

_MODULES = {
    "FashionMNISTSample": "fashion_mnist",
    "HuggingFace": "hugging_face",
    "ImageFolder": "folder",
    "Parquet": "parquet",
    "Subset": "subset",
    "Torchvision": "torchvision_sets",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
