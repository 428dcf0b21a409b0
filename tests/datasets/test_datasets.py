"""Datasets: layouts, ids, labels, odd and broken files, fingerprints, errors that name path and remedy."""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from contrastive.datasets import FashionMNISTSample, HuggingFace, ImageFolder, Parquet, Subset, Torchvision
from contrastive.datasets import fashion_mnist_sample as fashion_mnist_module
from contrastive.datasets import image_folder as folder_module
from contrastive.datasets.decoding import EncodedTable, common_size, decode_image, decode_reduced
from contrastive.errors import DataError, UnreadableImage, UsageError
from contrastive.parts import Dataset, ImageTable

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data"


def encoded(size=(6, 4), colour=(200, 30, 60), mode="RGB", form="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, form, **options)
    return buffer.getvalue()


def write(root: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def table_of(dataset: Dataset, split="train") -> ImageTable:
    table = dataset.table(split)
    assert table is not None
    return table


def test_import_is_light():
    code = (
        "import sys, contrastive.datasets as d; assert {'HuggingFace', 'ImageFolder'} <= set(d.__all__);"
        "print([m for m in ('torchvision', 'pyarrow', 'datasets', 'torch') if m in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert process.stdout.strip() == "[]", process.stderr


# -- the sample that ships with the package ------------------------------------------------------------


def test_sample_is_balanced_small_and_licensed():
    dataset = FashionMNISTSample()
    for split, per_class in (("train", 800), ("test", 200)):
        table = table_of(dataset, split)
        assert np.array_equal(np.bincount(table.labels), [per_class] * 10)
        assert table.size == (28, 28)
        assert table.channels == 1
        assert np.array_equal(table.ids, np.arange(10 * per_class))
        assert table.decode(5).shape == (1, 28, 28)
        assert table.decode(5).dtype == torch.uint8
    assert len(dataset.classes) == 10
    file = Path(fashion_mnist_module.__file__).with_name("fashion_mnist_sample.npz")
    assert file.stat().st_size <= 5_000_000
    licence = file.with_name("fashion_mnist_sample.LICENCE.txt").read_text()
    assert "Zalando SE" in licence
    assert "Permission is hereby granted, free of charge" in licence
    images = [table_of(dataset, split).images.flatten(1).numpy() for split in ("train", "test")]
    rows = np.unique(np.concatenate(images), axis=0)
    assert len(rows) >= 9_990, "train and test share images"


def _sample_script():
    spec = importlib.util.spec_from_file_location("sample", ROOT / "scripts" / "make_fashion_mnist_sample.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}i", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_sample_script_is_deterministic(tmp_path):
    script, rng = _sample_script(), np.random.default_rng(0)
    for prefix, per_class in (("train", 900), ("t10k", 210)):
        labels = rng.permutation(np.repeat(np.arange(3), per_class)).astype(np.uint8)
        images = rng.integers(0, 256, (len(labels), 4, 4), dtype=np.uint8)
        images[:, 0, 0] = labels
        _write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", labels)
        _write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", images)
    outs = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for out in outs:
        script.write_npz(out, script.sample(tmp_path))
    assert outs[0].read_bytes() == outs[1].read_bytes()
    with np.load(outs[0], allow_pickle=False) as arrays:
        assert np.array_equal(np.bincount(arrays["train_labels"]), [800] * 3)
        assert np.array_equal(np.bincount(arrays["test_labels"]), [200] * 3)
        assert np.array_equal(arrays["train_images"][:, 0, 0], arrays["train_labels"])


@pytest.mark.skipif(not (REAL / "fashion-mnist").exists(), reason="Fashion-MNIST is not here")
def test_sample_is_what_the_script_makes():
    arrays = _sample_script().sample(REAL / "fashion-mnist" / "FashionMNIST" / "raw")
    with np.load(Path(fashion_mnist_module.__file__).with_name("fashion_mnist_sample.npz")) as shipped:
        assert all(np.array_equal(shipped[name], array) for name, array in arrays.items())


# -- decoding ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG"])
def test_formats(form):
    options = {"lossless": True} if form == "WEBP" else {"quality": 100} if form == "JPEG" else {}
    image = decode_image(encoded(form=form, **options), "x")
    assert image.shape == (3, 4, 6)
    assert (image[:, 0, 0].int() - torch.tensor([200, 30, 60])).abs().max() <= 3


def _in_exif(image: Image.Image, form: str, orientation: int) -> bytes:
    exif = image.getexif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, form, exif=exif)
    return buffer.getvalue()


def _in_xmp(image: Image.Image, form: str, orientation: int) -> bytes:
    text = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="{orientation}"/></x:xmpmeta>'
    options: dict[str, Any] = {"xmp": text.encode(), "lossless": True}
    if form == "PNG":
        options = {"pnginfo": (chunks := PngInfo())}
        chunks.add_itxt("XML:com.adobe.xmp", text)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("form", "set_orientation"), [("PNG", _in_exif), ("TIFF", _in_exif), ("PNG", _in_xmp), ("WEBP", _in_xmp)]
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(orientation, form, set_orientation):
    """Corners of a 3 x 2 image, by the table of the EXIF standard."""
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    data = set_orientation(Image.fromarray(pixels), form, orientation)
    upright = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.T,
        6: pixels[::-1].T,
        7: pixels[::-1, ::-1].T,
        8: pixels[:, ::-1].T,
    }[orientation]
    decoded = decode_reduced(data, "x", lambda size: 1, 1)
    assert np.array_equal(decoded.pixels[0].numpy(), upright)
    assert decoded.size == upright.shape
    assert common_size([data]) == upright.shape


def test_encoded_is_still_taken_for_file_bytes():
    with pytest.warns(DeprecationWarning, match="EncodedTable.encoded is now EncodedTable.file_bytes"):

        class Former(EncodedTable):
            ids = np.arange(1)

            def encoded(self, index: int) -> bytes:
                return encoded()

            def name(self, index: int) -> str:
                return f"row {index}"

    table = Former()
    assert torch.equal(table.decode(0), decode_image(encoded(), "x"))
    assert table.decode_reduced(0, lambda size: 8).factor == 1


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    assert decode_image(buffer.getvalue(), "x")[0].tolist() == [[0, 1, 128, 255]]

    deep = b"P5 4 1 65535\n" + values.astype(">u2").tobytes()
    assert decode_image(deep, "x")[0].tolist() == [[0, 1, 128, 255]]


@pytest.mark.parametrize(
    "values",
    [
        np.array([[-1.0, 0.0, 1.0]], np.float32),
        np.array([[-1000, 0, 1000]], np.int32),
        np.array([[100, 200, 300]], np.int32),
        np.array([[1000, np.nan, 1400, 1800, np.inf, -np.inf]], np.float32),
    ],
)
def test_float_and_wide_integers_are_stretched(values):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF")
    expected = [[0, 128, 255]] if values.shape[1] == 3 else [[0, 0, 128, 255, 255, 0]]
    assert decode_image(buffer.getvalue(), "x")[0].tolist() == expected


def test_values_that_are_all_one_or_none_at_all_are_black():
    buffer = io.BytesIO()
    Image.fromarray(np.full((2, 2), np.nan, np.float32)).save(buffer, "TIFF")
    assert decode_image(buffer.getvalue(), "x").unique().tolist() == [0]
    buffer = io.BytesIO()
    Image.fromarray(np.full((2, 2), 7.5, np.float32)).save(buffer, "TIFF")
    assert decode_image(buffer.getvalue(), "x").unique().tolist() == [0]


def test_alpha_is_laid_over_white():
    assert decode_image(encoded(mode="RGBA", colour=(9, 9, 9, 0)), "x").unique().tolist() == [255]
    assert decode_image(encoded(mode="RGBA", colour=(9, 9, 9, 255)), "x").unique().tolist() == [9]
    assert decode_image(encoded(mode="LA", colour=(9, 0)), "x").unique().tolist() == [255]
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=1)
    assert decode_image(buffer.getvalue(), "x").unique().tolist() == [255]
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=0)
    assert decode_image(buffer.getvalue(), "x")[:, 0, 0].tolist() == [40, 50, 60]


