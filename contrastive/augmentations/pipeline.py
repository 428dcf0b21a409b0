"""Operations on one view of a batch of images, and the pipelines they form.

An operation has pure stages. ``draw`` returns its parameters, one row per image, on the CPU. ``place`` (only
of a :class:`Placing` operation) turns them into boxes for the images' sizes. ``render`` changes the pixels,
on any device. A :class:`Pipeline` runs operations in order. Only it fuses neighbours, and only it divides
the work between the decoding worker, per image (:class:`ImageView`, ``before``), and the device, per batch
(``after``).
"""

from __future__ import annotations

import itertools
import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from contrastive.augmentations.kernels.resample import Interpolation, crop_and_resize, crop_one
from contrastive.augmentations.pixels import Params as Params  # plugins import it from here
from contrastive.augmentations.pixels import checked_range as checked_range
from contrastive.augmentations.pixels import on_chosen as on_chosen
from contrastive.augmentations.pixels import one_by_one as one_by_one
from contrastive.augmentations.pixels import to_float
from contrastive.augmentations.pixels import to_uint8 as to_uint8
from contrastive.augmentations.place import Place
from contrastive.device import to_device as to_device  # plugins import it from here
from contrastive.errors import UsageError
from contrastive.parts import Augmentation, ReducedImage
from contrastive.rng import Draws, Key
from contrastive.views import Marks

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


