"""SimCLR's augmentation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from contrastive.augmentations.blur import Blur
from contrastive.augmentations.color_jitter import ColorJitter
from contrastive.augmentations.flip import Flip
from contrastive.augmentations.grayscale import Grayscale
from contrastive.augmentations.pipeline import Operation, Pipeline
from contrastive.augmentations.random_resized_crop import RandomResizedCrop
from contrastive.kinds import Epochs
from contrastive.parts import Augmentation
from contrastive.schedules import Schedule, ScheduleKeys

#: Largest side in pixels of views that are not blurred by default (the paper's CIFAR-10 setting).
SMALL = 32

Share = Annotated[float, Field(gt=0, le=1)]


class SimCLR(Augmentation):
    """SimCLR's two views: crop, flip, colour jitter, grayscale, blur (Chen et al. 2020, appendix A).

    Bicubic crop of 0.08 to 1 of the area, flip 0.5, jitter 0.8, grayscale 0.2, blur 0.5 with sigma
    from 0.1 to 2.

    Args:
        size: side of the square views in pixels; as a schedule, a little larger from epoch to epoch
            (progressive resolution).
        strength: of the colour jitter; the paper uses 1 for ImageNet and 0.5 for CIFAR-10.
        scale: smallest and largest share of the area that the crop keeps; larger crops learn faster in
            short runs on small images.
        blur: whether to blur; ``auto`` follows the paper: only above 32 pixels.
    """

    def __init__(
        self,
        size: Annotated[int, Field(ge=1)] | Schedule,
        strength: Annotated[float, Field(ge=0, le=2.5)] = 1.0,
        scale: tuple[Share, Share] = (0.08, 1.0),
        blur: bool | Literal["auto"] = "auto",
        epochs: Epochs = 1,
    ):
        self._operations: list[Operation] = [
            RandomResizedCrop(size, scale, interpolation="bicubic", epochs=epochs),
            Flip(),
            ColorJitter(strength),
            Grayscale(),
        ]
        largest = max(size.start, size.to) if isinstance(size, ScheduleKeys) else size
        if largest > SMALL if blur == "auto" else blur:
            self._operations.append(Blur())

    def pipelines(self) -> list[Pipeline]:
        """Two equal pipelines."""
        return [Pipeline(self._operations) for _ in range(2)]