def test_cmyk_bilevel_grey_and_animation():
    red = decode_image(encoded(mode="CMYK", colour=(0, 255, 255, 0), form="JPEG", quality=100), "x")
    assert (red[:, 0, 0].int() - torch.tensor([255, 0, 0])).abs().max() <= 8
    assert decode_image(encoded(mode="1", colour=1), "x").unique().tolist() == [255]
    assert decode_image(encoded(mode="L", colour=77), "x").unique().tolist() == [77]
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(buffer.getvalue(), "x")[:, 0, 0].tolist() == [255, 0, 0]


def _png_bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty file"),
        (b"not an image", "unknown format"),
        (encoded((40, 40), form="JPEG")[:300], ""),
        (encoded((40, 40))[:-30], ""),
        (encoded((40, 40), form="GIF")[:20], ""),
        (_png_bomb(10_000, 10_000), "10000 x 10000 pixels exceed the limit of 89,478,485"),
        (_png_bomb(50_000, 50_000), "exceed the limit of 89,478,485"),
        (_png_bomb(8, 8), ""),
    ],
)
def test_broken_images_are_named(data, why):
    with pytest.raises(UnreadableImage, match="photo 7") as error_info:
        decode_image(data, "photo 7")
    assert why in error_info.value.reason
    with pytest.raises(UnreadableImage) as again:
        decode_image(data, "photo 7")
    assert again.value.reason == error_info.value.reason


