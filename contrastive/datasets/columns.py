"""Columns of Arrow tables: plain values whatever their encoding, and what images and labels they hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from contrastive.datasets.decoding import header_size
from contrastive.datasets.file_kinds import begins_as_image, kind_of_content
from contrastive.errors import DataError, did_you_mean
from contrastive.text import abbreviate, quantity

if TYPE_CHECKING:
    import pyarrow as pa

#: Rows whose content is looked at to say what a column of bytes holds.
_PROBES = 10
#: Words in the names of columns that hold labels.
_LABEL_WORDS = frozenset(
    {"label", "labels", "lbl", "class", "classes", "cls", "target", "targets", "category", "categories", "gt"}
)
_LONGEST_TYPE = 60
#: Names of types that pyarrow 15 does not have.
_TEXT_VIEW, _BYTES_VIEW = "string_view", "binary_view"
_ENCODE = "Store encoded images (PNG, for example) as bytes"
_STORE = f"{_ENCODE}, or nested lists of 8-bit integers (height x width x channels)."


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column without dictionaries, views, fixed-size bytes and extension types (tensors remain)."""
    import pyarrow as pa

    kind = column.type
    if isinstance(kind, pa.BaseExtensionType) and not is_tensor(kind):
        return plain(pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type))
    if pa.types.is_dictionary(kind):
        chunks = [
            plain(pa.chunked_array([chunk.dictionary])).combine_chunks().take(chunk.indices)
            for chunk in column.chunks
        ]
        empty = plain(pa.chunked_array([], kind.value_type))
        return pa.chunked_array(chunks, chunks[0].type if chunks else empty.type)
    if str(kind) == _TEXT_VIEW:
        return column.cast(pa.large_string())
    if str(kind) == _BYTES_VIEW or pa.types.is_fixed_size_binary(kind):
        return column.cast(pa.large_binary())
    return column


def is_tensor(kind: pa.DataType) -> bool:
    """Whether a type is Arrow's tensor of one shape."""
    import pyarrow as pa

    return isinstance(kind, pa.FixedShapeTensorType)


def is_text(kind: pa.DataType) -> bool:
    """Whether a plain type is text."""
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a plain type is bytes."""
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is a list."""
    import pyarrow as pa

    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def no_column(location: object, key: str, name: str, names: Sequence[str]) -> DataError:
    """The error for a column that does not exist.

    Args:
        location: the file or data set.
        key: the parameter that names the column.
        name: the column.
        names: of the columns that exist.
    """
    return DataError(
        f"{location}: there is no column '{name}'.{did_you_mean(name, names)} "
        f"Set dataset.{key} to one of: {', '.join(names)}."
    )


# -- images ----------------------------------------------------------------------------------------------


def image_column(column: pa.ChunkedArray, title: str) -> pa.ChunkedArray:
    """A column of images as bytes of encoded files, or as arrays of integers (nested lists, tensors).

    Args:
        column: bytes, a struct with a field ``bytes``, or arrays of 2 or 3 dimensions.
        title: of the column, for messages.

    Raises:
        DataError: it holds something else; the message names what.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    values = plain(column)
    if pa.types.is_struct(values.type) and "bytes" in [field.name for field in values.type]:
        files = plain(pc.struct_field(values, "bytes"))
        if len(files) and files.null_count == len(files) and "path" in [field.name for field in values.type]:
            path = _example(pc.struct_field(values, "path"))
            if path is not None or not is_bytes(files.type):
                raise DataError(
                    f"{title} has no bytes, only paths such as {path!r}. Store the bytes of the files, or "
                    "read the folder of the files with dataset image_folder."
                )
        values = files
    if is_bytes(values.type):
        _check_content(values, title)
        return values
    if _is_array_of_pixels(values.type):
        return values
    raise DataError(f"{title} is {_type_name(column.type)}, not images: {_instead(values)}")


def _is_array_of_pixels(kind: pa.DataType) -> bool:
    import pyarrow as pa

    number, dimensions = _innermost(kind)
    return dimensions in (2, 3) and (pa.types.is_integer(number) or pa.types.is_boolean(number))


def _innermost(kind: pa.DataType) -> tuple[pa.DataType, int]:
    """The type of an array's numbers, and its number of dimensions."""
    if is_tensor(kind):
        return kind.value_type, len(kind.shape)
    dimensions = 0
    while is_list(kind):
        kind, dimensions = kind.value_type, dimensions + 1
    return kind, dimensions


