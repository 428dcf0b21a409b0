"""Operations on one view of a batch of images, and the pipelines they form.

An operation acts in pure stages: ``draw`` makes its parameters, one row an image, on the CPU;
``place`` (only of a :class:`Placing` operation) turns them into boxes once the images' sizes are
known; ``render`` changes the pixels, on whatever device they are. A :class:`Pipeline` runs operations
in order and is the only place that fuses neighbours.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from contrastive.errors import UsageError
from contrastive.kernels.resample import Interpolation, crop_and_resize
from contrastive.parts import Augmentation
from contrastive.rng import Draws, Key

#: Parameters of an operation: name -> one row an image, [b, ...].
Params = dict[str, np.ndarray]

Probability = Annotated[float, Field(ge=0, le=1)]


class Operation(Augmentation):
    """One step of a pipeline; used alone it is a pipeline of itself, drawn for two views.

    Attributes:
        name: what its draws are keyed by, together with its occurrence in the pipeline.
        per_sample: whether ``render`` goes image by image, so that it belongs in a decoding worker.
        mirrors: whether all it does is to mirror left to right the images of its ``chosen``
            parameter, which a crop before it can do at no cost.
        size: (h, w) of its output where it fixes one.
    """

    name: str
    per_sample: ClassVar[bool] = False
    mirrors: ClassVar[bool] = False
    size: tuple[int, int] | None = None

    @abstractmethod
    def draw(self, rng: Draws) -> Params:
        """Parameters of every image, each [b, ...]; always the same number of draws, in one order."""

    @abstractmethod
    def render(self, pixels: Tensor, params: Params) -> Tensor:
        """float [b, C, h, w] in [0, 1] -> the same; leaves ``pixels`` as it was."""

    def pipelines(self) -> list[Pipeline]:
        """Two equal pipelines of this operation alone."""
        return [Pipeline([self]) for _ in range(2)]


class Placing(Operation):
    """An operation that cuts a box out of each image and resizes it.

    Attributes:
        size: (h, w) of its output.
        interpolation: the filter that resizes, always with antialiasing.
    """

    size: tuple[int, int]
    interpolation: Interpolation

    @abstractmethod
    def place(self, params: Params, sizes: np.ndarray) -> np.ndarray:
        """Boxes int64 [b, 4] (top, left, height, width) in images of ``sizes`` int [b, 2] (H, W)."""

    def render(self, pixels: Tensor, params: Params) -> Tensor:
        """float [b, C, H, W] -> [b, C, h, w]."""
        return self.resample(pixels, params)

    def resample(self, pixels: Tensor, params: Params, mirrored: np.ndarray | None = None) -> Tensor:
        """Crop, resize and mirror (bool [b]) in one resampling: [b, C, H, W] -> [b, C, h, w]."""
        boxes = self.place(params, np.tile(pixels.shape[2:], (len(pixels), 1)))
        flags = None if mirrored is None else to_device(mirrored, pixels)
        return crop_and_resize(pixels, to_device(boxes, pixels), self.size, self.interpolation, flags)

    def reduction(self, params: Params, size: tuple[int, int]) -> int:
        """The largest of 8, 4 and 2 by which the sides of one image of ``size`` (H, W) may be divided
        before its box is cut out, so that the box is still no smaller than the output; else 1."""
        if min(size[0] // self.size[0], size[1] // self.size[1]) < 2:
            return 1
        box = self.place(params, np.array([size]))[0, 2:]  # [2], height and width
        room = int((box // self.size).min())
        return next((factor for factor in (8, 4, 2) if factor <= room), 1)

    def crop(self, image: Tensor, params: Params, size: tuple[int, int], factor: int = 1) -> Tensor:
        """One image, uint8 [C, H, W] -> uint8 [C, h, w], in the cost of its box alone.

        Args:
            size: (H, W) of the whole image, in which the box is placed.
            factor: by which the sides of ``image`` are reduced; the edges of the box then go to its nearest
                pixel, so by at most half a pixel of the output where the factor is of :meth:`reduction`.
        """
        top, left, height, width = self.place(params, np.array([size]))[0].tolist()
        top, bottom, left, right = (
            (2 * edge + factor) // (2 * factor) for edge in (top, top + height, left, left + width)
        )
        box = image[None, :, top:bottom, left:right]
        # On uint8 this is the routine that torchvision's resize calls.
        resized = functional.interpolate(box, self.size, mode=self.interpolation, antialias=True)[0]
        return resized.contiguous()


class Pipeline:
    """Operations in order, on one view of a batch.

    Calling it, ``pipeline(images, ids, Key(seed, epoch, view))``, is all a training loop needs. The
    parameters of an image are a pure function of the key, its id and the operation's name and
    occurrence: batch size, order and the other operations do not matter.

    Args:
        operations: at least one; only the first may be :class:`Placing`.

    Raises:
        UsageError: without operations, or where a later one places.
    """

    def __init__(self, operations: Sequence[Operation]):
        if not operations:
            raise UsageError("An augmentation pipeline needs at least one operation.")
        for operation in operations[1:]:
            if isinstance(operation, Placing):
                raise UsageError(
                    f"{operation.name} must be the first operation of its pipeline; move it there."
                )
        self.operations = list(operations)
        first = operations[0]
        self._placing = first if isinstance(first, Placing) else None
        self._streams: list[str] = []
        seen: Counter[str] = Counter()
        for operation in operations:
            self._streams.append(f"{operation.name}#{seen[operation.name]}")
            seen[operation.name] += 1

    @property
    def size(self) -> tuple[int, int] | None:
        """(h, w) of the output where the pipeline fixes one; None where it keeps that of its input."""
        return next((op.size for op in reversed(self.operations) if op.size is not None), None)

    def in_worker(self, varying: bool) -> Literal["nothing", "crop", "all"]:
        """What must be done image by image in a decoding worker.

        ``nothing``: images of one size go to :meth:`__call__` as a batch. ``crop``: sizes vary, so
        :meth:`crop` in the worker and :meth:`rest` on the batch. ``all``: :meth:`sample`, where an
        operation goes image by image, or sizes vary and the first operation does not place.
        """
        if any(operation.per_sample for operation in self.operations):
            return "all"
        if not varying:
            return "nothing"
        return "crop" if self._placing else "all"

    def __call__(self, images: Tensor, ids: np.ndarray | Tensor, key: Key) -> Tensor:
        """Every operation on a batch.

        Args:
            images: uint8 [b, C, H, W], on any device.
            ids: int64 [b].

        Returns:
            float32 [b, C, h, w] in [0, 1], on the same device.
        """
        pixels, done = _to_float(images), 0
        if self._placing:
            mirrored, done = None, 1
            if len(self.operations) > 1 and self.operations[1].mirrors:
                mirrored, done = self.draw(1, ids, key)["chosen"], 2
            pixels = self._placing.resample(pixels, self.draw(0, ids, key), mirrored)
        return self._render(pixels, ids, key, done)

    def reduction(self, size: tuple[int, int], id: int, key: Key) -> int:  # noqa: A002
        """By how much the sides of an image of ``size`` (H, W) may be divided before :meth:`crop` or
        :meth:`sample`: as far as its crop stays no smaller than the view."""
        if self._placing is None:
            return 1
        return self._placing.reduction(self.draw(0, np.array([id]), key), size)

    def crop(
        self,
        image: Tensor,
        id: int,  # noqa: A002
        key: Key,
        size: tuple[int, int] | None = None,
        factor: int = 1,
    ) -> Tensor:
        """The first operation, which must be placing, on one image: uint8 [C, H, W] -> [C, h, w].

        Args:
            size, factor: of :class:`contrastive.parts.Reduced` where ``image`` is such a one's pixels.
        """
        if self._placing is None:
            raise UsageError(
                f"{self.operations[0].name} does not crop; start the pipeline with one that does."
            )
        whole = size or (image.shape[1], image.shape[2])
        return self._placing.crop(image, self.draw(0, np.array([id]), key), whole, factor)

    def rest(self, pixels: Tensor, ids: np.ndarray | Tensor, key: Key) -> Tensor:
        """All operations but the first, on cropped images: uint8 [b, C, h, w] -> float32 [b, C, h, w]."""
        return self._render(_to_float(pixels), ids, key, 1)

    def sample(
        self,
        image: Tensor,
        id: int,  # noqa: A002
        key: Key,
        size: tuple[int, int] | None = None,
        factor: int = 1,
    ) -> Tensor:
        """Every operation on one image of any size, uint8 [C, H, W] -> uint8 [C, h, w]; ``size`` and
        ``factor`` as in :meth:`crop`."""
        ids = np.array([id])
        if self._placing:
            pixels = self.rest(self.crop(image, id, key, size, factor)[None], ids, key)
        else:
            pixels = self(image[None].contiguous(), ids, key)
        return to_uint8(pixels)[0]

    def draw(self, place: int, ids: np.ndarray | Tensor, key: Key) -> Params:
        """The parameters of the operation at ``place`` for the images ``ids``."""
        rng = Draws(key, np.asarray(ids, dtype=np.int64), self._streams[place])
        return self.operations[place].draw(rng)

    def _render(self, pixels: Tensor, ids: np.ndarray | Tensor, key: Key, done: int) -> Tensor:
        for place in range(done, len(self.operations)):
            pixels = self.operations[place].render(pixels, self.draw(place, ids, key))
        return pixels


def _to_float(images: Tensor) -> Tensor:
    """uint8 -> float32 in [0, 1]."""
    return images.to(torch.float32).div_(255)


def to_uint8(pixels: Tensor) -> Tensor:
    """float in [0, 1] -> uint8, rounded."""
    return pixels.mul(255).round_().to(torch.uint8)


def to_device(values: np.ndarray, pixels: Tensor) -> Tensor:
    """Parameters where the pixels are: floats in their precision, all else as it is."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    if tensor.is_floating_point():
        tensor = tensor.to(pixels.dtype)
    if pixels.is_cuda:  # from pageable memory, every copy would wait for all that the device has yet to do
        tensor = tensor.pin_memory()
    return tensor.to(pixels.device, non_blocking=pixels.is_cuda)


def on_chosen(pixels: Tensor, params: Params, change: Callable[[Tensor, Params], Tensor]) -> Tensor:
    """``change`` the images of the ``chosen`` parameter (bool [b]); the others stay, at no cost.

    ``change`` gets those images [n, C, h, w] and their rows of every parameter.
    """
    rows = np.flatnonzero(params["chosen"])
    if len(rows) == 0:
        return pixels
    if len(rows) == len(pixels):
        return change(pixels, params)
    index = to_device(rows, pixels)
    changed = change(pixels.index_select(0, index), {name: values[rows] for name, values in params.items()})
    return pixels.index_copy(0, index, changed)


def ordered(name: str, values: tuple[float, float]) -> tuple[float, float]:
    """A range as a pair of floats; raises UsageError where its ends are the wrong way round."""
    low, high = values
    if not low <= high:
        raise UsageError(f"{name} must go from low to high, but is [{low}, {high}].")
    return float(low), float(high)
