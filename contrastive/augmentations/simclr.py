"""SimCLR's augmentation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from contrastive.augmentations.colour import ColorJitter, Grayscale
from contrastive.augmentations.filters import Blur
from contrastive.augmentations.geometry import Flip, RandomResizedCrop
from contrastive.augmentations.pipeline import Operation, Pipeline
from contrastive.parts import Augmentation

#: Images up to this side are not blurred by default (the paper's CIFAR-10 setting).
SMALL = 32


class SimCLR(Augmentation):
    """SimCLR's two views: crop, flip, colour jitter, grayscale, blur (Chen et al. 2020, appendix A).

    Crop of 0.08 to 1 of the area (bicubic), flip 0.5, jitter 0.8, grayscale 0.2, blur 0.5 with sigma
    from 0.1 to 2.

    Args:
        size: side of the square views in pixels.
        strength: of the colour jitter; the paper has 1 for ImageNet, 0.5 for CIFAR-10.
        blur: ``auto`` follows the paper: not at 32 pixels and below.
    """

    def __init__(
        self,
        size: Annotated[int, Field(ge=1)],
        strength: Annotated[float, Field(ge=0, le=2.5)] = 1.0,
        blur: bool | Literal["auto"] = "auto",
    ):
        self._operations: list[Operation] = [
            RandomResizedCrop(size, interpolation="bicubic"),
            Flip(),
            ColorJitter(strength),
            Grayscale(),
        ]
        if size > SMALL if blur == "auto" else blur:
            self._operations.append(Blur())

    def pipelines(self) -> list[Pipeline]:
        """Two equal pipelines."""
        return [Pipeline(self._operations) for _ in range(2)]
