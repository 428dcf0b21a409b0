"""Augmentations: batched operations on tensors, each image with parameters of its own.

``SimCLR(size=32)(images, ids)`` gives the two views of a batch; ``docs/augmentations.md`` tells the rest.
"""

from contrastive.augmentations.adapter import TorchvisionTransform
from contrastive.augmentations.colour import ColorJitter, Grayscale, Solarize
from contrastive.augmentations.filters import Blur, Noise, Sobel
from contrastive.augmentations.geometry import Cutout, Flip, RandomResizedCrop, Rotation
from contrastive.augmentations.pipeline import Operation, Pipeline, Placing
from contrastive.augmentations.simclr import SimCLR
from contrastive.augmentations.views import Sequence, Views
from contrastive.rng import Key

__all__ = [
    "Blur",
    "ColorJitter",
    "Cutout",
    "Flip",
    "Grayscale",
    "Key",
    "Noise",
    "Operation",
    "Pipeline",
    "Placing",
    "RandomResizedCrop",
    "Rotation",
    "Sequence",
    "SimCLR",
    "Sobel",
    "Solarize",
    "TorchvisionTransform",
    "Views",
]
