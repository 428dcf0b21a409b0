"""Parquet files of features: those that ``contrastive embed`` wrote, or anyone's with ids and features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from contrastive.curation.features import FeatureTable, ImageRows, SplitSource, require_finite, texts
from contrastive.errors import UsageError
from contrastive.text import abbreviate, quantity

_SUFFIXES = (".parquet", ".pq", ".parq")
_MAGIC = b"PAR1"
#: The split of a file without a column of splits.
WHOLE = "all"


def is_feature_file(text: str | Path) -> bool:
    """Whether a text names a parquet file: by its content if it exists, else by its name."""
    path = Path(text)
    if path.is_file():
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC or path.suffix.lower() in _SUFFIXES
    return path.suffix.lower() in _SUFFIXES and not path.is_dir()


def read_feature_file(path: str | Path) -> FeatureTable:
    """A table of features: columns ``id`` and ``features``, and if present ``split``, ``name`` and ``label``.

    ``features`` holds a list of F numbers per row, ``id`` integers or texts that are unique within a split,
    ``label`` integers or texts; missing and negative labels are unknown.

    Raises:
        UsageError: it is not such a file; the message has the reason.
        ContrastiveError: a feature is not finite.
    """
    table = _table(Path(path))
    ids = _ids(path, table["id"])
    splits = _splits(path, table)
    if len({*zip(splits, ids.tolist(), strict=True)}) < len(ids):
        raise UsageError(f"{path}: ids are not unique within a split, so its rows are not distinct images.")
    names = [str(i) for i in ids.tolist()]
    if "name" in table.column_names:
        own = table["name"].cast("string").to_pylist()
        names = [key if name is None else name for key, name in zip(names, own, strict=True)]
    labels, classes = _labels(path, table)
    vectors = torch.from_numpy(_vectors(path, table["features"]))
    require_finite(vectors, str(path))
    return FeatureTable(
        splits=texts(splits),
        ids=ids,
        names=texts(names),
        labels=labels,
        vectors=vectors,
        classes=classes,
    )


def with_images(
    table: FeatureTable,
    sources: Mapping[str, SplitSource],
    classes: Sequence[str] | None,
    path: str | Path,
) -> FeatureTable:
    """The table of a file, with the images of the data set that it was made from.

    Rows find their images by split and id; without splits, by id alone; if ids are texts, by name.

    Args:
        table: of the file, which has no images.
        sources: the splits of the data set.
        classes: names of its classes; those of the file stay, if its labels are texts.
        path: of the file, for messages.

    Raises UsageError if the data set lacks some of them.
    """
    positions = _positions(sources, by_name=table.ids.dtype == object)
    keys = [*zip(table.splits.tolist(), table.ids.tolist(), strict=True)]
    missing = [row for row, key in enumerate(keys) if key not in positions]
    if missing:
        raise UsageError(
            f"{path}: the data set lacks {len(missing):,} of its {quantity(len(keys), 'image')} "
            f"({abbreviate([str(table.names[row]) for row in missing])}); set the data set that the features "
            "are of, or drop --set dataset."
        )
    splits, rows = zip(*(positions[key] for key in keys), strict=True)
    return replace(
        table,
        splits=texts(splits),
        classes=table.classes or classes,
        images=ImageRows(sources, np.array(rows, dtype=np.int64)),
    )


def _positions(sources: Mapping[str, SplitSource], by_name: bool) -> dict[tuple[str, Any], tuple[str, int]]:
    """(split, id or name) -> (split, row); also without a split, unless several splits have that id."""
    positions: dict[tuple[str, Any], tuple[str, int]] = {}
    repeats = set()
    for split, images in sources.items():
        own = images.table
        keys = [own.name(row) for row in range(len(own))] if by_name else own.ids.tolist()
        for row, key in enumerate(keys):
            positions[split, key] = (split, row)
            if (WHOLE, key) in positions:
                repeats.add((WHOLE, key))
            positions[WHOLE, key] = (split, row)
    return {key: position for key, position in positions.items() if key not in repeats}


def _table(path: Path) -> Any:
    """The columns of a file that are read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UsageError(f"{path} does not exist.")
    try:
        present = pq.read_schema(path).names
        for column in ("id", "features"):
            if column not in present:
                raise UsageError(
                    f"{path} is not a table of features: it has no column '{column}' "
                    f"(it has {abbreviate(present) or 'none'})."
                )
        columns = [name for name in ("split", "id", "name", "label", "features") if name in present]
        table = pq.read_table(path, columns=columns)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{path} cannot be read as a parquet file: {reason}") from error
    if not len(table):
        raise UsageError(f"{path} has no rows.")
    return table


