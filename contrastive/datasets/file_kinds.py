"""Kinds of files that are not read as images: what they are, and what reads or converts them."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

from contrastive.datasets.explanations import explanation
from contrastive.text import abbreviate, quantity

#: What Pillow needs to read HEIF; one is enough. Wheels of pi_heif hold a decoder alone (LGPL), those of
#: pillow_heif an encoder too (GPL).
_HEIF_READERS = ("pi_heif", "pillow_heif")


class FileKind(NamedTuple):
    """A kind of files.

    Attributes:
        noun: what the files are.
        remedy: how to have them read.
        extensions: of their names, in lower case.
        pillow_format: the name of the format in a Pillow that reads them, if there is such a Pillow.
    """

    noun: str
    remedy: str
    extensions: frozenset[str]
    pillow_format: str | None = None


def _kind(noun: str, remedy: str, extensions: str, pillow_format: str | None = None) -> FileKind:
    return FileKind(noun, remedy, frozenset(extensions.split()), pillow_format)


HEIF = _kind(
    "HEIF photos",
    "to read them, pip install 'contrastive-framework[heif]'",
    ".heic .heics .heif .heifs .hif",
    "HEIF",
)
AVIF = _kind("AVIF images", "to read them, install Pillow 11.3 or newer", ".avif", "AVIF")
RAW = _kind(
    "raw camera files",
    "develop them to JPEG or PNG first, for example with darktable-cli or rawpy",
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .gpr .iiq .k25 .kdc .mef .mos .mrw .nef .nrw .orf .pef "
    ".raf .raw .rw2 .rwl .sr2 .srf .srw .x3f",
)
OTHER_IMAGES = _kind(
    "images in a format that is not read",
    "convert them to PNG or JPEG",
    ".apng .dcm .dds .dib .eps .exr .fits .hdr .icns .ico .j2c .j2k .jp2 .jpf .jpx .jxl .jxr .pcx .psb .psd "
    ".ps .sgi .svg .svgz .tga .xbm .xcf .xpm",
)
ARRAYS = _kind("arrays", "write each image as PNG", ".h5 .hdf5 .mat .nii .npy .npz")
VIDEOS = _kind(
    "videos", "extract frames as JPEG or PNG", ".3gp .avi .m4v .mkv .mov .mp4 .mpg .mts .webm .wmv"
)
TABLES = _kind("tables", "read those with images with dataset parquet", ".arrow .parquet")
ARCHIVES = _kind("archives", "unpack those with images", ".7z .bz2 .gz .rar .tar .tgz .xz .zip .zst")
POINTERS = _kind("Git LFS pointers", "fetch the files that they stand for with git lfs pull", "")
_KINDS = (HEIF, AVIF, RAW, OTHER_IMAGES, ARRAYS, VIDEOS, TABLES, ARCHIVES)

#: First bytes of files -> the kind. Raw files that begin as a TIFF does are not among them.
_SIGNATURES = (
    (b"FUJIFILMCCD-RAW", RAW),
    (b"FOVb", RAW),
    (b"IIRO", RAW),
    (b"IIRS", RAW),
    (b"IIU\0", RAW),
    (b"MMOR", RAW),
    (b"8BPS", OTHER_IMAGES),
    (b"\0\0\0\x0cjP  ", OTHER_IMAGES),
    (b"\xff\x4f\xff\x51", OTHER_IMAGES),
    (b"\0\0\0\x0cJXL ", OTHER_IMAGES),
    (b"\xff\x0a", OTHER_IMAGES),
    (b"\x76\x2f\x31\x01", OTHER_IMAGES),
    (b"\0\0\x01\0", OTHER_IMAGES),
    (b"<svg", OTHER_IMAGES),
    (b"\x93NUMPY", ARRAYS),
    (b"\x89HDF", ARRAYS),
    *((b"\x80" + bytes([protocol]), ARRAYS) for protocol in range(2, 6)),  # pickles
    (b"\x1aE\xdf\xa3", VIDEOS),
    (b"PAR1", TABLES),
    (b"PK\x03\x04", ARCHIVES),
    (b"\x1f\x8b", ARCHIVES),
    (b"version https://git-lfs", POINTERS),
)
#: Brands of files that consist of ISO boxes -> the kind.
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), HEIF),
    **dict.fromkeys((b"avif", b"avis"), AVIF),
    b"crx ": RAW,
    **dict.fromkeys(
        (b"qt  ", b"isom", b"iso2", b"mp41", b"mp42", b"M4V ", b"avc1", b"3gp4", b"3gp5"), VIDEOS
    ),
}
#: First bytes of files in the formats that are read.
_READ_SIGNATURES = (
    *(b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    *(b"P%d" % number for number in range(1, 8)),
)
BROKEN_LINK = " (broken link)"  # at the end of a name
_BASE64 = (b"iVBORw0KGgo", b"/9j/", b"R0lGOD", b"UklGR", b"data:image")


#: Files with any other extension do not count as images.
EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".avif", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
    | (HEIF.extensions if any(find_spec(name) for name in _HEIF_READERS) else set())
)


@cache
def register_heif() -> None:
    """Make Pillow read HEIF if a package for it is installed."""
    for name in _HEIF_READERS:
        if find_spec(name):
            import_module(name).register_heif_opener()
            return


def kind_of_content(data: bytes) -> FileKind | None:
    """The kind of a file that is not read, from its first bytes; None if they are unknown."""
    if data[4:8] == b"ftyp":  # an ISO box: its size, name, main brand, version, and further brands
        size = min(int.from_bytes(data[:4], "big"), len(data), 256)
        brands = (data[8:12], *(data[at : at + 4] for at in range(16, size, 4)))
        return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), None)
    if data[8:10] == b"CR" and data[:2] == b"II":
        return RAW
    if data[128:132] == b"DICM":
        return OTHER_IMAGES
    return next((kind for signature, kind in _SIGNATURES if data.startswith(signature)), None)


def begins_as_image(data: bytes) -> bool:
    """Whether a file begins as one of a format that is read, though the rest of it may be damaged."""
    return data.startswith(_READ_SIGNATURES) or data[4:8] == b"ftyp"


def unread_reason(data: bytes, formats: Collection[str]) -> str:
    """Why Pillow recognises no image in a file, in a few words.

    Args:
        data: the content of the file.
        formats: those of Pillow's formats that are read.
    """
    if data.startswith(_BASE64):
        return "an image as base64 text; store its bytes"
    kind = kind_of_content(data)
    if kind is None or kind.pillow_format in formats:
        return explanation(data, formats)
    return f"its content is that of {kind.noun}; {kind.remedy}"


def skipped_kinds(names: Sequence[str]) -> list[str]:
    """The kinds of skipped files, the most frequent first: ``9 .heic files (HEIF photos; ...)``.

    Args:
        names: of the files.
    """
    return [_title(group, len(members)) for group, members in _groups(names).items()]


def skipped_messages(names: Sequence[str]) -> list[str]:
    """What is reported of skipped files: a message for each kind that has a remedy, and one for the others.

    Args:
        names: of the files.
    """
    messages = [
        f"skipped {_title(group, len(members))}: {abbreviate(members)}"
        for group, members in _groups(names).items()
        if _is_known(group)
    ]
    rest = [name for name in names if not _is_known(_group(name))]
    if rest:
        noun = "file that is not an image" if len(rest) == 1 else "files that are not images"
        messages.append(f"skipped {len(rest):,} {noun}: {abbreviate(rest)}")
    return messages


def _groups(names: Sequence[str]) -> dict[str, list[str]]:
    """Names by their extension, by ``@eaDir/`` if they are such folders, and the broken links."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_group(name), []).append(name)
    return dict(sorted(groups.items(), key=lambda group: (-len(group[1]), group[0])))


