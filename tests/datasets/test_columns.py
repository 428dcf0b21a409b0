"""Columns of Arrow tables: every encoding of images and labels is read, or named for what it is."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from contrastive.datasets import HuggingFace, Parquet
from contrastive.errors import DataError, UnreadableImage
from contrastive.parts import Dataset, ImageTable

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 6, 3), dtype=np.uint8)
WORDS = ["x", "y", None, "x"]


def encoded(values: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, form)
    return buffer.getvalue()


FILES = [encoded(values) for values in PIXELS]
BITMAPS = [encoded(values, "BMP") for values in PIXELS]


def parquet(folder: Path, images: pa.Array, labels: pa.Array | None = None, name: str = "train") -> Path:
    columns = {"image": images} if labels is None else {"image": images, "label": labels}
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder / f"{name}.parquet"


@pytest.fixture(params=["parquet", "hugging_face"])
def read(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes columns to a file and opens it as a data set of either kind."""
    if request.param == "hugging_face":
        monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
        hub = pytest.importorskip("datasets")
        monkeypatch.setattr(hub.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def write_and_open(images: pa.Array, labels: pa.Array | None = None) -> Dataset:
        path = parquet(tmp_path / "data", images, labels)
        return Parquet(path) if request.param == "parquet" else HuggingFace(str(tmp_path / "data"))

    return write_and_open


Read = Callable[..., Dataset]


def table_of(dataset: Dataset) -> ImageTable:
    table = dataset.table("train")
    assert table is not None
    return table


def struct(files: pa.Array, paths: pa.Array) -> pa.Array:
    return pa.StructArray.from_arrays([files, paths], ["bytes", "path"])


def dictionary_of_views(values: list[bytes]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 3]), pa.array(values, pa.binary_view()))


