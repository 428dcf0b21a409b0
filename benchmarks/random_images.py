"""A data set of random pixels, for what is measured without data."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from contrastive.build import Data
from contrastive.parts import Dataset, ImageTable, Split


class RandomImages(ImageTable):
    """Random pixels, of one size or, as photographs, of several.

    Args:
        count: of the images.
        size: (H, W); None for photographs.
        channels: 1 or 3.
    """

    def __init__(self, count: int, size: tuple[int, int] | None, channels: int = 3):
        self.ids = np.arange(count)
        self.labels = self.ids % 10
        self.size = size
        self.channels = channels

    def decode(self, index: int) -> Tensor:
        height, width = self.size or ((256, 288) if index % 2 else (288, 256))
        pixels = np.random.default_rng(index).integers(0, 256, (self.channels, height, width), dtype=np.uint8)
        return torch.from_numpy(pixels)

    def name(self, index: int) -> str:
        return f"image {index}"


class RandomDataset(Dataset):
    """A train split of random images."""

    def __init__(self, table: RandomImages):
        self._table = table

    def table(self, split: Split) -> ImageTable | None:
        return self._table if split == "train" else None

    def fingerprint(self) -> str:
        return "0" * 64


def random_data(table: RandomImages) -> Data:
    """A data set of these images, as if it had been opened."""
    dataset = RandomDataset(table)
    return Data(dataset, table, None, dataset.fingerprint())