def _instead(column: pa.ChunkedArray) -> str:
    """What a column that holds no images holds, and the remedy."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_null(kind):
        return "every row is null. Set dataset.image_column to the column of images."
    if is_text(kind):
        return (
            f"text such as {_example(column)!r}. {_ENCODE}, or read the folder of the files with dataset "
            "image_folder."
        )
    number, dimensions = _innermost(kind)
    if dimensions and not (pa.types.is_integer(number) or pa.types.is_floating(number)):
        return "several values per row. Store one image per row."
    if pa.types.is_floating(number) and dimensions in (2, 3):
        return f"arrays of fractions, whose black and white are unknown. {_STORE}"
    if dimensions:
        return f"arrays of {quantity(dimensions, 'dimension')}, not 2 or 3. {_STORE}"
    return (
        "neither encoded images (bytes, or a struct of bytes and path) nor arrays. Set dataset.image_column "
        "to the column of images."
    )


def _check_content(column: pa.ChunkedArray, title: str) -> None:
    """Raise DataError if a column of bytes holds raw pixels, or files of a kind that is not read."""
    rows = [content for content in _first(column) if content]
    if not rows or any(header_size(content) is not None for content in rows):
        return
    kinds = {kind_of_content(content) for content in rows}
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is not None and kind.pillow_format is None:
        raise DataError(f"{title} holds {kind.noun}; {kind.remedy}.")
    shape = _raw_shape({len(content) for content in rows})
    if shape is not None and not any(begins_as_image(content) or content.isascii() for content in rows):
        raise DataError(
            f"{title} holds {quantity(len(rows[0]), 'byte')} per row without an image header, as many as "
            f"{shape} pixels: raw pixels have no known shape. {_STORE}"
        )


def _raw_shape(lengths: set[int]) -> str | None:
    """The shape of square images of 8-bit pixels with that many bytes; None if the lengths fit none."""
    if len(lengths) != 1:
        return None
    length = lengths.pop()
    for channels in (1, 3, 4):
        side = round((length / channels) ** 0.5)
        if side >= 8 and side * side * channels == length:
            return f"{side} x {side} x {channels}"
    return None


def _first(column: pa.ChunkedArray) -> Iterable[Any]:
    """The first values of a column that are not null."""
    return islice((value.as_py() for value in column if value.is_valid), _PROBES)


def _example(column: pa.ChunkedArray) -> Any:
    """The first value of a column that is not null; None if there is none."""
    return next(iter(_first(column)), None)


def _type_name(kind: pa.DataType) -> str:
    name = str(kind)
    return name if len(name) <= _LONGEST_TYPE else f"{name[:_LONGEST_TYPE]}..."


# -- labels ----------------------------------------------------------------------------------------------


def label_column(column: pa.ChunkedArray, title: str) -> pa.ChunkedArray:
    """A column of labels as int64, text, or null type (no label at all).

    Integers, booleans, and floats and decimals that are whole become int64, NaN null. Bytes become text.

    Args:
        column: of labels.
        title: of the column, for messages.

    Raises:
        DataError: it holds fractions, numbers outside int64, bytes that are not text, or another type.
    """
    import pyarrow as pa

    values = plain(column)
    kind = values.type
    if pa.types.is_null(kind) or is_text(kind):
        return values
    if is_bytes(kind):
        try:
            return values.cast(pa.large_string() if pa.types.is_large_binary(kind) else pa.string())
        except pa.ArrowInvalid:
            raise _not_labels(column.type, title, "bytes that are not UTF-8") from None
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        try:
            return values.cast(pa.int64())
        except pa.ArrowInvalid:
            raise _outside(title) from None
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _whole_numbers(values, title)
    if is_list(kind) or is_tensor(kind):
        raise _not_labels(column.type, title, "several labels per image, not one class")
    raise _not_labels(column.type, title)


def _whole_numbers(column: pa.ChunkedArray, title: str) -> pa.ChunkedArray:
    """int64 from floats or decimals that are whole; null for NaN and null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(column.type):
        values = column.cast(pa.float64())
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)
    else:
        values = column
    for value in values.unique().to_pylist():
        if value is not None and (abs(value) == float("inf") or value != int(value)):
            raise _not_labels(column.type, title, f"fractions such as {value}")
        if value is not None and not -(2**63) <= value < 2**63:
            raise _outside(title)
    return values.cast(pa.int64())


def _not_labels(kind: pa.DataType, title: str, problem: str = "") -> DataError:
    return DataError(
        f"{title} is {_type_name(kind)}, not integers or text{f' ({problem})' if problem else ''}. Set "
        "dataset.label_column to the column of labels, or to null to train without labels."
    )


def _outside(title: str) -> DataError:
    return DataError(
        f"{title} holds numbers outside the range of int64. Set dataset.label_column to the column of labels."
    )


def label_hint(kinds: Mapping[str, pa.DataType], named_classes: Iterable[str], name: str) -> str | None:
    """Why a table has no labels, and which columns may hold them: part of a sentence, or None if none may.

    Args:
        kinds: column -> its type.
        named_classes: columns whose metadata has the names of classes.
        name: the column of labels, which does not exist or has no value.
    """
    problem = f"column '{name}' has no known value" if name in kinds else f"there is no column '{name}'"
    names = _candidates(kinds, named_classes, name)
    if not names:
        return problem if name in kinds else None
    columns = "column " + names[0] if len(names) == 1 else f"one of the columns {abbreviate(names)}"
    return f"{problem}; if {columns} holds them, set dataset.label_column={names[0]}"


def absent_labels(kinds: Mapping[str, pa.DataType], name: str) -> str:
    """Why a split has no labels though train has a column ``name`` of them; ``kinds`` as for `label_hint`."""
    names = _candidates(kinds, (), name)
    remedy = f"; if column '{names[0]}' holds them, rename it to '{name}'" if names else ""
    return f"there is no column '{name}'{remedy}"


def _candidates(kinds: Mapping[str, pa.DataType], named_classes: Iterable[str], name: str) -> list[str]:
    """The columns other than ``name`` that may hold labels."""
    certain = set(named_classes)
    return [c for c, kind in kinds.items() if c != name and (c in certain or _may_hold_labels(c, kind))]


def _may_hold_labels(name: str, kind: pa.DataType) -> bool:
    """Whether a column's name has a word for labels, or is ``y``, and its type may be one of labels."""
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    words = [word.lower() for word in re.findall(r"[A-Z]*[a-z]+|[A-Z]+", name)]
    if not _LABEL_WORDS.intersection(words) and words != ["y"]:
        return False
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return numbers or pa.types.is_boolean(kind) or is_text(kind) or str(kind) == _TEXT_VIEW