ENCODED = {
    "binary": pa.array(FILES),
    "large_binary": pa.array(FILES, pa.large_binary()),
    "binary_view": pa.array(FILES, pa.binary_view()),
    "dictionary": pa.array(FILES).dictionary_encode(),
    "struct": struct(pa.array(FILES), pa.nulls(4, pa.string())),
    "struct of views": struct(pa.array(FILES, pa.binary_view()), pa.array(["a"] * 4, pa.string_view())),
    "struct of large": struct(pa.array(FILES, pa.large_binary()), pa.nulls(4)),
    "fixed size": pa.array(BITMAPS, pa.binary(len(BITMAPS[0]))),
}  # fmt: skip
ARRAYS = {
    "lists of int64, H x W x C": pa.array(PIXELS.tolist()),
    "lists of uint8, H x W x C": pa.array(
        PIXELS.tolist(), pa.list_(pa.list_(pa.list_(pa.uint8())))
    ),
    "lists of uint8, C x H x W": pa.array(
        PIXELS.transpose(0, 3, 1, 2).tolist(), pa.list_(pa.list_(pa.list_(pa.uint8())))
    ),
    "fixed-size lists": pa.array(PIXELS.tolist(), pa.list_(pa.list_(pa.list_(pa.uint8(), 3), 6), 8)),
    "large lists": pa.array(
        PIXELS.tolist(), pa.large_list(pa.large_list(pa.large_list(pa.int16())))
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", [*ENCODED, *ARRAYS])
def test_images_of_every_encoding_are_read(kind: str, read: Read):
    table = table_of(read({**ENCODED, **ARRAYS}[kind]))
    assert table.size == (8, 6)
    for index, values in enumerate(PIXELS):
        assert np.array_equal(table.decode(index).permute(1, 2, 0).numpy(), values)


def test_images_of_a_dictionary_of_views_are_read(tmp_path: Path):
    from contrastive.datasets.columns import image_column, label_column

    images = image_column(pa.chunked_array([dictionary_of_views(FILES)]), "t")
    assert images.to_pylist() == FILES
    words = pa.DictionaryArray.from_arrays(pa.array([0, None, 1]), pa.array(["a", "b"], pa.string_view()))
    assert label_column(pa.chunked_array([words, words]), "t").to_pylist() == ["a", None, "b"] * 2


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("writer", ["format", "pyarrow"])
def test_arrow_tensors_are_read(order: tuple[int, int, int], writer: str, tmp_path: Path):
    """Axes may be stored in any order. The format defines the permutation from stored to logical axes, but
    pyarrow writes its inverse."""
    stored = np.ascontiguousarray(PIXELS.transpose(0, *(axis + 1 for axis in order)))
    axes = np.argsort(order)
    if writer == "pyarrow":
        tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(stored.transpose(0, *(axes + 1)))
    else:
        kind = pa.fixed_shape_tensor(pa.uint8(), stored.shape[1:], None, axes)
        storage = pa.FixedSizeListArray.from_arrays(pa.array(stored.reshape(-1)), PIXELS[0].size)
        tensors = pa.ExtensionArray.from_storage(kind, storage)
    table = table_of(Parquet(parquet(tmp_path, tensors)))
    assert table.size == (8, 6)
    assert np.array_equal(table.decode(2).permute(1, 2, 0).numpy(), PIXELS[2])


def test_arrays_of_the_hugging_face_library_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    hub = pytest.importorskip("datasets")
    features = hub.Features(image=hub.Array3D((8, 6, 3), "uint8"), label=hub.ClassLabel(names=["a", "b"]))
    rows = hub.Dataset.from_dict({"image": PIXELS.tolist(), "label": [0, 1, 0, 1]}, features=features)
    hub.DatasetDict(train=rows).save_to_disk(tmp_path / "saved")
    rows.to_parquet(tmp_path / "t.parquet")
    for dataset in (HuggingFace(str(tmp_path / "saved")), Parquet(tmp_path / "t.parquet")):
        table = table_of(dataset)
        assert table.labels is not None
        assert table.labels.tolist() == [0, 1, 0, 1]
        assert np.array_equal(table.decode(3).permute(1, 2, 0).numpy(), PIXELS[3])
    before = HuggingFace(str(tmp_path / "saved")).fingerprint()
    rows = hub.Dataset.from_dict({"image": PIXELS[::-1].tolist(), "label": [0, 1, 0, 1]}, features=features)
    hub.DatasetDict(train=rows).save_to_disk(tmp_path / "other")
    assert HuggingFace(str(tmp_path / "other")).fingerprint() != before


def test_grey_arrays_and_arrays_with_alpha_are_read(read: Read):
    images = pa.array([[[0, 255], [7, 9]], [[1, 2, 3], [4, 5, 6]], None, [[1, 2], [3]]])
    table = table_of(read(images))
    assert table.size is None
    assert table.decode(0).tolist() == [[[0, 255], [7, 9]]] * 3
    assert table.decode(1).shape == (3, 2, 3)
    with pytest.raises(UnreadableImage, match="row 2: the table has no pixels for it"):
        table.decode(2)
    with pytest.raises(UnreadableImage, match="row 3: its rows differ in length"):
        table.decode(3)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full((4, 4, 3), 256), "its numbers are from 256 to 256; 8-bit pixels are from 0 to 255"),
        (np.full((4, 4, 3), -1), "its numbers are from -1 to -1"),
        (np.zeros((5, 7, 6), int), "its shape 5 x 7 x 6 is neither H x W x C nor C x H x W"),
    ],
)
def test_arrays_that_are_no_images_are_named(values: np.ndarray, reason: str, tmp_path: Path):
    table = table_of(Parquet(parquet(tmp_path, pa.array([values.tolist(), PIXELS[0].tolist()]))))
    with pytest.raises(UnreadableImage, match=reason):
        table.decode(0)
    table.decode(1)


