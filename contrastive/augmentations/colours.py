"""Operations that change colours, as functions of tensors that a compiler can take."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from torch import Tensor

from contrastive.augmentations.pipeline import Operation, Params, Pipeline
from contrastive.device import to_device
from contrastive.rng import Draws

#: Pixels [b, C, h, w] and numbers of each image [k, b] -> pixels.
Recolour = Callable[[Tensor, Tensor], Tensor]


class ColourOperation(Operation):
    """An operation whose change of the pixels is also a function of tensors alone.

    ``render`` takes the steps that the images need, which differ from batch to batch. ``function`` does the
    same with the same calls in every batch.

    Attributes:
        function: the change.
    """

    keeps_place = True
    function: ClassVar[staticmethod[[Tensor, Tensor], Tensor]]

    @abstractmethod
    def numbers(self, params: Params, channels: int) -> np.ndarray:
        """What ``function`` needs to know of each image of so many channels: [k, b], on the CPU."""


class _CompiledColours(Operation):
    """A colour operation by its compiled function, with the same draws."""

    keeps_place = True

    def __init__(self, of: ColourOperation, function: Recolour):
        self.of, self.name, self.function = of, of.name, function

    def draw(self, rng: Draws) -> Params:
        return self.of.draw(rng)

    def render(self, pixels: Tensor, params: Params) -> Tensor:
        numbers = self.of.numbers(params, pixels.shape[1]).astype(np.float32)
        return self.function(pixels, to_device(numbers, pixels))


def with_compiled_colours(pipeline: Pipeline, compiler: Callable[[Recolour], Recolour]) -> Pipeline:
    """A copy of a pipeline in which colour operations run their functions, compiled; draws are the same."""
    own = copy.copy(pipeline)
    own.operations = [
        _CompiledColours(each, compiler(each.function)) if isinstance(each, ColourOperation) else each
        for each in pipeline.operations
    ]
    return own
