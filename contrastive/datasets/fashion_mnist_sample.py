"""The Fashion-MNIST sample (Xiao, Rasul and Vollgraf 2017) that ships with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from contrastive.datasets.fingerprints import fingerprint_tables
from contrastive.parts import Dataset, ImageTable, Split

_FILE = Path(__file__).with_name("fashion_mnist_sample.npz")


class FashionMNISTSample(Dataset):
    """Fashion-MNIST sample inside the package: 8,000 train and 2,000 test images, 28 x 28 grey.

    Balanced over ten classes; no download. Created by ``scripts/make_fashion_mnist_sample.py``;
    MIT licence, Zalando SE.
    """

    def table(self, split: Split) -> ImageTable:
        with np.load(_FILE, allow_pickle=False) as arrays:
            return ArrayTable(arrays[f"{split}_images"], arrays[f"{split}_labels"], f"fashion_mnist {split}")

    @property
    def classes(self) -> list[str]:
        return [
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ]

    def fingerprint(self) -> str:
        return fingerprint_tables({"both": [_FILE]})


class ArrayTable(ImageTable):
    """Grey images held in memory.

    Args:
        images: uint8 [n, H, W].
        labels: integers [n].
        title: of the table, for messages.
    """

    channels = 1

    def __init__(self, images: np.ndarray, labels: np.ndarray, title: str):
        self.images, self.title = torch.from_numpy(images), title
        self.ids = np.arange(len(images), dtype=np.int64)
        self.labels = labels.astype(np.int64)
        self.size = (images.shape[1], images.shape[2])

    def decode(self, index: int) -> Tensor:
        return self.images[index][None]

    def name(self, index: int) -> str:
        return f"{self.title} row {index}"