@pytest.mark.filterwarnings("ignore")
def test_random_damage_never_escapes():
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    for form in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"):
        buffer = io.BytesIO()
        noise.save(buffer, form)
        good = np.frombuffer(buffer.getvalue(), np.uint8)
        for _ in range(40):
            data = good[: rng.integers(1, len(good) + 1)].copy()
            data[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
            common_size([data.tobytes()])
            with contextlib.suppress(UnreadableImage):
                assert decode_image(data.tobytes(), "x").dtype == torch.uint8


# -- folders -------------------------------------------------------------------------------------------


def test_folder_with_splits_and_classes(tmp_path):
    files = [
        f"{split}/{name}/{i}.png" for split in ("train", "test") for name in ("cat", "dog") for i in range(2)
    ]
    dataset = ImageFolder(write(tmp_path, dict.fromkeys(files, encoded())))
    train, test = table_of(dataset, "train"), table_of(dataset, "test")
    assert dataset.classes == ["cat", "dog"]
    assert train.labels.tolist() == test.labels.tolist() == [0, 0, 1, 1]
    assert train.labels.dtype == np.int64
    assert [train.name(i) for i in range(4)] == files[:4]
    assert train.size == (4, 6)
    assert len(np.unique(np.concatenate([train.ids, test.ids]))) == 8
    assert train.ids.dtype == np.int64
    assert train.ids.min() >= 0
    assert train.decode(0)[:, 0, 0].tolist() == [200, 30, 60]


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_folder_takes_val_for_test(tmp_path, name):
    write(tmp_path, {f"{split}/{c}/1.png": encoded() for split in ("train", name) for c in "ab"})
    assert len(table_of(ImageFolder(tmp_path), "test")) == 2


def test_folder_with_classes_but_no_split(tmp_path):
    dataset = ImageFolder(write(tmp_path, {"a/1.png": encoded(), "b/sub/2.png": encoded()}))
    assert table_of(dataset).labels.tolist() == [0, 1]
    assert dataset.table("test") is None


def test_flat_folder_has_no_labels_and_names_what_it_skips(tmp_path):
    files = {
        "one.JPG": encoded((5, 5), form="JPEG"),
        "two.png": encoded((9, 7)),
        "deep/er/three.webp": encoded((5, 5), form="WEBP"),
        "notes.txt": b"hello",
        "deep/list.csv": b"1,2",
        ".hidden.png": encoded(),
        ".cache/four.png": encoded(),
    }
    dataset = ImageFolder(write(tmp_path, files))
    table = table_of(dataset)
    assert table.labels is None
    assert dataset.classes is None
    assert [table.name(i) for i in range(3)] == ["deep/er/three.webp", "one.JPG", "two.png"]
    assert sorted(table.skipped) == ["deep/list.csv", "notes.txt"]
    assert table.size is None


def test_one_subfolder_is_no_class(tmp_path):
    dataset = ImageFolder(write(tmp_path, {"holiday/1.png": encoded(), "holiday/2.png": encoded()}))
    assert table_of(dataset).labels is None


def test_flat_test_split_of_a_labelled_folder_is_unlabelled(tmp_path):
    dataset = ImageFolder(
        write(tmp_path, {"train/a/1.png": encoded(), "train/b/1.png": encoded(), "val/1.png": encoded()})
    )
    assert table_of(dataset, "train").labels.tolist() == [0, 1]
    assert table_of(dataset, "test").labels is None


def test_a_test_split_of_one_class_has_its_label(tmp_path):
    dataset = ImageFolder(
        write(tmp_path, {f"{folder}/1.png": encoded() for folder in ("train/a", "train/b", "test/b")})
    )
    assert table_of(dataset, "test").labels.tolist() == [1]


def test_test_class_that_train_lacks(tmp_path):
    write(tmp_path, {f"train/{c}/1.png": encoded() for c in ("cat", "dog")})
    write(tmp_path, {f"test/{c}/1.png": encoded() for c in ("cat", "dogs")})
    with pytest.raises(DataError, match=r"test/dogs.*Did you mean 'dog'"):
        ImageFolder(tmp_path).table("test")


def test_ids_depend_on_the_relative_path_alone(tmp_path):
    files = {f"{c}/{i}.png": encoded() for c in "ab" for i in range(5)}
    here = table_of(ImageFolder(write(tmp_path / "here", files)))
    more = table_of(ImageFolder(write(tmp_path / "there", {**files, "a/0a.png": encoded((9, 9))})))
    ids_by_name = {more.name(i): more.ids[i] for i in range(len(more))}
    assert all(ids_by_name[here.name(i)] == here.ids[i] for i in range(len(here)))


def test_equal_ids_are_refused(tmp_path, monkeypatch):
    write(tmp_path, {"a.png": encoded(), "b.png": encoded(), "c.png": encoded()})
    monkeypatch.setattr(folder_module, "path_id", lambda path: {"a.png": 1, "b.png": 2, "c.png": 1}[path])
    with pytest.raises(DataError, match=r"a\.png and c\.png.*Rename"):
        ImageFolder(tmp_path).table("train")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, ["empty"]),
        ({"a.txt": b"x", "b.md": b"y"}, ["2 files", "a.txt", ".jpg"]),
        ({"train/.keep": b"", "test/a.png": encoded()}, ["train", "empty"]),
    ],
)
def test_folders_without_images(tmp_path, files, words):
    (tmp_path / "photos").mkdir()
    write(tmp_path / "photos", files)
    with pytest.raises(DataError) as error_info:
        ImageFolder(tmp_path / "photos").table("train")
    assert all(word in str(error_info.value) for word in [*words, str(tmp_path / "photos"), "dataset.root"])


