"""Augmentations: the views of an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from contrastive.parts.base import Part
from contrastive.parts.dataset import ReducedImage
from contrastive.rng import Key
from contrastive.views import Marks


class ViewOfImage(Protocol):
    """One view of one image, as a decoding worker starts it."""

    def reduction(self, size: tuple[int, int]) -> int:
        """The factor by which the sides of an image of (H, W) may be divided before the crop."""

    def before(self, image: ReducedImage) -> Tensor:
        """The worker's share of the view: -> uint8 [C, h, w]."""


class ViewPipeline(Protocol):
    """The operations of one view; :class:`contrastive.augmentations.Pipeline` implements it.

    Call it to augment a batch of images of one size. If the images do not form a batch, a decoding worker
    runs ``for_image(id, key).before(image)`` and the device runs ``after`` on the batch of the results.

    Attributes:
        per_sample: whether an operation works image by image, so that batches cannot be augmented.
        crops_first: whether ``before`` only crops.
    """

    per_sample: bool
    crops_first: bool

    @property
    def size(self) -> tuple[int, int] | None:
        """(h, w) of the view if the pipeline fixes one; None if it follows from the image's."""

    def output_size(self, size: tuple[int, int] | None) -> tuple[int, int] | None:
        """(h, w) of the views of images of ``size`` (H, W; None if they vary); None if view sizes vary."""

    def __call__(self, images: Tensor, ids: np.ndarray | Tensor, key: Key) -> Tensor:
        """uint8 [b, C, H, W] and int64 [b] -> float32 [b, C, h, w] in [0, 1], on the same device."""

    def for_image(self, id: int, key: Key) -> ViewOfImage:  # noqa: A002
        """The view of one image."""

    def after(self, pixels: Tensor, ids: np.ndarray | Tensor, key: Key) -> Tensor:
        """The device's share, on a batch from ``before``: uint8 [b, C, h, w] -> float32 [b, C, h, w]."""

    def batch_view(
        self, images: Tensor, ids: np.ndarray | Tensor, key: Key, device: torch.device | str
    ) -> Tensor:
        """The view on ``device`` of images of one size on the CPU, for any operations; shapes as in a
        call."""

    def marks(self, ids: np.ndarray | Tensor, key: Key, grid: tuple[int, int], sizes: np.ndarray) -> Marks:
        """Masks, targets and the place of the view, for a grid of patches (rows, columns) and images of
        ``sizes`` int [b, 2]; asked for only if an objective reads them."""

    def sample(self, image: Tensor, id: int, key: Key) -> Tensor:  # noqa: A002
        """The whole view of one image of any size: uint8 [C, H, W] -> uint8 [C, h, w]."""


class Augmentation(Part, ABC):
    """The views of an image: pipelines of operations, one per view."""

    kind = "augmentation"

    @abstractmethod
    def pipelines(self) -> Sequence[ViewPipeline]:
        """One pipeline per view (two for most methods)."""

    def view_after(self, views: Sequence[ViewPipeline]) -> ViewPipeline:
        """The pipeline of its view in a list of views, after those of ``views``; by default its first."""
        return self.pipelines()[0]

    def __call__(
        self, images: Tensor, ids: np.ndarray | Tensor, seed: int = 0, epoch: int = 0
    ) -> list[Tensor]:
        """Every view of a batch, for your own training loop.

        Args:
            images: uint8 [b, C, H, W].
            ids: int64 [b]; the draws depend only on these, ``seed`` and ``epoch``.

        Returns:
            float32 [b, C, h, w] in [0, 1], one per view.
        """
        return [
            pipeline(images, ids, Key(seed, epoch, view)) for view, pipeline in enumerate(self.pipelines())
        ]
