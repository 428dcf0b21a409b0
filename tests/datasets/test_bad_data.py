"""Bad data in bulk: every kind has the outcome that docs/data.md lists; nothing changes the data silently."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import EpsImagePlugin, Image, ImageFile

import contrastive
from contrastive.augmentations import SimCLR
from contrastive.cli import main
from contrastive.data import TrainLoader
from contrastive.data.loader import epoch_order
from contrastive.datasets import ImageFolder, Parquet
from contrastive.datasets.decoding import MAX_PIXELS, common_size, decode_image
from contrastive.errors import DataError, UnreadableImage, UsageError
from contrastive.parts import ImageTable
from contrastive.training import MetricsFile
from tests.support.tiny import CLASSES, image

RED = (220, 30, 60)


def encoded(picture: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def plain(
    mode: str, colour: object, size: tuple[int, int] = (6, 4), form: str = "PNG", **options: object
) -> bytes:
    return encoded(Image.new(mode, size, colour), form, **options)  # type: ignore[arg-type]


def palette(**options: object) -> bytes:
    picture = Image.new("P", (6, 4), 1)
    picture.putpalette([0, 0, 0, *RED])
    return encoded(picture, **options)


def animated(form: str) -> bytes:
    frames = [Image.new("RGB", (6, 4), colour) for colour in (RED, (0, 255, 0), (0, 0, 255))]
    return encoded(frames[0], form, save_all=True, append_images=frames[1:], lossless=True)


def turned() -> bytes:
    """A picture 6 wide and 4 high with an EXIF orientation that turns it on its side."""
    picture = Image.new("RGB", (6, 4), RED)
    exif = picture.getexif()
    exif[0x0112] = 6
    return encoded(picture, "JPEG", exif=exif, quality=100)


def png(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG with that size in its header and no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def resized(data: bytes, at: int, form: str, width: int, height: int) -> bytes:
    """A file whose header is changed to another size."""
    size = struct.pack(form, width, height)
    return data[:at] + size + data[at + len(size) :]


def jpeg_of(width: int, height: int) -> bytes:
    data = plain("RGB", RED, (64, 64), "JPEG")
    return resized(data, data.index(b"\xff\xc0") + 5, ">HH", height, width)


def tiled(width: int, height: int) -> bytes:
    """A TIFF of one pixel in a tile of that size, with almost no data."""
    content = zlib.compress(bytes(64))
    tags = {256: 1, 257: 1, 258: 8, 259: 8, 262: 1, 277: 1, 322: width, 323: height}
    place = 8 + 2 + 12 * (len(tags) + 2) + 4  # the tile lies behind the tags
    tags |= {324: place, 325: len(content)}
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + fields + bytes(4) + content


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))

#: Readable files: the name, the bytes, (H, W), and the colour of the first pixel.
READ: dict[str, tuple[str, bytes, tuple[int, int], tuple[int, int, int]]] = {
    "a PNG called .jpg": ("png.jpg", plain("RGB", RED), (4, 6), RED),
    "a JPEG called .png": ("jpeg.png", plain("RGB", RED, form="JPEG", quality=100), (4, 6), RED),
    "CMYK": ("cmyk.jpg", plain("CMYK", (0, 255, 255, 0), form="JPEG", quality=100), (4, 6), (255, 0, 0)),
    "16 bits": ("deep.png", encoded(Image.fromarray(np.full((4, 6), 32896, np.uint16))), (4, 6), (128,) * 3),
    "16 bits, TIFF": ("deep.tif", encoded(Image.fromarray(np.full((4, 6), 65535, np.uint16)), "TIFF"), (4, 6),
                      (255,) * 3),
    "palette": ("palette.png", palette(), (4, 6), RED),
    "palette with transparency": ("clear.png", palette(transparency=1), (4, 6), (255,) * 3),
    "palette, its transparency elsewhere": ("opaque.png", palette(transparency=0), (4, 6), RED),
    "animated GIF": ("moving.gif", animated("GIF"), (4, 6), RED),
    "animated WebP": ("moving.webp", animated("WEBP"), (4, 6), RED),
    "animated PNG": ("moving.png", animated("PNG"), (4, 6), RED),
    "turned by EXIF": ("turned.jpg", turned(), (6, 4), RED),
    "one pixel": ("pixel.png", plain("RGB", RED, (1, 1)), (1, 1), RED),
    "20,000 pixels wide": ("wide.png", plain("RGB", RED, (20_000, 2)), (2, 20_000), RED),
    "20,000 pixels high": ("high.jpg", plain("RGB", RED, (2, 20_000), "JPEG", quality=100), (20_000, 2), RED),
    "grey": ("grey.png", plain("L", 77), (4, 6), (77,) * 3),
    "grey and alpha": ("veil.png", plain("LA", (77, 0)), (4, 6), (255,) * 3),
    "bilevel": ("ink.png", plain("1", 1), (4, 6), (255,) * 3),
}  # fmt: skip

#: Unreadable files: the name, the bytes, and the reason in the message.
UNREADABLE: dict[str, tuple[str, bytes, str]] = {
    "empty": ("empty.jpg", b"", "empty file|has no bytes"),
    "text": ("text.jpg", b"These are my holidays.", "not an image"),
    "a web page": ("page.png", b"<!doctype html><title>404</title>", "not an image"),
    "a truncated JPEG": ("half.jpg", encoded(NOISE, "JPEG")[:900], "truncated"),
    "a truncated PNG": ("half.png", encoded(NOISE)[:900], "truncated"),
    "a truncated GIF": ("half.gif", encoded(NOISE, "GIF")[:900], "truncated|not processed"),
    "a truncated WebP": ("half.webp", encoded(NOISE, "WEBP", lossless=True)[:900], r"\w"),
    "a header alone": ("head.png", png(8, 8), "truncated"),
}  # fmt: skip

#: Files with headers of more than the allowed pixels.
BOMBS = {
    "PNG": png(60_000, 60_000),
    "PNG of 16 bits": png(60_000, 60_000, 16),
    "PNG just too large": png(MAX_PIXELS + 1, 1),
    "PNG as wide as can be": png(2**31 - 1, 2**31 - 1),
    "JPEG": jpeg_of(60_000, 60_000),
    "GIF": resized(plain("P", 1, form="GIF"), 6, "<HH", 60_000, 60_000),
    "BMP": resized(plain("RGB", RED, form="BMP"), 18, "<ii", 60_000, 60_000),
    "PPM": b"P6 60000 60000 255\n",
    "TIFF of one pixel in a large tile": tiled(40_000, 40_000),
}


def tables(folder: Path, name: str, data: bytes) -> list[ImageTable]:
    """The one image in a folder, and in a parquet file."""
    (folder / name).write_bytes(data)
    pq.write_table(pa.table({"image": pa.array([data], pa.binary())}), folder / "rows.parquet")
    candidates = [ImageFolder(folder).table("train"), Parquet(folder / "rows.parquet").table("train")]
    return [table for table in candidates if table is not None]


@pytest.mark.parametrize("kind", READ)
def test_what_is_read(kind: str, tmp_path: Path):
    name, data, size, colour = READ[kind]
    for table in tables(tmp_path, name, data):
        assert table.size == size, "the header has the size of the pixels"
        pixels = table.decode(0)
        assert pixels.dtype == torch.uint8
        assert pixels.shape == (3, *size)
        assert (pixels[:, 0, 0].int() - torch.tensor(colour)).abs().max() <= 3


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_is_not(kind: str, tmp_path: Path):
    name, data, why = UNREADABLE[kind]
    folder, rows = tables(tmp_path, name, data)
    for table, printed_name in ((folder, name), (rows, "rows.parquet row 0")):
        with pytest.raises(UnreadableImage, match=why) as error_info:
            table.decode(0)
        assert str(error_info.value).startswith(f"{printed_name}: ")
        assert len(str(error_info.value).splitlines()) == 1


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", BOMBS)
def test_absurd_sizes_are_rejected_before_memory_is_allocated(kind: str):
    with mock.patch.object(ImageFile.ImageFile, "load_prepare") as takes_memory:
        with pytest.raises(UnreadableImage, match=r"bomb: .* exceed the limit of 89,478,485"):
            decode_image(BOMBS[kind], "bomb")
        common_size([BOMBS[kind]] * 2)
    takes_memory.assert_not_called()


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_the_limit_is_reported_if_warnings_are_errors():
    with pytest.raises(UnreadableImage, match="exceed the limit of 89,478,485"):
        decode_image(BOMBS["PNG just too large"], "bomb")


def test_postscript_is_not_handed_to_its_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch '{tmp_path}/executed'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # as before Pillow has looked for it
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(code) print\n%%EOF\n"
    for table in tables(tmp_path, "photo.jpg", data):
        assert table.size is None
        with pytest.raises(UnreadableImage, match="not an image, or of an unknown format"):
            table.decode(0)
    assert not (tmp_path / "executed").exists()


# -- folders -----------------------------------------------------------------------------------------------


def numbered(root: Path, count: int) -> Path:
    """Pictures of different sizes: they are decoded in every epoch."""
    rng = np.random.default_rng(0)
    root.mkdir(exist_ok=True)
    for n in range(count):
        size = tuple(rng.integers(16, 40, 2))
        image(CLASSES[n % 3], rng, 16).resize(size).save(root / f"{n:02}.png")
    return root


def no_loop(folder: Path) -> None:
    (folder / "itself.png").symlink_to(folder / "itself.png")


NO_FILES: dict[str, Callable[[Path], None]] = {
    "nowhere.png": lambda folder: (folder / "nowhere.png").symlink_to(folder / "gone.png"),
    "itself.png": no_loop,
    "pipe.png": lambda folder: os.mkfifo(folder / "pipe.png"),
    "notes.txt": lambda folder: void((folder / "notes.txt").write_text("no image")),
    "picture": lambda folder: void((folder / "picture").write_bytes(plain("RGB", RED))),
}


def void(_: object) -> None: ...


@pytest.mark.parametrize("name", NO_FILES)
def test_what_is_no_image_file_is_skipped_and_named(name: str, tmp_path: Path):
    NO_FILES[name](numbered(tmp_path, 2))
    table = ImageFolder(tmp_path).table("train")
    assert table is not None
    assert list(table.skipped) == [name]
    assert [table.name(n) for n in range(len(table))] == ["00.png", "01.png"]


def test_a_folder_of_nothing_else_says_so(tmp_path: Path):
    no_loop(tmp_path)
    with pytest.raises(DataError, match=r"none of its 1 file is an image \(itself\.png\)"):
        ImageFolder(tmp_path).table("train")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_stops_the_run(tmp_path: Path):
    numbered(tmp_path / "closed", 2)
    (tmp_path / "closed").chmod(0)
    try:
        with pytest.raises(DataError, match=r"closed: cannot be read \(permission denied\)"):
            ImageFolder(tmp_path).table("train")
    finally:
        (tmp_path / "closed").chmod(0o700)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_unreadable(tmp_path: Path):
    (numbered(tmp_path, 2) / "00.png").chmod(0)
    table = ImageFolder(tmp_path).table("train")
    assert table is not None
    with pytest.raises(UnreadableImage, match=r"00\.png: permission denied"):
        table.decode(0)


@pytest.mark.parametrize(
    ("name", "printed_name"),
    [
        (b"two\nlines.png", r"two\nlines.png"),
        (b"\x1b[2Jcleared.png", r"\x1b[2Jcleared.png"),
        ("\u202egnp.exe.png".encode(), r"\u202egnp.exe.png"),
        ("Zoë 猫 🐈.png".encode(), "Zoë 猫 🐈.png"),
        (b"[red]caf\xe9.png", "[red]caf\ufffd.png"),
        (b" .. %s {0}.png", " .. %s {0}.png"),
        (b"-rf.PNG", "-rf.PNG"),
        (b"x" * 251 + b".png", "x" * 251 + ".png"),
    ],
    ids=["newline", "escape", "bidi", "unicode", "bytes", "format", "option", "long"],
)
def test_odd_names_are_read_and_reported_in_one_line(name: bytes, printed_name: str, tmp_path: Path):
    try:
        (tmp_path / os.fsdecode(name)).write_bytes(plain("RGB", RED))
    except OSError:
        pytest.skip("this file system does not take the name")
    dataset = ImageFolder(tmp_path)
    table = dataset.table("train")
    assert table is not None
    assert table.name(0) == printed_name
    assert table.decode(0).shape == (3, 4, 6)
    assert dataset.fingerprint() == ImageFolder(tmp_path).fingerprint()


# -- runs --------------------------------------------------------------------------------------------------

SMALL = ["backbone.model=resnet10", "backbone.stem=small", "backbone.options={width: 0.125}"]
SMALL += ["augmentation.size=16", "head.dims=[16, 8]", "train.batch_size=16", "train.precision=fp32"]


def photos_run(root: Path, out: Path, *sets: str) -> contrastive.Run:
    return contrastive.run("photos", [f"dataset.root={root}", *SMALL, *sets], out=out)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_run_over_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Every image is trained on or named, every other file is named, and the counts add up."""
    root = numbered(tmp_path / "data", 32)
    for name, data, *_ in (*READ.values(), *UNREADABLE.values()):
        (root / name).write_bytes(data)
    for kind, data in BOMBS.items():
        (root / f"bomb {kind}.png").write_bytes(data)
    for make in NO_FILES.values():
        make(root)
    trained_run = photos_run(root, tmp_path / "run", "train.epochs=2", "train.max_unreadable=0.5")
    names = sorted([name for name, *_ in UNREADABLE.values()] + [f"bomb {kind}.png" for kind in BOMBS])
    assert [line.split(": ")[0] for line in trained_run.summary["unreadable"]] == names
    assert trained_run.summary["skipped"] == len(NO_FILES)
    assert trained_run.summary["images"]["train"] == 32 + len(READ) + len(names)
    output = capsys.readouterr().out
    assert f"skipped {len(NO_FILES)} files that are not images: itself.png, notes.txt, nowhere.png," in output
    assert f"{len(names)} images (" in output
    assert main(["embed", str(tmp_path / "run"), "--out", str(tmp_path / "f.parquet")]) == 0
    embedded = pq.read_table(tmp_path / "f.parquet")
    assert set(embedded["name"].to_pylist()) == {
        *(f"{n:02}.png" for n in range(32)),
        *(name for name, *_ in READ.values()),
    }
    assert np.isfinite(np.stack(embedded["features"].to_numpy())).all()


