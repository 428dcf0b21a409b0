"""Files that are not read as images are named for what they are, with what reads or converts them."""

from __future__ import annotations

import io
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from contrastive.datasets import ImageFolder, Parquet, file_kinds, skipped_kinds, skipped_messages
from contrastive.datasets.decoding import decode_image
from contrastive.datasets.file_kinds import EXTENSIONS, kind_of_content, unread_reason
from contrastive.errors import DataError, UnreadableImage

HEIF_READER = next((name for name in ("pi_heif", "pillow_heif") if find_spec(name)), None)


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def box(brand: bytes, *brands: bytes) -> bytes:
    """The first box of an ISO file."""
    content = b"ftyp" + brand + b"\0\0\0\0" + b"".join(brands)
    return (len(content) + 4).to_bytes(4, "big") + content + b"\0\0\0\x08free"


#: Content -> a word of what it is.
CONTENT = {
    "heic": (box(b"heic", b"mif1", b"heic"), "HEIF photos"),
    "heif by its second brand": (box(b"ABCD", b"heic"), "HEIF photos"),
    "cr3": (box(b"crx ", b"isom"), "raw camera files"),
    "cr2": (b"II*\0\x10\0\0\0CR\x02\0", "raw camera files"),
    "raf": (b"FUJIFILMCCD-RAW 0201", "raw camera files"),
    "orf": (b"IIRO\x08\0\0\0", "raw camera files"),
    "rw2": (b"IIU\0\x18\0\0\0", "raw camera files"),
    "live photo": (box(b"qt  "), "videos"),
    "mp4": (box(b"isom", b"mp41"), "videos"),
    "psd": (b"8BPS\0\x01", "a format that is not read"),
    "jpeg 2000": (b"\0\0\0\x0cjP  \r\n\x87\n", "a format that is not read"),
    "jpeg xl": (b"\xff\x0a\x10", "a format that is not read"),
    "dicom": (bytes(128) + b"DICM", "a format that is not read"),
    "numpy": (b"\x93NUMPY\x01\0", "arrays"),
    "pickle": (b"\x80\x04\x95\0", "arrays"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointers"),
    "base64": (b"iVBORw0KGgoAAAANSUhEUg", "base64 text"),
}


@pytest.mark.parametrize("kind", CONTENT)
def test_content_is_named(kind: str):
    data, words = CONTENT[kind]
    reason = unread_reason(data, ("PNG",))
    assert words in reason
    assert ";" in reason, "the remedy follows"
    if HEIF_READER is None or "HEIF" not in words:
        with pytest.raises(UnreadableImage, match=f"photo: .*{re.escape(words)}"):
            decode_image(data, "photo")


@pytest.mark.parametrize("data", [b"", b"text", b"<!doctype html>", b"\0\0\0\x18ftyp????", b"%!PS-Adobe"])
def test_unknown_content_stays_unknown(data: bytes):
    assert kind_of_content(data) is None
    assert unread_reason(data, ()) == "not an image, or of an unknown format"


def test_a_damaged_file_of_a_format_that_pillow_reads_has_no_remedy():
    assert unread_reason(box(b"avif"), ("PNG",)).endswith("install Pillow 11.3 or newer")
    reason = unread_reason(box(b"avif"), ("PNG", "AVIF"))
    assert reason.startswith("AVIF file whose header cannot be read")
    assert "install" not in reason


NAMES = ["a/1.HEIC", "a/2.heic", "3.CR2", "4.dng", "notes.txt", "README", "clip.mov", "broken.png"]


@pytest.mark.skipif(HEIF_READER is not None, reason="HEIF is read")
def test_skipped_files_are_named_by_kind():
    kinds = skipped_kinds(NAMES)
    assert kinds[0] == "2 .heic files (HEIF photos; to read them, pip install 'contrastive-framework[heif]')"
    raw = "(raw camera files; develop them to JPEG or PNG first, for example with darktable-cli or rawpy)"
    assert set(kinds[1:]) == {
        "1 file without extension",
        f"1 .cr2 file {raw}",
        f"1 .dng file {raw}",
        "1 .mov file (videos; extract frames as JPEG or PNG)",
        "1 .png file (broken links, or not regular files)",
        "1 .txt file",
    }
    messages = skipped_messages(NAMES)
    assert messages[0].startswith("skipped 2 .heic files (HEIF photos; to read them, pip install ")
    assert messages[0].endswith(": a/1.HEIC, a/2.heic")
    assert messages[-1] == "skipped 3 files that are not images: notes.txt, README, broken.png"
    assert skipped_messages(["notes.txt"]) == ["skipped 1 file that is not an image: notes.txt"]
    assert skipped_kinds([]) == skipped_messages([]) == []


@pytest.mark.parametrize(
    "extension", [".heic", ".heif", ".HIF", ".nef", ".arw", ".orf", ".rw2", ".cr3", ".jxl"]
)
def test_a_folder_of_files_that_are_not_read_names_their_kind(extension: str, tmp_path: Path):
    if extension.lower() in EXTENSIONS:
        pytest.skip("HEIF is read")
    for n in range(9):
        (tmp_path / f"{n}{extension}").write_bytes(b"\0" * 40)
    with pytest.raises(DataError, match=rf"9 {extension.lower()} files \(\w+ .*; .*\)"):
        ImageFolder(tmp_path).table("train")


def test_a_table_of_photos_that_are_not_read_names_their_kind(tmp_path: Path):
    if HEIF_READER is None:
        pq.write_table(pa.table({"image": [png(), box(b"heic")]}), tmp_path / "t.parquet")
        table = Parquet(tmp_path / "t.parquet").table("train")
        assert table is not None
        with pytest.raises(UnreadableImage, match=r"row 1: .* HEIF photos; .*contrastive-framework\[heif\]"):
            table.decode(1)
    pq.write_table(pa.table({"image": [box(b"crx ")] * 3}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="column 'image' holds raw camera files; develop them"):
        Parquet(tmp_path / "t.parquet").table("train")


@pytest.mark.skipif(HEIF_READER != "pillow_heif", reason="needs an encoder of HEIF")
def test_heif_is_read(tmp_path: Path):
    import pillow_heif

    values = np.zeros((32, 48, 3), np.uint8)
    values[:, :24] = (200, 30, 60)
    pillow_heif.from_pillow(Image.fromarray(values)).save(tmp_path / "a.heic", quality=100)
    table = ImageFolder(tmp_path).table("train")
    assert table is not None
    assert table.size == (32, 48)
    assert np.abs(table.decode(0).permute(1, 2, 0).numpy().astype(int) - values).max() < 16


def test_the_reader_of_heif_is_not_imported_before_it_is_needed(monkeypatch: pytest.MonkeyPatch):
    opened: list[str] = []

    class Reader:
        @staticmethod
        def register_heif_opener() -> None:
            opened.append("pi_heif")

    monkeypatch.setattr(file_kinds, "find_spec", lambda name: name == "pi_heif")
    monkeypatch.setitem(sys.modules, "pi_heif", Reader)  # type: ignore[arg-type]
    file_kinds.register_heif.cache_clear()
    file_kinds.register_heif()
    file_kinds.register_heif.cache_clear()
    assert opened == ["pi_heif"]