def _ids(path: str | Path, column: Any) -> np.ndarray:
    import pyarrow.types as types

    if column.null_count:
        raise UsageError(f"{path}: the column 'id' has empty cells.")
    if types.is_integer(column.type):
        return column.to_numpy().astype(np.int64)
    if types.is_string(column.type) or types.is_large_string(column.type):
        return texts(column.to_pylist())
    raise UsageError(f"{path}: the column 'id' holds {column.type}, not integers or texts.")


def _splits(path: str | Path, table: Any) -> list[str]:
    import pyarrow.types as types

    if "split" not in table.column_names:
        return [WHOLE] * len(table)
    column = table["split"]
    if not (
        types.is_string(column.type) or types.is_large_string(column.type) or types.is_dictionary(column.type)
    ):
        raise UsageError(f"{path}: the column 'split' holds {column.type}, not texts.")
    return [WHOLE if text is None else str(text) for text in column.to_pylist()]


def _labels(path: str | Path, table: Any) -> tuple[np.ndarray, list[str] | None]:
    """Labels [n], -1 unknown, and the names of the classes if labels are texts."""
    import pyarrow.types as types

    if "label" not in table.column_names:
        return np.full(len(table), -1, dtype=np.int64), None
    column = table["label"]
    values = column.to_pylist()
    if types.is_null(column.type):
        return np.full(len(table), -1, dtype=np.int64), None
    if types.is_integer(column.type):
        return np.array([-1 if value is None else max(value, -1) for value in values], dtype=np.int64), None
    if types.is_string(column.type) or types.is_large_string(column.type) or types.is_dictionary(column.type):
        classes = sorted({str(value) for value in values if value is not None})
        index = {name: label for label, name in enumerate(classes)}
        labels = [-1 if value is None else index[str(value)] for value in values]
        return np.array(labels, dtype=np.int64), classes
    raise UsageError(f"{path}: the column 'label' holds {column.type}, not integers or texts.")


def _vectors(path: str | Path, column: Any) -> np.ndarray:
    """Features as float32 [n, F]."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as types

    kind = column.type
    if isinstance(kind, pa.FixedShapeTensorType):
        if len(kind.shape) != 1:
            raise UsageError(
                f"{path}: 'features' holds tensors of {' x '.join(map(str, kind.shape))} per image, those of "
                "its patches; curation compares one vector per image."
            )
        column, kind = pa.chunked_array([chunk.storage for chunk in column.chunks]), kind.storage_type
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if not is_list or not (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)):
        raise UsageError(f"{path}: the column 'features' holds {kind}, not lists of numbers.")
    array = pa.concat_arrays(column.chunks)
    widths = pc.unique(pc.list_value_length(array)).to_pylist()
    if len(widths) != 1 or not widths[0]:
        listing = ", ".join("none" if width is None else str(width) for width in sorted(widths, key=str)[:5])
        raise UsageError(f"{path}: 'features' differ in length between rows ({listing}).")
    flat = array.flatten()
    if flat.null_count:
        raise UsageError(f"{path}: 'features' have empty values.")
    return flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(array), widths[0])