def test_missing_folder_and_file_for_a_folder(tmp_path):
    with pytest.raises(DataError, match=r"no such folder\. Set dataset\.root"):
        ImageFolder(tmp_path / "nowhere").table("train")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="a file, not a folder"):
        ImageFolder(tmp_path / "file").fingerprint()
    for root in ("x" * 300, "~nobody-has-this-name/photos"):  # for which pathlib raises its own errors
        with pytest.raises(DataError, match="no such folder"):
            ImageFolder(Path(root)).table("train")
        with pytest.raises(DataError, match="no such file"):
            Parquet(Path(root)).table("train")


def test_unreadable_folder(tmp_path, monkeypatch):
    write(tmp_path, {"a/1.png": encoded()})
    scan = os.scandir

    def refuse(path):
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(folder_module.os, "scandir", refuse)
    with pytest.raises(DataError, match=r"/a: cannot be read \(permission denied\)"):
        ImageFolder(tmp_path).table("train")


def test_links_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path, {"photos/1.png": encoded(), "elsewhere/2.png": encoded()})
    (tmp_path / "photos" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "loop").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "gone.png").symlink_to(tmp_path / "nothing.png")
    table = table_of(ImageFolder(tmp_path / "photos"))
    assert [table.name(i) for i in range(len(table))] == ["1.png", "more/2.png"]


def test_file_that_vanishes_is_unreadable(tmp_path):
    table = table_of(ImageFolder(write(tmp_path, {"a.png": encoded(), "b.png": encoded()})))
    (tmp_path / "a.png").unlink()
    with pytest.raises(UnreadableImage, match=r"a\.png: no such file"):
        table.decode(0)


def test_broken_header_does_not_hide_the_common_size(tmp_path):
    files = {"a.png": b"broken", "b.png": encoded(), "c.png": encoded()}
    assert table_of(ImageFolder(write(tmp_path, files))).size == (4, 6)


