"""Views of one crop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from contrastive.augmentations.pipeline import Frame, Params, Pipeline, Placing
from contrastive.errors import UsageError
from contrastive.parts import Augmentation, ViewPipeline
from contrastive.rng import Draws


class CropOf(Augmentation):
    """The same place of the image as another view: its crop and flip, then operations of its own.

    Within ``views``, a recipe writes it as ``{crop_of: 0, pipeline: [...]}``. CMAE shifts one of two such
    views; DINOv3's Gram anchoring shows its teacher the same place at a higher resolution.

    Args:
        crop_of: the number of the view, an earlier one of the list.
        pipeline: what follows the crop and flip, drawn as this view's own; the first of its pipelines.
        size: side of the crop in pixels; null: that of the other view.
    """

    def __init__(
        self,
        crop_of: Annotated[int, Field(ge=0)],
        pipeline: Augmentation | None = None,
        size: Annotated[int, Field(ge=1)] | None = None,
    ):
        self._view, self._own, self._size = crop_of, pipeline, size

    def pipelines(self) -> list[ViewPipeline]:
        """Raises UsageError: there is no other view."""
        raise UsageError("crop_of needs another view; write it as an entry of views, after that view.")

    def view_after(self, views: Sequence[ViewPipeline]) -> ViewPipeline:
        """The crop and flip of one of ``views``, and the operations of the own pipeline."""
        if self._view >= len(views):
            raise UsageError(
                f"crop_of: view {len(views)} can take the crop of an earlier view only, but names view "
                f"{self._view}."
            )
        other = _pipeline(views[self._view])
        if other.frame is not None:
            raise UsageError(
                f"crop_of: view {self._view} has the crop of view {other.frame.view} itself; name view "
                f"{other.frame.view}."
            )
        operations = other.start
        frame = Frame(self._view, len(operations))
        if not operations:
            raise UsageError(
                f"crop_of: view {self._view} starts with neither a crop nor a flip; put random_resized_crop "
                "first."
            )
        if self._size is not None:
            crop = operations[0]
            if not isinstance(crop, Placing):
                raise UsageError(
                    f"crop_of: size needs a crop, but view {self._view} starts with {crop.name}; remove size."
                )
            operations[0] = _OtherSize(crop, self._size)
        own = [] if self._own is None else _pipeline(self._own.pipelines()[0]).operations
        return Pipeline([*operations, *own], frame)


class _OtherSize(Placing):
    """The boxes of another crop, at another resolution."""

    def __init__(self, of: Placing, size: int):
        self.of, self.size = of, (size, size)
        self.name, self.interpolation = of.name, of.interpolation

    def at(self, epoch: int) -> Placing:
        """Itself: the size of the other crop does not matter."""
        return self

    def draw(self, rng: Draws) -> Params:
        return self.of.draw(rng)

    def place(self, params: Params, sizes: np.ndarray) -> np.ndarray:
        return self.of.place(params, sizes)


def _pipeline(pipeline: ViewPipeline) -> Pipeline:
    """The pipeline, whose operations can be combined; raises UsageError for one of another class."""
    if not isinstance(pipeline, Pipeline):
        raise UsageError(
            f"crop_of needs views made of operations, but {type(pipeline).__name__} is not a "
            "contrastive.augmentations.Pipeline; use an augmentation made of operations."
        )
    return pipeline
