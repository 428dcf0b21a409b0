"""The data set ``my_dataset``."""

import hashlib

import numpy as np
import torch
from contrastive import hookimpl
from contrastive.parts import Dataset, ImageTable, Split
from pydantic import PositiveInt

contrastive_api = 1


class MyDataset(Dataset):
    """Coloured gratings of 28 x 28 pixels, made and not read; the class is the angle.

    Args:
        images: of each split.
        angles: how many classes there are.
    """

    def __init__(self, images: PositiveInt = 2048, angles: PositiveInt = 6):
        self.images, self.angles = images, angles

    def table(self, split: Split) -> ImageTable:
        """The images of a split; the ids of the two never meet."""
        return Gratings(np.arange(self.images) + (split == "test") * self.images, self.angles)

    def fingerprint(self) -> str:
        """SHA-256 of all that the images follow from."""
        return hashlib.sha256(f"gratings 1 {self.images} {self.angles}".encode()).hexdigest()


class Gratings(ImageTable):
    """Rows of images, each a function of its id."""

    size = (28, 28)

    def __init__(self, ids: np.ndarray, angles: int):
        self.ids, self.labels, self.angles = ids, ids % angles, angles

    def decode(self, index: int) -> torch.Tensor:
        """uint8 [3, H, W]."""
        rng = np.random.default_rng(self.ids[index])
        y, x = np.mgrid[:28, :28] * rng.uniform(0.5, 1)
        angle = np.pi * self.labels[index] / self.angles
        wave = np.sin(x * np.cos(angle) + y * np.sin(angle) + rng.uniform(0, 2 * np.pi))
        return torch.from_numpy((rng.uniform(64, 255, (3, 1, 1)) * (wave + 1) / 2).astype(np.uint8))

    def name(self, index: int) -> str:
        return f"grating {self.ids[index]}"


@hookimpl
def register_dataset(register):
    register("my_dataset", MyDataset)