class Operation(Augmentation):
    """One step of a pipeline; used alone, it is a pipeline of one operation, drawn for two views.

    Attributes:
        name: key of its draws, together with its occurrence in the pipeline.
        per_sample: whether ``render`` works image by image, so that it belongs in a decoding worker.
        mirrors: whether it only mirrors the images of its ``chosen`` parameter left to right, which a crop
            before it can do at no cost.
        keeps_place: whether it leaves every pixel where it is, so that a view's box in its image stays known.
        size: (h, w) of its output if it fixes one.
    """

    name: str
    per_sample: ClassVar[bool] = False
    mirrors: ClassVar[bool] = False
    keeps_place: ClassVar[bool] = False
    size: tuple[int, int] | None = None

    def at(self, epoch: int) -> Operation:
        """The operation as it is in an epoch: itself, unless it changes over the run."""
        return self

    @abstractmethod
    def draw(self, rng: Draws) -> Params:
        """Parameters of every image, each [b, ...]; always the same number of draws in the same order."""

    @abstractmethod
    def render(self, pixels: Tensor, params: Params) -> Tensor:
        """float [b, C, h, w] in [0, 1] -> the same; leaves ``pixels`` unchanged."""

    def output_size(self, size: tuple[int, int] | None) -> tuple[int, int] | None:
        """(h, w) of its output for images of ``size`` (H, W; None if they vary); None if it varies."""
        return self.size or size

    def arrange(self, params: Params) -> np.ndarray | None:
        """A number per image, [b], or None: on a CPU, a pipeline keeps images of equal numbers together."""
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
        return crop_and_resize(pixels, boxes, self.size, self.interpolation, mirror)

    def reduction(self, params: Params, size: tuple[int, int]) -> int:
        """The largest of 8, 4 and 2 by which the sides of one image of ``size`` (H, W) may be divided
        before its box is cut out, with the box no smaller than the output; otherwise 1."""
        if min(size[0] // self.size[0], size[1] // self.size[1]) < 2:
            return 1
        box = self.place(params, np.array([size]))[0, 2:]  # [2], height and width
        room = int((box // self.size).min())
        return next((factor for factor in (8, 4, 2) if factor <= room), 1)

    def cut(self, image: Tensor, box: np.ndarray, factor: int = 1) -> Tensor:
        """One image, uint8 [C, H, W] -> uint8 [C, h, w]; the cost depends on its box only.

        Args:
            box: [4], from :meth:`place`, in the whole image.
            factor: by which the sides of ``image`` are reduced. The edges of the box are rounded to its
                pixels, by at most half a pixel of the output for a factor from :meth:`reduction`.
        """
        return crop_one(image, box, self.size, self.interpolation, factor)

    def cut_each(self, images: Tensor, boxes: np.ndarray, mirror: np.ndarray | None) -> Tensor:
        """:meth:`cut` and mirror (bool [b]) images one by one: uint8 [b, C, H, W] -> float32 [b, C, h, w],
        laid out as by :func:`contrastive.augmentations.pixels.to_float`."""
        planes = images.new_empty((images.shape[1], len(images), *self.size), dtype=torch.float32)
        for index, (image, box) in enumerate(zip(images, boxes, strict=True)):
            part = self.cut(image, box)
            planes[:, index] = part if mirror is None or not mirror[index] else part.flip(2)
        return planes.div_(255).transpose(0, 1)


class Marking(Operation):
    """An operation that marks patches of the view and leaves its pixels alone: masks, targets.

    The grid of patches follows from the backbone, so marks are drawn apart from the pixels.
    """

    keeps_place = True

    @abstractmethod
    def mark(self, common: Draws, rng: Draws, grid: tuple[int, int]) -> Marks:
        """The marks of every image, on the CPU.

        Args:
            common: draws of one row that every image and view of an epoch shares: they decide counts, so that
                every image hides the same number of patches, in each view to which the operation belongs.
            rng: draws of each image: they decide places.
            grid: rows and columns of patches.
        """

    def draw(self, rng: Draws) -> Params:
        """Nothing: marks are drawn by :meth:`mark`."""
        return {}

    def render(self, pixels: Tensor, params: Params) -> Tensor:
        """The pixels, unchanged."""
        return pixels


@dataclass(frozen=True)
class Frame:
    """The crop and flips of another view.

    Attributes:
        view: whose key they are drawn with.
        count: how many operations they are.
    """

    view: int
    count: int


class Pipeline:
    """Operations in order, on one view of a batch.

    A training loop only needs to call it: ``pipeline(images, ids, Key(seed, epoch, view))``. The parameters
    of an image are a pure function of the key, its id and the operation's name and occurrence. Batch size,
    order and the other operations do not matter.

    Images that cannot form a batch, such as photographs of different sizes, take two steps: :meth:`before`
    on each image in a decoding worker, :meth:`after` on the batch of the results.

    Args:
        operations: at least one. A :class:`Placing` one costs least as the first.
        frame: the crop and flips of another view with which the operations start, which are drawn as there.

    Attributes:
        operations: as passed.
        frame: as passed.
        placing: the first operation if it is a :class:`Placing` one, otherwise None.
        per_sample: whether an operation works image by image, so that batches cannot be augmented.
        crops_first: whether :meth:`before` only crops.

    Raises:
        UsageError: there are no operations.
    """

    def __init__(self, operations: Sequence[Operation], frame: Frame | None = None):
        if not operations:
            raise UsageError("An augmentation pipeline needs at least one operation.")
        self.operations, self.frame = list(operations), frame
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
        """(h, w) of the output, at the end of the run, if the pipeline fixes one; None if it follows from the
        input's."""
        return self.output_size(None)

    def at(self, epoch: int) -> Pipeline:
        """The pipeline as it is in an epoch: itself, unless an operation changes over the run."""
        operations = [operation.at(epoch) for operation in self.operations]
        same = all(own is operation for own, operation in zip(operations, self.operations, strict=True))
        return self if same else Pipeline(operations, self.frame)

    def output_size(self, size: tuple[int, int] | None) -> tuple[int, int] | None:
        """(h, w) of the views of images of ``size`` (H, W; None if they vary); None if view sizes vary."""
        for operation in self.operations:
            size = operation.output_size(size)
        return size

    def __call__(self, images: Tensor, ids: np.ndarray | Tensor, key: Key) -> Tensor:
        """Apply every operation to a batch.

        Args:
            images: uint8 [b, C, H, W], on any device.
            ids: int64 [b].

        Returns:
            float32 [b, C, h, w] in [0, 1], on the same device.
        """
        return self.at(key.epoch)._apply(images, ids, key, 0)

    def for_image(self, id: int, key: Key) -> ImageView:  # noqa: A002
        """The view of the image ``id``."""
        return self.for_images(np.array([id], np.int64), key)[0]

    def for_images(self, ids: np.ndarray, key: Key) -> list[ImageView]:
        """The views of the images ``ids``, int64 [b]; their crops are drawn here, together."""
        pipeline = self.at(key.epoch)
        params = {} if self.placing is None else pipeline.draw(0, ids, key)
        rows = [slice(index, index + 1) for index in range(len(ids))]
        return [ImageView(pipeline, ids[row], key, {k: v[row] for k, v in params.items()}) for row in rows]

    def before(
        self,
        image: Tensor,
        id: int,  # noqa: A002
        key: Key,
        size: tuple[int, int] | None = None,
        factor: int = 1,
    ) -> Tensor:
        """The decoding worker's share, on one image of any size: uint8 [C, H, W] -> uint8 [C, h, w].

        Args:
            size, factor: as in :meth:`crop`.
        """
        return self.for_image(id, key).before(_as_reduced(image, size, factor))

    def after(self, pixels: Tensor, ids: np.ndarray | Tensor, key: Key) -> Tensor:
        """The device's share, on a batch from :meth:`before`: uint8 [b, C, h, w] -> float32 [b, C, h, w]."""
        return self.rest(pixels, ids, key) if self.crops_first else pixels.float().div_(255)

    def batch_view(
        self, images: Tensor, ids: np.ndarray | Tensor, key: Key, device: torch.device | str
    ) -> Tensor:
        """The view of images of one size, for any operations. If one works image by image, all run on the CPU
        and round to 1/255, as in training.

        Args:
            images: uint8 [b, C, H, W], on the CPU.
            ids: int64 [b].
            device: of the view.

        Returns:
            float32 [b, C, h, w] in [0, 1], on ``device``.
        """
        if not self.per_sample:
            return self(images.to(device), ids, key)
        pixels = [self.before(image, int(i), key) for image, i in zip(images, ids, strict=True)]
        return self.after(torch.stack(pixels), ids, key).to(device)

    def reduction(self, size: tuple[int, int], id: int, key: Key) -> int:  # noqa: A002
        """The factor by which the sides of an image of ``size`` (H, W) may be divided before :meth:`before`,
        :meth:`crop` or :meth:`sample`, with its crop no smaller than the view."""
        return self.for_image(id, key).reduction(size)

    def crop(
        self,
        image: Tensor,
        id: int,  # noqa: A002
        key: Key,
        size: tuple[int, int] | None = None,
        factor: int = 1,
    ) -> Tensor:
        """The first operation, which must crop, on one image: uint8 [C, H, W] -> uint8 [C, h, w].

        Args:
            size, factor: of the :class:`contrastive.parts.ReducedImage` whose pixels are ``image``, if any.

        Raises:
            UsageError: the first operation does not crop.
        """
        return self.for_image(id, key).crop(_as_reduced(image, size, factor))

    def rest(self, pixels: Tensor, ids: np.ndarray | Tensor, key: Key) -> Tensor:
        """All operations after the first, on cropped images: uint8 [b, C, h, w] -> float32 [b, C, h, w]."""
        return self.at(key.epoch)._apply(pixels, ids, key, 1)

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

        What must run image by image: ``nothing``, :meth:`crop`, or ``all`` (:meth:`sample`).

        Args:
            varying: whether the images differ in size.
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
        if self.frame is not None and index < self.frame.count:
            key = replace(key, view=self.frame.view)
        rng = Draws(key, np.asarray(ids, dtype=np.int64), self._streams[index])
        return self.operations[index].draw(rng)

    @property
    def start(self) -> list[Operation]:
        """The crop and flips that the pipeline starts with: what a :class:`Frame` for other views is of."""
        crop = [] if self.placing is None else [self.placing]
        return [*crop, *itertools.takewhile(lambda each: each.mirrors, self.operations[len(crop) :])]

    def marks(self, ids: np.ndarray | Tensor, key: Key, grid: tuple[int, int], sizes: np.ndarray) -> Marks:
        """What the pipeline marks in the view, and where the view lies in its image if that is known.

        Args:
            ids: int64 [b].
            grid: rows and columns of patches of the view; at the end of the run, if its size changes.
            sizes: int [b, 2], (H, W) of the images.
        """
        own = self.at(key.epoch)
        if own is not self:
            full, now = self.output_size(None), own.output_size(None)
            if full is not None and now is not None:
                grid = (grid[0] * now[0] // full[0], grid[1] * now[1] // full[1])
            return own.marks(ids, key, grid, sizes)
        numbers = np.asarray(ids, dtype=np.int64)
        marks, place = Marks(), Place.whole(sizes)
        for index, operation in enumerate(self.operations):
            if isinstance(operation, Marking):
                stream = self._streams[index]
                every_view = Key(key.seed, key.epoch, 0)
                common = Draws(every_view, np.zeros(1, np.int64), f"{stream}:count")
                marks = marks.overlay(operation.mark(common, Draws(key, numbers, stream), grid))
            elif isinstance(operation, Placing):
                place = place.crop(
                    operation.place(self.draw(index, numbers, key), place.sizes), operation.size
                )
            elif operation.mirrors:
                place = place.mirror(self.draw(index, numbers, key)["chosen"])
            elif not operation.keeps_place:
                return marks
        return marks.overlay(
            Marks(box=torch.from_numpy(place.box), mirrored=torch.from_numpy(place.mirrored))
        )

    def _apply(self, images: Tensor, ids: np.ndarray | Tensor, key: Key, start: int) -> Tensor:
        """The operations from ``start`` on: uint8 [b, C, H, W] -> float32 [b, C, h, w].

        On a CPU in parts that fit in its cache, otherwise the whole batch at once.
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
            pixels = to_float(images)
        else:
            fused_count = 2 if len(params) > 1 and self.operations[1].mirrors else 1
            mirror = params[1]["chosen"] if fused_count == 2 else None
            if one_by_one(images):
                pixels = self.placing.cut_each(images, boxes, mirror)
            else:
                pixels = self.placing.resample(to_float(images), boxes, mirror)
        for operation, own in zip(self.operations[start + fused_count :], params[fused_count:], strict=True):
            pixels = operation.render(pixels, own)
        return pixels


@dataclass(frozen=True)
class ImageView:
    """One view of one image, as a decoding worker starts it. Its crop is drawn once.

    Attributes:
        pipeline: of the view, as it is in the epoch.
        ids: int64 [1], of the image.
        key: of the view.
        params: of the crop; none if the pipeline does not start with one.
    """

    pipeline: Pipeline
    ids: np.ndarray
    key: Key
    params: Params

    def reduction(self, size: tuple[int, int]) -> int:
        """The factor by which the sides of the image, of ``size`` (H, W), may be divided before the crop."""
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
            raise UsageError(f"{name} does not crop; start the pipeline with an operation that does.")
        box = placing.place(self.params, np.array([image.size]))[0]
        return placing.cut(image.pixels, box, image.factor)

    def sample(self, image: ReducedImage) -> Tensor:
        """:meth:`Pipeline.sample`: -> uint8 [C, h, w]."""
        if self.pipeline.placing is None:
            pixels = self.pipeline(image.pixels[None].contiguous(), self.ids, self.key)
        else:
            pixels = self.pipeline.rest(self.crop(image)[None], self.ids, self.key)
        return to_uint8(pixels)[0]


#: Values (of a view in float32) that a CPU processes at a time, per thread. Together with an operation's
#: temporaries they fit in a cache of 2 MiB.
VALUES_IN_CACHE = 3 * 2**16


def _as_reduced(image: Tensor, size: tuple[int, int] | None, factor: int) -> ReducedImage:
    return ReducedImage(image, size or (image.shape[1], image.shape[2]), factor)