def test_files_that_vanish_during_an_epoch_are_replaced_by_the_rule(tmp_path: Path):
    """Position p gets the first readable image of positions p, p + B, p + 2B, ..., wrapping around."""
    n, batch_size = 40, 8
    root = numbered(tmp_path, n)
    table = ImageFolder(root).table("train")
    assert table is not None
    loader = TrainLoader(
        table, SimCLR(size=16).pipelines(), batch_size=batch_size, seed=0, workers=0, max_unreadable=0.5
    )
    deleted_rows: set[int] = set()
    for epoch in range(3):
        order = epoch_order(0, epoch, n)
        for step, batch in enumerate(loader.epoch(epoch)):
            rows = []
            for place in range(step * batch_size, (step + 1) * batch_size):
                candidates = [order[(place + turn * batch_size) % n] for turn in range(n // batch_size)]
                rows.append(next(row for row in candidates if row not in deleted_rows))
            assert batch.ids.tolist() == table.ids[rows].tolist()
            assert {id_ for id_, _ in batch.unreadable} <= {int(table.ids[row]) for row in deleted_rows}
            if (epoch, step) in ((0, 1), (1, 2), (1, 3)):
                victim = int(order[(step * batch_size + 11) % n])
                (root / f"{victim:02}.png").unlink()
                deleted_rows.add(victim)
    assert sorted(loader.unreadable.values()) == [
        f"{row:02}.png: no such file or directory" for row in sorted(deleted_rows)
    ]


def test_a_run_whose_files_vanish_goes_on_and_names_them(tmp_path: Path):
    root, out = numbered(tmp_path / "data", 48), tmp_path / "run"
    append = MetricsFile.append

    def append_and_lose(self: MetricsFile, line: object) -> None:
        append(self, line)  # type: ignore[arg-type]
        for n in (3, 30):
            (root / f"{n:02}.png").unlink(missing_ok=True)

    with mock.patch.object(MetricsFile, "append", append_and_lose):
        trained_run = photos_run(root, out, "train.epochs=2", "train.max_unreadable=0.1")
    assert trained_run.summary["steps"] == 6
    assert trained_run.summary["unreadable"] == [f"{n}.png: no such file or directory" for n in ("03", "30")]
    assert trained_run.summary["images"]["train"] == 48
    with pytest.raises(UsageError, match="holds another run; different: the data"):
        photos_run(root, out, "train.epochs=2", "train.max_unreadable=0.1")


def test_a_run_that_loses_too_many_files_stops(tmp_path: Path):
    root = numbered(tmp_path / "data", 48)
    append = MetricsFile.append

    def append_and_lose(self: MetricsFile, line: object) -> None:
        append(self, line)  # type: ignore[arg-type]
        for path in root.iterdir():
            path.unlink()

    with (
        mock.patch.object(MetricsFile, "append", append_and_lose),
        pytest.raises(DataError, match=r"images cannot be read|too few images can be read"),
    ):
        photos_run(root, tmp_path / "run", "train.epochs=2")


# -- labels ------------------------------------------------------------------------------------------------


def labelled_table(path: Path, labels: pa.Array) -> Path:
    rng = np.random.default_rng(0)
    images = [encoded(image(CLASSES[n % 3], rng)) for n in range(len(labels))]
    pq.write_table(pa.table({"image": pa.array(images, pa.binary()), "label": labels}), path)
    return path


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (pa.array([0, None, 2, -1, -7, 1]), [0, -1, 2, -1, -1, 1]),
        (pa.array(["b", None, "a", "a", None, "b"]), [1, -1, 0, 0, -1, 1]),
        (pa.array([True, None, False, True, None, None]), [1, -1, 0, 1, -1, -1]),
        (pa.array([None] * 6, pa.int64()), [-1] * 6),
    ],
    ids=["numbers", "text", "truth", "all"],
)
def test_missing_labels_are_unknown(labels: pa.Array, expected: list[int], tmp_path: Path):
    table = Parquet(labelled_table(tmp_path / "t.parquet", labels)).table("train")
    assert table is not None
    assert table.labels is not None
    assert table.labels.tolist() == expected


def test_labels_past_every_range_are_refused(tmp_path: Path):
    path = labelled_table(tmp_path / "t.parquet", pa.array([2**63, 1], pa.uint64()))
    with pytest.raises(DataError, match="outside the range of int64"):
        Parquet(path).table("train")


def test_a_run_with_a_third_of_the_labels_trains_on_all_images_and_scores_the_labelled(tmp_path: Path):
    labels = pa.array([n % 3 if n % 2 else None for n in range(120)])
    train = labelled_table(tmp_path / "train.parquet", labels)
    test = labelled_table(tmp_path / "test.parquet", pa.array([n % 3 if n < 6 else None for n in range(30)]))
    sets = [f"dataset={{name: parquet, train: {train}, test: {test}}}", *SMALL, "train.epochs=1"]
    trained_run = contrastive.run("photos", [*sets, "evaluate.knn.k=3"], out=tmp_path / "run")
    assert trained_run.summary["images"] == {"train": 120, "test": 30, "scored": 6}
    sixths = trained_run.summary["trained"]["knn_top1"] * 6
    assert sixths == pytest.approx(round(sixths), abs=1e-9), "of the six labelled test images"
