"""Remedies of messages about image files and the kinds that are not read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from unittest import mock

import pytest

import contrastive.datasets.file_kinds as file_kinds
from contrastive.datasets import Parquet
from contrastive.datasets.decoding import decode_image
from contrastive.paths import user_path
from tests.remedies.images import encoded, png
from tests.support.attempts import opened
from tests.support.image_files import tiff
from tests.support.remedies import Remedy, require_extra

KINDS, MISREADINGS = "datasets/file_kinds.py", "datasets/misreadings.py"


def file(content: bytes) -> None:
    decode_image(content, "photo")


def explained(name_and_content: tuple[str, bytes]) -> str:
    """What is reported of a file that is not read, or nothing if it is."""
    name, content = name_and_content
    if os.path.splitext(name)[1].lower() in file_kinds.EXTENSIONS:
        file(content)
        return ""
    return file_kinds.skipped_messages([name])[0]


def heif(installed: bool) -> str:
    reader = {"pi_heif"} if installed else set()
    with mock.patch.object(file_kinds, "find_spec", lambda name: name if name in reader else None):
        known = file_kinds.HEIF.extensions if any(map(file_kinds.find_spec, ("pi_heif",))) else set()
    return "" if ".heic" in known else file_kinds.skipped_messages(["a.heic"])[0]


def after_installing(message: str) -> bool:
    require_extra(message, ("pi-heif", "pillow-heif"))
    return True


def avif(formats: tuple[str, ...]) -> str:
    reason = file_kinds.unread_reason(b"\0\0\0\x1cftypavif" + bytes(40), formats)
    return reason if "install" in reason else ""


def file_remedies() -> Iterator[Remedy]:
    whole = lambda name: lambda _: (name, png())  # noqa: E731 - one line per remedy
    for words, name in (
        ("convert them to PNG or JPEG", "a.psd"),
        ("write each image as PNG", "a.npy"),
        ("extract frames as JPEG or PNG", "a.mp4"),
        ("unpack those with images", "a.zip"),
        ("develop them to JPEG or PNG", "a.nef"),
    ):
        yield Remedy(KINDS, words, explained, (name, b""), whole("a.png"))
    yield Remedy(
        KINDS,
        "read those with images with dataset parquet",
        lambda with_parquet: (
            opened(partial(Parquet, encoded("a.parquet")))
            if with_parquet
            else file_kinds.skipped_messages(["a.parquet"])[0]
        ),
        False,
        True,
    )
    yield Remedy(KINDS, "pip install 'contrastive-framework[heif]'", heif, False, after_installing)
    yield Remedy(KINDS, "install Pillow 11.3 or newer", avif, ("PNG",), ("PNG", "AVIF"))
    yield Remedy(KINDS, "an image as base64 text", file, b"iVBORw0KGgoAAAANSUhEUg", lambda _: png())
    together = tiff(bytes(192), 8, 8, bits=(8, 8, 8), photometric=2, tags={284: 1})
    sixteen = tiff([bytes(128)] * 3, 8, 8, bits=(16, 16, 16), photometric=2, tags={284: 2})
    yield Remedy(MISREADINGS, "save it with PlanarConfiguration 1", file, sixteen, together)
    subsampled = tiff(bytes(96), 8, 8, bits=(8, 8, 8), photometric=6, tags={530: (2, 2)})
    yield Remedy(
        MISREADINGS,
        "save it as RGB",
        file,
        subsampled,
        tiff(bytes(192), 8, 8, bits=(8, 8, 8), photometric=2),
    )
    reduced = tiff(bytes(64), 8, 8, tags={254: 1}, further_pages=[bytes(64)])
    yield Remedy(MISREADINGS, "save that one alone", file, reduced, tiff(bytes(64), 8, 8))
    floats = tiff(bytes(64 * 16), 8, 8, bits=(64, 64), tags={339: (6, 6)})
    yield Remedy(
        "datasets/explanations.py", "convert it to grey or RGB of 8 bits", file, floats, tiff(bytes(64), 8, 8)
    )
    os_name = "CONTRASTIVE_DATA_OF_THIS_TEST"

    def at(variables: dict[str, str]) -> None:
        with mock.patch.dict(os.environ, variables):
            user_path(f"${os_name}/images")

    yield Remedy("paths.py", "Set it, or write the path in full", at, {}, {os_name: "/data"})


REMEDIES = [*file_remedies()]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