def _group(name: str) -> str:
    if name.endswith("/"):
        return f"{os.path.basename(name[:-1])}/"
    return BROKEN_LINK if name.endswith(BROKEN_LINK) else os.path.splitext(name)[1].lower()


def _is_known(group: str) -> bool:
    """Whether more is known of a group than that its members are no images."""
    return _kind_of_extension(group) is not None or group.endswith(("/", BROKEN_LINK))


def _title(group: str, count: int) -> str:
    """What the names of a group are: ``9 .heic files (HEIF photos; ...)``."""
    if group == BROKEN_LINK:
        return quantity(count, "broken link")
    if group.endswith("/"):
        return f"{quantity(count, f'{group} folder')} (written by a system, not by you)"
    noun = quantity(count, f"{group} file" if group else "file")
    return f"{noun}{'' if group else ' without extension'}{_explanation(group)}"


def _kind_of_extension(extension: str) -> FileKind | None:
    """The kind of skipped files of an extension; None if it is unknown, or that of images that are read."""
    if extension in EXTENSIONS:
        return None
    return next((kind for kind in _KINDS if extension in kind.extensions), None)


def _explanation(extension: str) -> str:
    """What skipped files of an extension are and how to have them read, in brackets; empty if unknown."""
    if extension in EXTENSIONS:
        return " (broken links, or not regular files)"
    kind = _kind_of_extension(extension)
    return "" if kind is None else f" ({kind.noun}; {kind.remedy})"
