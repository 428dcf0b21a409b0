"""Augmentations: the views of an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from contrastive.parts.base import Part
from contrastive.rng import Key


class ViewPipeline(Protocol):
    """What makes one view of a batch; :class:`contrastive.augmentations.Pipeline` is one."""

    def __call__(self, images: Tensor, ids: np.ndarray | Tensor, key: Key) -> Tensor:
        """uint8 [b, C, H, W] and int64 [b] -> float32 [b, C, h, w] in [0, 1], on the same device."""

    def output_size(self, size: tuple[int, int] | None) -> tuple[int, int] | None:
        """(h, w) of the views of images of ``size`` (H, W), None if these vary; None if views do."""


class Augmentation(Part, ABC):
    """The views of an image: pipelines of operations, one a view."""

    kind = "augmentation"

    @abstractmethod
    def pipelines(self) -> Sequence[ViewPipeline]:
        """One pipeline a view (two for most methods)."""

    def __call__(
        self, images: Tensor, ids: np.ndarray | Tensor, seed: int = 0, epoch: int = 0
    ) -> list[Tensor]:
        """Every view of a batch, for anyone's own loop.

        Args:
            images: uint8 [b, C, H, W].
            ids: int64 [b]; together with ``seed`` and ``epoch`` all that the draws depend on.

        Returns:
            float32 [b, C, h, w] in [0, 1], one a view.
        """
        return [
            pipeline(images, ids, Key(seed, epoch, view)) for view, pipeline in enumerate(self.pipelines())
        ]