def test_names_that_are_not_utf8_can_be_printed(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        (tmp_path / name).write_bytes(encoded())
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    table = table_of(ImageFolder(tmp_path))
    table.name(0).encode()
    assert table.decode(0).shape == (3, 4, 6)


def test_folder_fingerprint(tmp_path):
    dataset = ImageFolder(write(tmp_path, {"a.png": encoded(), "b.png": encoded()}))
    before = dataset.fingerprint()
    os.utime(tmp_path / "a.png", (1, 1))
    assert ImageFolder(tmp_path).fingerprint() == before
    (tmp_path / "notes.txt").write_text("not an image")
    assert ImageFolder(tmp_path).fingerprint() == before
    (tmp_path / "b.png").write_bytes(encoded() + b"x")
    assert ImageFolder(tmp_path).fingerprint() != before
    (tmp_path / "b.png").write_bytes(encoded())
    (tmp_path / "b.png").rename(tmp_path / "c.png")
    assert ImageFolder(tmp_path).fingerprint() != before


# -- parquet -------------------------------------------------------------------------------------------


def parquet(path: Path, images, labels=None, names=None, plain=False, label="label") -> Path:
    if plain:
        columns = {"image": pa.array(images, pa.binary())}
    else:
        rows = [{"bytes": data, "path": None} for data in images]
        columns = {"image": pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}
    if labels is not None:
        columns[label] = pa.array(labels)
    table = pa.table(columns)
    if names is not None:
        features = {"image": {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=3)
    return path


def coloured(n: int) -> list[bytes]:
    return [encoded(colour=(i, 0, 0)) for i in range(n)]


@pytest.mark.parametrize("plain", [False, True])
def test_parquet_file(tmp_path, plain):
    path = parquet(tmp_path / "t.parquet", coloured(7), [0, 1, 2, 0, 1, 2, -1], ["x", "y", "z"], plain)
    dataset = Parquet(path)
    table = table_of(dataset)
    assert table.labels.tolist() == [0, 1, 2, 0, 1, 2, -1]
    assert dataset.classes == ["x", "y", "z"]
    assert table.ids.tolist() == list(range(7))
    assert table.size == (4, 6)
    assert [int(table.decode(i)[0, 0, 0]) for i in range(7)] == list(range(7))
    assert table.name(4) == "t.parquet row 4"
    assert dataset.table("test") is None


def test_parquet_folder_and_glob(tmp_path):
    images = coloured(8)
    parquet(tmp_path / "d" / "b.parquet", images[5:], [1] * 3)
    parquet(tmp_path / "d" / "a.parquet", images[:5], [0] * 5)
    for train in (tmp_path / "d", tmp_path / "d" / "*.parquet", str(tmp_path / "*" / "?.parquet")):
        table = table_of(Parquet(train))
        assert [int(table.decode(i)[0, 0, 0]) for i in range(8)] == list(range(8))
        assert table.name(5) == "b.parquet row 0"
        assert table.labels.tolist() == [0] * 5 + [1] * 3
    dataset = Parquet(tmp_path / "d" / "a.parquet", test=tmp_path / "d" / "b.parquet")
    assert len(table_of(dataset, "test")) == 3


def test_parquet_labels_of_every_kind(tmp_path):
    images = coloured(4)
    train = parquet(tmp_path / "train.parquet", images, ["dog", "cat", None, "dog"])
    test = parquet(tmp_path / "test.parquet", images, ["cat", "dog", "ape", "cat"])
    dataset = Parquet(train, test)
    assert dataset.classes == ["cat", "dog"]
    assert table_of(dataset).labels.tolist() == [1, 0, -1, 1]
    assert table_of(dataset, "test").labels.tolist() == [0, 1, -1, 0]
    assert table_of(Parquet(parquet(tmp_path / "n.parquet", images, [3, None, 1, 0]))).labels.tolist() == [
        3,
        -1,
        1,
        0,
    ]
    unlabelled = Parquet(parquet(tmp_path / "u.parquet", images))
    assert table_of(unlabelled).labels is None
    assert unlabelled.classes is None
    fine = Parquet(parquet(tmp_path / "f.parquet", images, [0, 1, 0, 1], label="fine"), label_column="fine")
    assert table_of(fine).labels.tolist() == [0, 1, 0, 1]
    for texts in (
        pa.array(["b", "a", None, "b"]).dictionary_encode(),
        pa.array(["b", "a", None, "b"], pa.large_string()),
    ):
        dataset = Parquet(parquet(tmp_path / "t.parquet", images, texts))
        assert dataset.classes == ["a", "b"]
        assert table_of(dataset).labels.tolist() == [1, 0, -1, 1]


def test_parquet_files_that_name_their_classes_otherwise_are_read_by_name(tmp_path):
    images = coloured(4)
    train = parquet(tmp_path / "train.parquet", images, [0, 1, 1, 0], ["cat", "dog"])
    test = parquet(tmp_path / "test.parquet", images, [0, 1, 2, None], ["dog", "cat", "ape"])
    assert table_of(Parquet(train, test), "test").labels.tolist() == [1, 0, -1, -1]
    text = parquet(tmp_path / "text.parquet", images, ["dog", "cat", "ape", None])
    assert table_of(Parquet(train, text), "test").labels.tolist() == [1, 0, -1, -1]
    assert table_of(Parquet(text, test), "test").labels.tolist() == [2, 1, 0, -1]  # ape, cat, dog


def test_labels_that_nobody_can_match_are_refused(tmp_path):
    text = parquet(tmp_path / "text.parquet", coloured(2), ["dog", "cat"])
    plain = parquet(tmp_path / "plain.parquet", coloured(2), [0, 1])
    with pytest.raises(DataError, match=r"plain.parquet: column 'label' is integers without names, but the"):
        Parquet(text, plain).table("test")
    with pytest.raises(DataError, match=r"text.parquet: column 'label' is text, but the train split has"):
        Parquet(plain, text).table("test")


def test_parquet_folder_with_a_pattern_in_its_name(tmp_path):
    parquet(tmp_path / "data[1]" / "a.parquet", coloured(2))
    assert len(table_of(Parquet(tmp_path / "data[1]"))) == 2


def test_parquet_rows_that_do_not_decode(tmp_path):
    table = table_of(Parquet(parquet(tmp_path / "t.parquet", [encoded(), None, b"junk", encoded()])))
    assert table.size == (4, 6)
    with pytest.raises(UnreadableImage, match=r"t\.parquet row 1: the table has no bytes"):
        table.decode(1)
    with pytest.raises(UnreadableImage, match=r"t\.parquet row 2: not an image"):
        table.decode(2)


def test_parquet_mistakes(tmp_path):
    good = parquet(tmp_path / "good.parquet", coloured(2), [0, 1])
    (tmp_path / "bad.parquet").write_text("version https://git-lfs.github.com/spec/v1")
    (tmp_path / "none").mkdir()
    floats = parquet(tmp_path / "float.parquet", coloured(2), [0.5, 1.5])
    empty = parquet(tmp_path / "empty.parquet", [])
    for dataset, words in (
        (Parquet(tmp_path / "nowhere.parquet"), ["nowhere.parquet", "no such file", "dataset.train"]),
        (Parquet(tmp_path / "none"), ["holds no *.parquet", "dataset.train"]),
        (
            Parquet(tmp_path / "bad.parquet"),
            ["bad.parquet", "not a readable parquet file", "download it again"],
        ),
        (Parquet(good, image_column="imag"), ["'imag'", "Did you mean 'image'", "dataset.image_column"]),
        (Parquet(good, label_column="lable"), ["'lable'", "Did you mean 'label'", "dataset.label_column"]),
        (Parquet(good, image_column="label"), ["'label' is int64", "dataset.image_column"]),
        (Parquet(floats), ["'label' is double", "fractions such as 0.5", "dataset.label_column"]),
        (Parquet(empty), ["empty.parquet", "no rows"]),
    ):
        with pytest.raises(DataError) as error_info:
            dataset.table("train")
        assert all(word in str(error_info.value) for word in words), str(error_info.value)
    with pytest.raises(DataError, match=r"gone\.parquet.*dataset\.test"):
        Parquet(good, tmp_path / "gone.parquet").table("test")


def test_parquet_fingerprint(tmp_path):
    path = parquet(tmp_path / "t.parquet", coloured(3), [0, 1, 0])
    before = Parquet(path).fingerprint()
    os.utime(path, (1, 1))
    path.rename(tmp_path / "renamed.parquet")
    assert Parquet(tmp_path / "renamed.parquet").fingerprint() == before
    test = parquet(tmp_path / "test.parquet", coloured(3), [0, 1, 0])
    assert Parquet(tmp_path / "renamed.parquet", test).fingerprint() != before
    parquet(path, coloured(3), [0, 1, 1])
    assert Parquet(path).fingerprint() != before


@pytest.mark.skipif(not (REAL / "cifar10").exists(), reason="CIFAR-10 is not here")
def test_real_cifar10():
    dataset = Parquet(REAL / "cifar10" / "train.parquet", REAL / "cifar10" / "test.parquet")
    test = table_of(dataset, "test")
    assert dataset.classes[:3] == ["airplane", "automobile", "bird"]
    assert np.array_equal(np.bincount(test.labels), [1000] * 10)
    assert test.size == (32, 32)
    assert test.decode(9_999).shape == (3, 32, 32)


# -- subset --------------------------------------------------------------------------------------------


def test_subset_takes_the_same_images_and_smaller_ones_lie_within_larger():
    whole = FashionMNISTSample()
    table = table_of(whole)
    few, more = (table_of(Subset(whole, train=n)) for n in (100, 300))
    assert len(few) == 100
    assert set(few.ids) < set(more.ids) < set(table.ids)
    assert np.array_equal(few.ids, table_of(Subset(whole, train=100, test=5)).ids)
    rows = np.searchsorted(table.ids, few.ids)
    assert np.array_equal(few.labels, table.labels[rows])
    for place in (0, 57, 99):
        assert torch.equal(few.decode(place), table.decode(int(rows[place])))
        assert few.name(place) == table.name(int(rows[place]))
    assert (few.size, few.channels, Subset(whole).classes) == (table.size, 1, whole.classes)
    assert np.bincount(few.labels, minlength=10).min() > 0  # no run of one class, whatever the order


def test_subset_keeps_a_split_whole_by_default():
    whole = FashionMNISTSample()
    assert len(table_of(Subset(whole, train=100), "test")) == 2000
    assert len(table_of(Subset(whole, test=7), "test")) == 7
    assert len(table_of(Subset(whole, test=7))) == 8000


def test_subset_of_photographs_decodes_them_reduced(tmp_path):
    write(tmp_path, {f"{n}.jpg": encoded((64, 48 + n), form="JPEG") for n in range(6)})
    whole = ImageFolder(tmp_path)
    few, table = table_of(Subset(whole, train=3)), table_of(whole)
    row = list(table.ids).index(few.ids[1])
    reduced = few.decode_reduced(1, lambda size: 2)
    assert reduced.factor == 2
    assert torch.equal(reduced.pixels, table.decode_reduced(row, lambda size: 2).pixels)
    assert few.stamp() == table.stamp()
    assert Subset(whole, train=3).table("test") is None
    absent = Subset(whole, test=3)
    assert absent.splits() == ("train", "test")
    with pytest.raises(DataError, match="needs 3 test images, but the data set has no such split"):
        absent.table("test")


def test_subset_fingerprint_and_mistakes(tmp_path):
    write(tmp_path, {"1.png": encoded()})
    whole = FashionMNISTSample()
    prints = [Subset(whole, *sizes).fingerprint() for sizes in ((None, None), (9, None), (9, 9), (8, 9))]
    assert len({*prints, whole.fingerprint()}) == 5
    with pytest.raises(DataError, match=r"9,000 train images, .* has only 8,000\. Set dataset\.train"):
        Subset(whole, train=9000).table("train")
    with pytest.raises(DataError, match=r"5 test images, .* has no such split\. Set dataset\.test to null"):
        Subset(ImageFolder(tmp_path), test=5).table("test")


# -- torchvision ---------------------------------------------------------------------------------------


def _mnist_files(root: Path, name: str, n: int = 6) -> np.ndarray:
    """The raw files that torchvision's MNIST family reads; returns the train images."""
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
    for prefix, rows in (("train", images), ("t10k", images[: n // 2])):
        for kind, array in (
            ("images-idx3", rows),
            ("labels-idx1", (np.arange(len(rows)) % 3).astype(np.uint8)),
        ):
            header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}i", *array.shape)
            (raw / f"{prefix}-{kind}-ubyte").write_bytes(header + array.tobytes())
    return images


def test_torchvision_grey_arrays(tmp_path):
    images = _mnist_files(tmp_path, "FashionMNIST")
    dataset = Torchvision("FashionMNIST", tmp_path)
    train, test = table_of(dataset), table_of(dataset, "test")
    assert train.channels == 1
    assert train.size == (28, 28)
    assert np.array_equal(torch.stack([train.decode(i)[0] for i in range(6)]).numpy(), images)
    assert train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert len(test) == 3
    assert dataset.classes[0] == "T-shirt/top"
    before = dataset.fingerprint()
    assert Torchvision("FashionMNIST", tmp_path).fingerprint() == before
    path = tmp_path / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + bytes([images[-1, -1, -1] ^ 1]))
    assert Torchvision("FashionMNIST", tmp_path).fingerprint() != before


def _stl10_files(root: Path, monkeypatch) -> None:
    from torchvision.datasets import STL10

    monkeypatch.setattr(STL10, "_check_integrity", lambda self: True)
    folder = root / STL10.base_folder
    folder.mkdir(parents=True)
    for name, n in (("train", 4), ("test", 2), ("unlabeled", 5)):
        np.full((n, 3, 96, 96), len(name), np.uint8).tofile(folder / f"{name}_X.bin")
        if name != "unlabeled":
            (np.arange(n) % 2 + 1).astype(np.uint8).tofile(folder / f"{name}_y.bin")
    (folder / "class_names.txt").write_text("airplane\nbird\n")


def test_torchvision_named_splits(tmp_path, monkeypatch):
    _stl10_files(tmp_path, monkeypatch)
    both = table_of(Torchvision("STL10", tmp_path, train_split="train+unlabeled"))
    assert both.labels.tolist() == [0, 1, 0, 1, -1, -1, -1, -1, -1]
    assert both.size == (96, 96)
    assert both.decode(8).shape == (3, 96, 96)
    alone = Torchvision("STL10", tmp_path, train_split="unlabeled")
    assert table_of(alone).labels is None
    assert table_of(alone, "test").labels.tolist() == [0, 1]
    with pytest.raises(UsageError, match="STL10"):
        Torchvision("STL10", tmp_path, train_split="trian").table("train")


def test_torchvision_folder_of_files(tmp_path):
    write(tmp_path / "eurosat" / "2750", {"A/1.jpg": encoded((5, 5), form="JPEG"), "B/2.jpg": b"junk"})
    dataset = Torchvision("EuroSAT", tmp_path)
    table = table_of(dataset)
    assert dataset.table("test") is None
    assert table.labels.tolist() == [0, 1]
    assert table.size is None
    assert table.decode(0).shape == (3, 5, 5)
    with pytest.raises(UnreadableImage, match="EuroSAT train row 1"):
        table.decode(1)
    before = dataset.fingerprint()
    write(tmp_path / "eurosat" / "2750", {"A/3.jpg": encoded()})
    assert Torchvision("EuroSAT", tmp_path).fingerprint() != before


def test_torchvision_mistakes(tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'CIFAR10"):
        Torchvision("CIFAR11", tmp_path).table("train")
    with pytest.raises(DataError, match=r"CIFAR10 is not there\. Set dataset\.download=true") as error_info:
        Torchvision("CIFAR10", tmp_path).table("train")
    assert str(tmp_path) in str(error_info.value)
    with pytest.raises(UsageError, match=r"dataset\.options.*'foldz'.*Did you mean 'folds'"):
        Torchvision("STL10", tmp_path, options={"foldz": 1}).table("train")


# -- Hugging Face --------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    return pytest.importorskip("datasets")


def _rows(hub, n=4):
    features = hub.Features(image=hub.Image(), label=hub.ClassLabel(names=["cat", "dog"]))
    rows = {
        "image": [{"bytes": data, "path": None} for data in coloured(n)],
        "label": [i % 2 for i in range(n)],
    }
    return hub.Dataset.from_dict(rows, features=features)


def test_hugging_face_saved_to_disk(hub, tmp_path):
    hub.DatasetDict(train=_rows(hub), test=_rows(hub, 2)).save_to_disk(str(tmp_path / "saved"))
    dataset = HuggingFace(str(tmp_path / "saved"))
    train, test = table_of(dataset), table_of(dataset, "test")
    assert dataset.classes == ["cat", "dog"]
    assert train.labels.tolist() == [0, 1, 0, 1]
    assert train.size == (4, 6)
    assert [int(train.decode(i)[0, 0, 0]) for i in range(4)] == [0, 1, 2, 3]
    assert len(test) == 2
    assert HuggingFace(str(tmp_path / "saved")).fingerprint() == dataset.fingerprint()
    hub.DatasetDict(train=_rows(hub, 3)).save_to_disk(str(tmp_path / "other"))
    assert HuggingFace(str(tmp_path / "other")).fingerprint() != dataset.fingerprint()
    assert HuggingFace(str(tmp_path / "other")).table("test") is None


@pytest.mark.parametrize("labels", [["dog", None, "cat", "dog"], [2, None, -5, 0]])
def test_hugging_face_labels_are_those_of_parquet(hub, tmp_path, labels):
    rows = _rows(hub).remove_columns("label").add_column("label", labels)
    rows.save_to_disk(str(tmp_path / "saved"))
    dataset = HuggingFace(str(tmp_path / "saved"))
    same = Parquet(parquet(tmp_path / "t.parquet", coloured(4), labels))
    assert dataset.classes == same.classes
    assert table_of(dataset).labels.tolist() == table_of(same).labels.tolist()
    rows.remove_columns("label").add_column("label", [0.5] * 4).save_to_disk(str(tmp_path / "real"))
    with pytest.raises(DataError, match="column 'label' of train is double, not integers or text"):
        HuggingFace(str(tmp_path / "real")).table("train")


def test_hugging_face_local_parquet(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(hub.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    parquet(tmp_path / "data" / "train.parquet", [*coloured(3), b"junk"], [1, 0, 1, 0], ["cat", "dog"])
    dataset = HuggingFace(str(tmp_path / "data"))
    table = table_of(dataset)
    assert table.labels.tolist() == [1, 0, 1, 0]
    assert int(table.decode(2)[0, 0, 0]) == 2
    with pytest.raises(UnreadableImage, match="row 3: not an image"):
        table.decode(3)


def test_hugging_face_mistakes(hub, tmp_path, monkeypatch):
    hub.DatasetDict(train=_rows(hub)).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match=r"no split 'training'.*one of: train"):
        HuggingFace(str(tmp_path / "saved"), train="training").table("train")
    with pytest.raises(DataError, match=r"'img'.*dataset\.image_column to one of: image"):
        HuggingFace(str(tmp_path / "saved"), image_column="img").table("train")
    with pytest.raises(DataError, match=r"nowhere: there is no such folder\. Set dataset\.path"):
        HuggingFace(str(tmp_path / "nowhere")).table("train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be loaded"):
        HuggingFace(str(tmp_path / "empty")).table("train")


def test_hugging_face_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install contrastive-framework\[datasets\]"):
        HuggingFace("cifar10").table("train")