NOT_IMAGES = {
    "text": (pa.array(["img/1.png"] * 4), r"string, not images: text such as 'img/1\.png'.*image_folder"),
    "paths": (struct(pa.nulls(4, pa.binary()), pa.array(["a.png"] * 4)), r"paths such as 'a\.png'.*_folder"),
    "nulls": (pa.nulls(4), "not images: every row is null"),
    "numbers": (pa.array([1, 2, 3, 4]), "is int64, not images: .*dataset.image_column"),
    "flat lists": (pa.array([[1, 2, 3]] * 4), "arrays of 1 dimension, not 2 or 3.*Store encoded images"),
    "video": (pa.array([[[[[1, 2, 3]]]]] * 4), "arrays of 4 dimensions, not 2 or 3"),
    "fractions": (pa.array((PIXELS / 255).tolist()), "arrays of fractions, whose black and white are"),
    "several": (pa.array([FILES[:2]] * 4), "several values per row. Store one image per row"),
    "raw pixels": (
        pa.array([bytes(range(256)) * 12] * 4),
        "3,072 bytes per row without an image header, as many as 32 x 32 x 3 pixels",
    ),
    "npy": (pa.array([b"\x93NUMPY\x01\x00v\x00"] * 4), "holds arrays; write each image as PNG"),
    "a struct": (pa.array([{"array": [1.0], "rate": 3}] * 4), "not images: neither encoded images"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NOT_IMAGES)
def test_a_column_that_holds_no_images_is_named_for_what_it_is(kind: str, read: Read):
    images, words = NOT_IMAGES[kind]
    with pytest.raises(DataError, match=f"(?s)column 'image'.*{words}") as error_info:
        table_of(read(images))
    assert len(str(error_info.value).splitlines()) == 1


def test_files_of_two_forms_are_refused(tmp_path: Path):
    parquet(tmp_path, pa.array(FILES), name="a")
    parquet(tmp_path, pa.array(PIXELS.tolist()), name="b")
    with pytest.raises(DataError, match=r"a\.parquet holds encoded images, but b\.parquet holds arrays"):
        table_of(Parquet(tmp_path))


# -- labels ------------------------------------------------------------------------------------------------

LABELS = {
    "floats": (pa.array([1.0, 0.0, float("nan"), 1.0]), [1, 0, -1, 1]),
    "floats and null": (pa.array([1.0, None, -3.0, 2.0]), [1, -1, -1, 2]),
    "float32": (pa.array([1.0, 0.0, float("nan"), 1.0], pa.float32()), [1, 0, -1, 1]),
    "float16": (pa.array(np.array([1, 0, np.nan, 1], np.float16)), [1, 0, -1, 1]),
    "decimals": (pa.array([Decimal("1.00"), Decimal("0.00"), None, Decimal("7.00")]), [1, 0, -1, 7]),
    "booleans": (pa.array([True, False, None, True]), [1, 0, -1, 1]),
    "unsigned": (pa.array([3, 0, None, 1], pa.uint8()), [3, 0, -1, 1]),
    "dictionary of integers": (pa.array([3, 0, None, 3]).dictionary_encode(), [3, 0, -1, 3]),
    "text": (pa.array(WORDS), [0, 1, -1, 0]),
    "string_view": (pa.array(WORDS, pa.string_view()), [0, 1, -1, 0]),
    "large_string": (pa.array(WORDS, pa.large_string()), [0, 1, -1, 0]),
    "dictionary of text": (pa.array(WORDS).dictionary_encode(), [0, 1, -1, 0]),
    "bytes": (pa.array([None if w is None else w.encode() for w in WORDS], pa.binary()), [0, 1, -1, 0]),
    "null type": (pa.nulls(4), None),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_every_encoding_are_read(kind: str, read: Read):
    labels, expected = LABELS[kind]
    dataset = read(pa.array(FILES), labels)
    table = table_of(dataset)
    assert (None if table.labels is None else table.labels.tolist()) == expected
    is_text = kind in ("text", "string_view", "large_string", "dictionary of text", "bytes")
    assert dataset.classes == (["x", "y"] if is_text else None)


NOT_LABELS = {
    "fractions": (
        pa.array([0.5, 1.0, 2.0, None]),
        "is double, not integers or text \\(fractions such as 0.5\\)",
    ),
    "infinity": (pa.array([0.0, float("inf"), 2.0, None]), "fractions such as inf"),
    "decimal fractions": (pa.array([Decimal("1.5")] * 4), "fractions such as 1.5"),
    "lists": (pa.array([[1], [2, 3], [], [1]]), "several labels per image, not one class"),
    "fixed-size lists": (pa.array([[0, 1]] * 4, pa.list_(pa.int64(), 2)), "several labels per image"),
    "structs": (pa.array([{"id": 1}] * 4), "is struct<id: int64>, not integers or text"),
    "times": (pa.array([1] * 4, pa.timestamp("us")), r"is timestamp\[us\], not integers or text"),
    "bytes": (pa.array([b"\xff\xfe"] * 4), "bytes that are not UTF-8"),
    "large": (pa.array([1e30] * 4), "outside the range of int64"),
}


@pytest.mark.parametrize("kind", NOT_LABELS)
def test_labels_that_are_no_classes_are_named_and_may_be_ignored(kind: str, read: Read):
    labels, words = NOT_LABELS[kind]
    dataset = read(pa.array(FILES), labels)
    with pytest.raises(DataError, match=words) as error_info:
        table_of(dataset)
    assert "dataset.label_column" in str(error_info.value)
    dataset = read(pa.array(FILES), labels)
    dataset.label_column = None  # type: ignore[attr-defined]
    assert table_of(dataset).labels is None
    assert dataset.label_hint is None


def test_files_may_differ_in_the_type_of_their_labels(tmp_path: Path):
    parquet(tmp_path, pa.array(FILES), pa.array([1, 0, 1, 2]), "a")
    parquet(tmp_path, pa.array(FILES), pa.array([1.0, float("nan"), 0.0, 2.0]), "b")
    parquet(tmp_path, pa.array(FILES), pa.nulls(4), "c")
    labels = table_of(Parquet(tmp_path)).labels
    assert labels is not None
    assert labels.tolist() == [1, 0, 1, 2, 1, -1, 0, 2, -1, -1, -1, -1]
    parquet(tmp_path, pa.array(FILES), name="0")
    with pytest.raises(DataError, match=r"0\.parquet: there is no column 'label'"):
        table_of(Parquet(tmp_path))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (["labels"], "^there is no column 'label'; if column labels holds them, set .*label_column=labels$"),
        (["coarse_label", "fine_label"], "the columns coarse_label, fine_label .*label_column=coarse_label$"),
        *(
            ([name], f"label_column={name}$")
            for name in ("class", "target", "category", "y", "ClassId", "Label")
        ),
    ],
)
def test_columns_that_may_hold_labels_are_named(columns: list[str], words: str, read: Read, tmp_path: Path):
    dataset = read(pa.array(FILES))
    table = pa.table({"image": FILES, "id": [1, 2, 3, 4], **{name: [0, 1, 0, 1] for name in columns}})
    pq.write_table(table, tmp_path / "data" / "train.parquet")
    assert table_of(dataset).labels is None
    hint = dataset.label_hint
    assert hint is not None
    assert re.search(words, hint), hint


def test_columns_that_cannot_hold_labels_are_not_named(read: Read, tmp_path: Path):
    dataset = read(pa.array(FILES))
    table = pa.table({"image": FILES, "classified_at": [1] * 4, "xy": [1] * 4, "labels": [[1]] * 4})
    pq.write_table(table, tmp_path / "data" / "train.parquet")
    assert dataset.label_hint is None


def test_a_column_of_labels_without_values_is_named(read: Read):
    dataset = read(pa.array(FILES), pa.nulls(4))
    assert table_of(dataset).labels is None
    assert dataset.label_hint == "column 'label' has no known value"


def test_a_column_with_class_names_may_hold_labels_whatever_its_name(tmp_path: Path):
    table = pa.table({"image": FILES, "breed": [0, 1, 0, 1]})
    features = {"breed": {"names": ["a", "b"], "_type": "ClassLabel"}}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "t.parquet")
    assert "dataset.label_column=breed" in (Parquet(tmp_path / "t.parquet").label_hint or "")
