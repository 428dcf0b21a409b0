"""Remedies of messages about files of weights that cannot be read."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import contrastive.backbones.weight_files as weight_files_module
from tests.support.remedies import Remedy

FILES = "backbones/weight_files.py"
STATE = {"layer.weight": torch.ones(2, 2)}


def read(path: Path) -> None:
    weight_files_module.read_weights(path)


def plain(name: str = "w.pt") -> Path:
    """A file with a state dict, as its remedy leaves it."""
    (save_file if name.endswith(".safetensors") else torch.save)(STATE, name)
    return Path(name)


def content(start: bytes, name: str = "w.pt") -> Callable[[], Path]:
    """A file that begins so."""
    return lambda: Path(name).write_bytes(start + bytes(600)) and Path(name)


def packed(name: str, opening: Callable[..., Any]) -> tuple[Callable[[], Path], Callable[[str], Path]]:
    """A file that is compressed, and what unpacks it."""

    def pack() -> Path:
        with opening(name, "wb") as stream:
            stream.write(plain("inner.pt").read_bytes())
        return Path(name)

    def unpack(_: str) -> Path:
        with opening(name, "rb") as stream:
            Path("w.pt").write_bytes(stream.read())
        return Path("w.pt")

    return pack, unpack


def archived(kind: str) -> Callable[[], Path]:
    """An archive of a file of weights."""

    def make() -> Path:
        plain("inner.pt")
        if kind == "zip":
            with zipfile.ZipFile("w.pt", "w") as archive:
                archive.write("inner.pt")
        else:
            with tarfile.open("w.pt", "w") as archive:
                archive.add("inner.pt")
        return Path("w.pt")

    return make


def unpacked(_: str) -> Path:
    os.remove("inner.pt")
    if tarfile.is_tarfile("w.pt"):
        with tarfile.open("w.pt") as archive:
            archive.extractall(filter="data")
    else:
        with zipfile.ZipFile("w.pt") as archive:
            archive.extractall()
    return Path("inner.pt")


def in_folder(*names: str) -> Callable[[], Path]:
    def make() -> Path:
        for name in names:
            Path("folder", name).parent.mkdir(parents=True, exist_ok=True)
            plain(f"folder/{name}")
        return Path("folder")

    return make


def named(words: str) -> Callable[[str], Path]:
    """The path after some words of a message."""
    return lambda message: Path(re.search(rf"{words} ([^\s:,;]*[^\s:,;.])", message)[1])


def renamed(message: str) -> Path:
    (old,) = Path().glob("w.*")
    return old.rename(re.search(r"rename it to (\S+?)\.$", message)[1])


def as_other(name: str, other: str) -> Callable[[], Path]:
    """A file with the name of another kind."""
    return lambda: plain(name).rename(other)


def merged(_: str) -> Path:
    """One file of all shards in the folder."""
    states = [torch.load(path, weights_only=True) for path in Path("folder").iterdir()]
    torch.save({name: value for state in states for name, value in state.items()}, "merged.pt")
    return Path("merged.pt")


def shard() -> Path:
    in_folder("w-00001-of-00002.bin", "w-00002-of-00002.bin")()
    return Path("folder/w-00001-of-00002.bin")


def scripted() -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), "w.pt")
    return Path("w.pt")


def program() -> Path:
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), "w.pt2")
    return Path("w.pt2").rename("w.pt")


def of_old_torch() -> Path:
    with tarfile.open("w.pt", "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            Path(name).write_text(name)
            archive.add(name)
    return Path("w.pt")


def saved_as_told(message: str) -> Path:
    """The command that a message quotes is run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(re.search(r"torch\.save\(.*\)", message)[0], {"torch": torch})
    return Path("weights.pth")


def opened_by(is_allowed: bool) -> None:
    path, plain_open = plain(), Path.open

    def refuse(*arguments: Any, **more: Any) -> Any:
        if not is_allowed:
            raise PermissionError(13, "Permission denied")
        return plain_open(*arguments, **more)

    with mock.patch.object(Path, "open", refuse):
        read(path)


def weight_files() -> Iterator[Remedy]:
    def case(words: str, wrong: Any, right: Any = lambda _: plain()) -> Remedy:
        return Remedy(FILES, words, read, wrong, right)

    for words, start in (
        ("is a 7z archive", b"7z\xbc\xaf"),
        ("is a RAR archive", b"Rar!"),
        ("an HDF5 file", b"\x89HDF"),
        ("a NumPy array", b"\x93NUMPY"),
        ("a GGUF file", b"GGUF"),
        ("compressed with zstd", b"\x28\xb5\x2f\xfd"),
        ("download the file itself", b"<!DOCTYPE html>"),
        ("or save a state dict with torch.save", b"\x80\x02damaged"),
    ):
        yield case(words, content(start))
    yield case("compressed with gzip", *packed("w.pt.tar", gzip.open))
    yield case("compressed with bzip2", *packed("w.pt.tar", bz2.open))
    yield case("compressed with xz", *packed("w.pt.tar", lzma.open))
    yield case("ZIP archive that torch.save did not write", archived("zip"), unpacked)
    yield case("is a tar archive", archived("tar"), unpacked)
    yield case("download or copy it again", lambda: Path("w.pt").write_bytes(b"") or Path("w.pt"))
    yield case("Merge the shards into one file", shard, merged)
    yield case("set weights to that folder", in_folder("backbone/model.safetensors"), named("encoder is in"))
    yield case("Set weights to the file in it", in_folder("w.pt"), named("the file in it:"))
    yield case("Set weights to one of the files", in_folder("a.pt", "b.pt"), named("such as"))
    yield Remedy(FILES, "check its permissions", opened_by, False, True)
    yield case("rename it to {}.safetensors", as_other("a.safetensors", "w.pt"), renamed)
    yield case("rename it to {}.pth", as_other("a.pt", "w.safetensors"), renamed)
    yield case("a TorchScript program", scripted, saved_as_told)
    yield case("that torch.export wrote", program, saved_as_told)
    yield case("the format of torch before 0.1.10", of_old_torch)
    yield case("It holds no other file of weights", in_folder(".hidden/w.pt"))


REMEDIES = [*weight_files()]


@pytest.mark.parametrize(
    "remedy",
    [pytest.param(each, marks=[pytest.mark.ci] * ("torch.export" in each.words)) for each in REMEDIES],
    ids=str,
)
def test_remedy(remedy):
    remedy.follow()
