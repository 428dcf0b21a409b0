"""A table of noise with labels and unreadable rows of one's choice."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from contrastive.data import holdout
from contrastive.errors import UnreadableImage
from contrastive.parts import ImageTable

N = 60
TENTH = holdout(np.arange(N))


class Pictures(ImageTable):
    """Noise; rows in ``broken`` do not decode."""

    size = (16, 16)

    def __init__(self, labels: np.ndarray | None, n: int = N, broken: tuple[int, ...] = ()):
        self.ids, self.labels, self.broken = np.arange(n), labels, broken

    def decode(self, index: int) -> Tensor:
        if index in self.broken:
            raise UnreadableImage(self.name(index), "is empty")
        pixels = np.random.default_rng(index).integers(0, 256, (3, 16, 16), dtype=np.uint8)
        return torch.from_numpy(pixels)

    def name(self, index: int) -> str:
        return f"picture {index}"


LABELS = np.arange(N) % 3
