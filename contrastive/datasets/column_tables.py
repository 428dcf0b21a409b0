"""Tables of images whose rows lie in Arrow columns: encoded files, or arrays of pixels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from torch import Tensor

from contrastive.datasets.columns import is_bytes, is_list, is_tensor
from contrastive.datasets.decoding import MAX_PIXELS, EncodedTable, common_size, equal_size, pixels
from contrastive.errors import DataError, UnreadableImage
from contrastive.parts import ImageTable

if TYPE_CHECKING:
    import pyarrow as pa

#: Numbers of channels that an array of pixels may have: grey or RGB, without or with alpha.
_CHANNELS = (1, 2, 3, 4)


class ColumnTable(ImageTable):
    """Images in Arrow memory.

    Args:
        images: one column per file.
        files: the files' names.
        labels: int64 [n] or None.
    """

    def __init__(self, images: Sequence[pa.ChunkedArray], files: Sequence[str], labels: np.ndarray | None):
        self.images, self.files, self.labels = images, files, labels
        self.ends = np.cumsum([len(column) for column in images])  # row after the last of each file
        self.ids = np.arange(self.ends[-1], dtype=np.int64)

    def name(self, index: int) -> str:
        file, row = self._locate(index)
        return f"{self.files[file]} row {row}"

    @abstractmethod
    def contents(self) -> Iterator[bytes]:
        """What the column holds of every image, in order."""

    def _value(self, index: int) -> pa.Scalar:
        file, row = self._locate(index)
        return self.images[file][row]

    def _locate(self, index: int) -> tuple[int, int]:
        file = int(np.searchsorted(self.ends, index, side="right"))
        return file, int(index - (self.ends[file - 1] if file else 0))


class EncodedColumnTable(ColumnTable, EncodedTable):
    """Encoded images in Arrow memory."""

    def __init__(self, images: Sequence[pa.ChunkedArray], files: Sequence[str], labels: np.ndarray | None):
        super().__init__(images, files, labels)
        self.size = common_size(self.contents())

    def file_bytes(self, index: int) -> bytes:
        data = self._bytes(index)
        if not data:
            raise UnreadableImage(self.name(index), "the table has no bytes for it")
        return data

    def contents(self) -> Iterator[bytes]:
        return (self._bytes(index) for index in range(len(self)))

    def _bytes(self, index: int) -> bytes:
        return self._value(index).as_py() or b""


class ArrayColumnTable(ColumnTable):
    """Arrays of pixels in Arrow memory, read as RGB: [H, W], [H, W, C] or [C, H, W] of integers 0 to 255."""

    def __init__(self, images: Sequence[pa.ChunkedArray], files: Sequence[str], labels: np.ndarray | None):
        super().__init__(images, files, labels)
        self.size = equal_size(self._sizes())

    def decode(self, index: int) -> Tensor:
        try:
            values = _channels_last(_array(self._value(index)))
        except ValueError as error:
            raise UnreadableImage(self.name(index), str(error)) from None
        return pixels(Image.fromarray(values[..., 0] if values.shape[2] == 1 else values))

    def contents(self) -> Iterator[bytes]:
        for index in range(len(self)):
            try:
                values = _array(self._value(index))
                yield f"{values.shape} {values.dtype} ".encode() + values.tobytes()
            except ValueError:
                yield b""

    def _sizes(self) -> Iterator[tuple[int, int] | None]:
        for index in range(len(self)):
            try:
                yield _size(_shape(self._value(index)))
            except ValueError:
                yield None


def column_table(
    images: Sequence[pa.ChunkedArray], files: Sequence[str], labels: np.ndarray | None
) -> EncodedColumnTable | ArrayColumnTable:
    """The table of images in columns of :func:`~contrastive.datasets.columns.image_column`.

    Raises:
        DataError: some files hold encoded images and others arrays.
    """
    are_files = [is_bytes(column.type) for column in images]
    if all(are_files):
        return EncodedColumnTable(images, files, labels)
    if any(are_files):
        raise DataError(
            f"{files[are_files.index(True)]} holds encoded images, but {files[are_files.index(False)]} holds "
            "arrays. Write all files in one form."
        )
    return ArrayColumnTable(images, files, labels)


def _shape(value: pa.Scalar) -> tuple[int, ...]:
    """The shape of an array, from its first rows. Raises ValueError if it is null or has no pixels."""
    if value.is_valid and is_tensor(value.type):
        return tuple(value.type.shape[axis] for axis in _axes(value.type))
    shape = []
    while is_list(value.type):
        if not value.is_valid or len(value.values) == 0:
            raise ValueError("the table has no pixels for it")
        shape.append(len(value.values))
        value = value.values[0]
    if not value.is_valid:
        raise ValueError("the table has no pixels for it")
    return tuple(shape)


def _axes(kind: pa.FixedShapeTensorType) -> list[int]:
    """The stored axes of Arrow's tensors in their logical order.

    pyarrow's ``from_numpy_ndarray`` writes the inverse of the permutation that the format defines. The two
    differ if all three axes move; then at most one of them puts the channels first or last.
    """
    axes = list(kind.permutation or range(len(kind.shape)))
    inverse = [axes.index(axis) for axis in range(len(axes))]
    shapes = ([kind.shape[axis] for axis in order] for order in (axes, inverse))
    fits = [len(shape) == 2 or _CHANNELS.count(shape[0]) or _CHANNELS.count(shape[-1]) for shape in shapes]
    return inverse if fits[1] and not fits[0] else axes


def _array(value: pa.Scalar) -> np.ndarray:
    """The numbers of an array. Raises ValueError if they are no pixels of 8 bits."""
    import pyarrow.compute as pc

    shape = _shape(value)
    if is_tensor(value.type):
        values = _numbers(value.value.values).reshape(value.type.shape).transpose(_axes(value.type))
    else:
        numbers = value.values
        for length in shape[1:]:
            if pc.list_value_length(numbers).unique().to_pylist() != [length]:
                raise ValueError("its rows differ in length")
            numbers = numbers.flatten()
        values = _numbers(numbers).reshape(shape)
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if values.min() < 0 or values.max() > 255:
        raise ValueError(
            f"its numbers are from {values.min():,} to {values.max():,}; 8-bit pixels are from 0 to 255"
        )
    return values.astype(np.uint8)


def _numbers(values: pa.Array) -> np.ndarray:
    if values.null_count:
        raise ValueError("some of its numbers are null")
    return values.to_numpy(zero_copy_only=False)


def _channels_last(values: np.ndarray) -> np.ndarray:
    """[H, W, C]. Raises ValueError if an array of another shape is no image."""
    height, width = _size(values.shape)
    if values.ndim == 2:
        return values[..., None]
    if values.shape[:2] != (height, width):
        values = values.transpose(1, 2, 0)
    return np.ascontiguousarray(values)


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    """(H, W) of an array [H, W], [H, W, C] or [C, H, W]. Raises ValueError if that is not its shape."""
    if len(shape) == 2 or shape[-1] in _CHANNELS:
        height, width = shape[:2]
    elif shape[0] in _CHANNELS:
        height, width = shape[1:]
    else:
        raise ValueError(f"its shape {' x '.join(map(str, shape))} is neither H x W x C nor C x H x W")
    if height * width > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels exceed the limit of {MAX_PIXELS:,}")
    return height, width
