"""Operations on one view of a batch of images, and the pipelines they form.

An operation acts in pure stages: ``draw`` makes its parameters, one row an image, on the CPU;
``place`` (only of a :class:`Placing` operation) turns them into boxes once the images' sizes are
known; ``render`` changes the pixels, on whatever device they are. A :class:`Pipeline` runs operations
in order. It alone fuses neighbours, and it alone divides the work: what a decoding worker does to each image
(:class:`ImageView`, ``before``) and what the device does to the batch (``after``).
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from contrastive.augmentations.kernels.resample import Interpolation, crop_and_resize
from contrastive.device import to_device as to_device  # plugins import it from here
from contrastive.errors import UsageError
from contrastive.parts import Augmentation, ReducedImage, ViewPipeline
from contrastive.rng import Draws, Key

#: Parameters of an operation: name -> one row an image, [b, ...].
Params = dict[str, np.ndarray]

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


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

    def output_size(self, size: tuple[int, int] | None) -> tuple[int, int] | None:
        """(h, w) of its output for images of ``size`` (H, W); None where the sizes vary, or would."""
        return self.size or size

    def arrange(self, params: Params) -> np.ndarray | None:
        """A number an image, [b]: a pipeline on a CPU keeps images of equal numbers together, if given."""
        return None

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
        return self.resample(pixels, self.place(params, np.tile(pixels.shape[2:], (len(pixels), 1))))

    def resample(self, pixels: Tensor, boxes: np.ndarray, mirror: np.ndarray | None = None) -> Tensor:
        """Crop, resize and mirror (bool [b]) in one resampling: [b, C, H, W] -> [b, C, h, w]."""
        largest = (int(boxes[:, 2].max()), int(boxes[:, 3].max()))
        flags = None if mirror is None else to_device(mirror, pixels)
        return crop_and_resize(
            pixels, to_device(boxes, pixels), largest, self.size, self.interpolation, flags
        )

    def reduction(self, params: Params, size: tuple[int, int]) -> int:
        """The largest of 8, 4 and 2 by which the sides of one image of ``size`` (H, W) may be divided
        before its box is cut out, so that the box is still no smaller than the output; else 1."""
        if min(size[0] // self.size[0], size[1] // self.size[1]) < 2:
            return 1
        box = self.place(params, np.array([size]))[0, 2:]  # [2], height and width
        room = int((box // self.size).min())
        return next((factor for factor in (8, 4, 2) if factor <= room), 1)

    def cut(self, image: Tensor, box: np.ndarray, factor: int = 1) -> Tensor:
        """One image, uint8 [C, H, W] -> uint8 [C, h, w], in the cost of its box alone.

        Args:
            box: [4], as :meth:`place` gives it, in the whole image.
            factor: by which the sides of ``image`` are reduced; the edges of the box then go to its nearest
                pixel, so by at most half a pixel of the output where the factor is of :meth:`reduction`.
        """
        top, left_edge, height, width = box.tolist()
        top, bottom, left_edge, right = (
            (2 * edge + factor) // (2 * factor) for edge in (top, top + height, left_edge, left_edge + width)
        )
        part = image[None, :, top:bottom, left_edge:right]
        # On uint8 this is the routine that torchvision's resize calls.
        crop = functional.interpolate(part, self.size, mode=self.interpolation, antialias=True)[0]
        return crop.contiguous()

    def cut_each(self, images: Tensor, boxes: np.ndarray, mirror: np.ndarray | None) -> Tensor:
        """:meth:`cut` and mirror (bool [b]) images one by one: uint8 [b, C, H, W] -> float32 [b, C, h, w],
        laid out as by :func:`_to_float`."""
        planes = images.new_empty((images.shape[1], len(images), *self.size), dtype=torch.float32)
        for index, (image, box) in enumerate(zip(images, boxes, strict=True)):
            part = self.cut(image, box)
            planes[:, index] = part if mirror is None or not mirror[index] else part.flip(2)
        return planes.div_(255).transpose(0, 1)


class Pipeline:
    """Operations in order, on one view of a batch.

    Calling it, ``pipeline(images, ids, Key(seed, epoch, view))``, is all a training loop needs. The
    parameters of an image are a pure function of the key, its id and the operation's name and
    occurrence: batch size, order and the other operations do not matter.

    Images that cannot form a batch, such as photographs of different sizes, take two steps: :meth:`before`
    on each image in a decoding worker, :meth:`after` on the batch of what it returns.

    Args:
        operations: at least one. A :class:`Placing` one costs least where it is the first.

    Attributes:
        operations: those given.
        placing: the first of them if it is placing, else None.
        per_sample: whether an operation goes image by image, so that no batch of images can be augmented.
        crops_first: whether :meth:`before` does no more than to crop.

    Raises:
        UsageError: without operations.
    """

    def __init__(self, operations: Sequence[Operation]):
        if not operations:
            raise UsageError("An augmentation pipeline needs at least one operation.")
        self.operations = list(operations)
        first = operations[0]
        self.placing = first if isinstance(first, Placing) else None
        self.per_sample = any(operation.per_sample for operation in operations)
        self.crops_first = self.placing is not None and not self.per_sample
        self._streams: list[str] = []
        occurrences: Counter[str] = Counter()
        for operation in operations:
            self._streams.append(f"{operation.name}#{occurrences[operation.name]}")
            occurrences[operation.name] += 1

    @cached_property
    def size(self) -> tuple[int, int] | None:
        """(h, w) of the output where the pipeline fixes one; None where it follows from the input's."""
        return self.output_size(None)

    def output_size(self, size: tuple[int, int] | None) -> tuple[int, int] | None:
        """(h, w) of the views of images of ``size`` (H, W), None where these vary; None where views do."""
        for operation in self.operations:
            size = operation.output_size(size)
        return size

    def __call__(self, images: Tensor, ids: np.ndarray | Tensor, key: Key) -> Tensor:
        """Every operation on a batch.

        Args:
            images: uint8 [b, C, H, W], on any device.
            ids: int64 [b].

        Returns:
            float32 [b, C, h, w] in [0, 1], on the same device.
        """
        return self._apply(images, ids, key, 0)

    def for_image(self, id: int, key: Key) -> ImageView:  # noqa: A002
        """The view of the image ``id``, of which nothing is drawn yet."""
        return ImageView(self, id, key)

    def before(
        self,
        image: Tensor,
        id: int,  # noqa: A002
        key: Key,
        size: tuple[int, int] | None = None,
        factor: int = 1,
    ) -> Tensor:
        """What a decoding worker does to one image of any size: uint8 [C, H, W] -> uint8 [C, h, w].

        Args:
            size, factor: as in :meth:`crop`.
        """
        return self.for_image(id, key).before(_as_reduced(image, size, factor))

    def after(self, pixels: Tensor, ids: np.ndarray | Tensor, key: Key) -> Tensor:
        """What remains for the batch of :meth:`before`: uint8 [b, C, h, w] -> float32 [b, C, h, w]."""
        return self.rest(pixels, ids, key) if self.crops_first else pixels.float().div_(255)

    def batch_view(
        self, images: Tensor, ids: np.ndarray | Tensor, key: Key, device: torch.device | str
    ) -> Tensor:
        """The view of images of one size, whatever the operations: those that go image by image do so, on
        the CPU, and round to 1/255 as in training.

        Args:
            images: uint8 [b, C, H, W], on the CPU.
            ids: int64 [b].
            device: where the view is to be.

        Returns:
            float32 [b, C, h, w] in [0, 1], on ``device``.
        """
        if not self.per_sample:
            return self(images.to(device), ids, key)
        pixels = [self.before(image, int(i), key) for image, i in zip(images, ids, strict=True)]
        return self.after(torch.stack(pixels), ids, key).to(device)

    def reduction(self, size: tuple[int, int], id: int, key: Key) -> int:  # noqa: A002
        """By how much the sides of an image of ``size`` (H, W) may be divided before :meth:`before`,
        :meth:`crop` or :meth:`sample`: as far as its crop stays no smaller than the view."""
        return self.for_image(id, key).reduction(size)

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
            size, factor: of :class:`contrastive.parts.ReducedImage` where ``image`` is such a one's pixels.

        Raises:
            UsageError: the first operation does not crop.
        """
        return self.for_image(id, key).crop(_as_reduced(image, size, factor))

    def rest(self, pixels: Tensor, ids: np.ndarray | Tensor, key: Key) -> Tensor:
        """All operations but the first, on cropped images: uint8 [b, C, h, w] -> float32 [b, C, h, w]."""
        return self._apply(pixels, ids, key, 1)

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
        return self.for_image(id, key).sample(_as_reduced(image, size, factor))

    def in_worker(self, varying: bool) -> Literal["nothing", "crop", "all"]:
        """Deprecated: :meth:`before` and :meth:`after` divide the work themselves.

        What must be done image by image, whether the images' sizes vary or not: ``nothing`` of it,
        :meth:`crop`, or ``all`` (:meth:`sample`).
        """
        warnings.warn(
            "Pipeline.in_worker is deprecated; call before() on each image and after() on the batch.",
            DeprecationWarning,
            stacklevel=2,
        )
        if not varying and not self.per_sample:
            return "nothing"
        return "crop" if self.crops_first else "all"

    def draw(self, index: int, ids: np.ndarray | Tensor, key: Key) -> Params:
        """The parameters of the operation at ``index`` for the images ``ids``."""
        rng = Draws(key, np.asarray(ids, dtype=np.int64), self._streams[index])
        return self.operations[index].draw(rng)

    def _apply(self, images: Tensor, ids: np.ndarray | Tensor, key: Key, start: int) -> Tensor:
        """The operations from ``start`` on: uint8 [b, C, H, W] -> float32 [b, C, h, w].

        On a CPU in parts that stay in its cache, else the whole batch at once.
        """
        params = [self.draw(index, ids, key) for index in range(start, len(self.operations))]
        boxes = None
        if self.placing and start == 0:
            boxes = self.placing.place(params[0], np.tile(images.shape[2:], (len(images), 1)))
        if images.device.type != "cpu":
            return self._run(images, params, boxes, start).contiguous()
        height, width = self.size or images.shape[2:]
        count = max(1, VALUES_IN_CACHE * torch.get_num_threads() // (images.shape[1] * height * width))
        order = self._order(params, start, len(images))
        views = images.new_empty(0, dtype=torch.float32)
        for first in range(0, len(order), count):
            rows = order[first : first + count]
            some = [{name: values[rows] for name, values in own.items()} for own in params]
            index = torch.from_numpy(rows) if len(rows) > 1 else slice(rows[0], rows[0] + 1)
            part = self._run(images[index], some, None if boxes is None else boxes[rows], start)
            if first == 0:
                views = part.new_empty((len(images), *part.shape[1:]))
            views[index] = part
        return views

    def _order(self, params: list[Params], start: int, b: int) -> np.ndarray:
        """The order in which a CPU takes the images: int64 [b]."""
        numbers = [op.arrange(own) for op, own in zip(self.operations[start:], params, strict=True)]
        keys = [number for number in numbers if number is not None]
        return np.lexsort(keys[::-1]) if keys else np.arange(b)

    def _run(self, images: Tensor, params: list[Params], boxes: np.ndarray | None, start: int) -> Tensor:
        fused_count = 0
        if boxes is None or self.placing is None:
            pixels = _to_float(images)
        else:
            fused_count = 2 if len(params) > 1 and self.operations[1].mirrors else 1
            mirror = params[1]["chosen"] if fused_count == 2 else None
            if one_by_one(images):
                pixels = self.placing.cut_each(images, boxes, mirror)
            else:
                pixels = self.placing.resample(_to_float(images), boxes, mirror)
        for operation, own in zip(self.operations[start + fused_count :], params[fused_count:], strict=True):
            pixels = operation.render(pixels, own)
        return pixels


class ImageView:
    """One view of one image, as a decoding worker begins it. Its crop is drawn once, when first needed.

    Args:
        pipeline: that of the view.
        id: of the image.
        key: of the view.
    """

    def __init__(self, pipeline: Pipeline, id: int, key: Key):  # noqa: A002
        self.pipeline, self.key = pipeline, key
        self.ids = np.array([id], dtype=np.int64)

    @cached_property
    def params(self) -> Params:
        """Those of the first operation."""
        return self.pipeline.draw(0, self.ids, self.key)

    def reduction(self, size: tuple[int, int]) -> int:
        """By how much the sides of the image, (H, W) as a whole, may be divided before it is cropped."""
        placing = self.pipeline.placing
        return 1 if placing is None else placing.reduction(self.params, size)

    def before(self, image: ReducedImage) -> Tensor:
        """:meth:`Pipeline.before`: -> uint8 [C, h, w]."""
        return self.crop(image) if self.pipeline.crops_first else self.sample(image)

    def crop(self, image: ReducedImage) -> Tensor:
        """:meth:`Pipeline.crop`: -> uint8 [C, h, w]. Raises UsageError."""
        placing = self.pipeline.placing
        if placing is None:
            name = self.pipeline.operations[0].name
            raise UsageError(f"{name} does not crop; start the pipeline with one that does.")
        box = placing.place(self.params, np.array([image.size]))[0]
        return placing.cut(image.pixels, box, image.factor)

    def sample(self, image: ReducedImage) -> Tensor:
        """:meth:`Pipeline.sample`: -> uint8 [C, h, w]."""
        if self.pipeline.placing is None:
            pixels = self.pipeline(image.pixels[None].contiguous(), self.ids, self.key)
        else:
            pixels = self.pipeline.rest(self.crop(image)[None], self.ids, self.key)
        return to_uint8(pixels)[0]


def takes_batches(pipelines: Sequence[ViewPipeline], size: tuple[int, int] | None, limit: int) -> bool:
    """Whether all views are best made from batches of whole images, by calling the pipelines; else image by
    image first, by ``before`` and ``after``.

    Args:
        size: (H, W) of the images; None where they differ.
        limit: pixels of an image from which cropping comes first, if it does in every view.
    """
    if size is None or any(pipeline.per_sample for pipeline in pipelines):
        return False
    return math.prod(size) <= limit or not all(pipeline.crops_first for pipeline in pipelines)


#: Values (of a view in float32) that a CPU works on at a time, for each thread: with what an operation needs
#: beside them they stay in a cache of 2 MiB.
VALUES_IN_CACHE = 3 * 2**16

#: Side from which on a CPU gains more by leaving out what is not needed of each image than by batching.
LARGE = 64


def one_by_one(images: Tensor) -> bool:
    """Whether images [b, C, H, W] are better worked on alone: large ones, on a CPU."""
    return images.device.type == "cpu" and min(images.shape[2:]) > LARGE


def _to_float(images: Tensor) -> Tensor:
    """uint8 [b, C, h, w] -> float32 in [0, 1], each channel of the batch one block of memory."""
    b, channels, height, width = images.shape
    planes = images.new_empty((channels, b, height, width), dtype=torch.float32)
    return planes.copy_(images.transpose(0, 1)).div_(255).transpose(0, 1)


def _as_reduced(image: Tensor, size: tuple[int, int] | None, factor: int) -> ReducedImage:
    return ReducedImage(image, size or (image.shape[1], image.shape[2]), factor)


def to_uint8(pixels: Tensor) -> Tensor:
    """float in [0, 1] -> uint8, rounded."""
    return pixels.mul(255).round_().to(torch.uint8)


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
    changed_pixels = change(
        pixels.index_select(0, index), {name: values[rows] for name, values in params.items()}
    )
    return pixels.index_copy(0, index, changed_pixels)


def as_range(name: str, values: tuple[float, float]) -> tuple[float, float]:
    """A range as a pair of floats; raises UsageError where its ends are the wrong way round."""
    low, high = values
    if not low <= high:
        raise UsageError(f"{name} must go from low to high, but is [{low}, {high}].")
    return float(low), float(high)
