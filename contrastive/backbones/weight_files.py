"""Files of weights: read as plain tensors, without running any code in them, or named for what they are."""

from __future__ import annotations

import os
import re
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file
from torch import Tensor

from contrastive.errors import UsageError
from contrastive.paths import user_path, weights_file
from contrastive.text import abbreviate

State = dict[str, Tensor]

_PICKLES = (".pt", ".pth", ".ckpt", ".tar", ".bin")
_SUFFIXES = (".safetensors", *_PICKLES)
_FORMATS = f"an exported folder, or a .safetensors, {', '.join(_PICKLES[:-1])} or {_PICKLES[-1]} file"
#: One of several files over which a network is divided, as Hugging Face names them.
_SHARD = re.compile(r"-\d+-of-(\d+)\.[a-z]+$")
_MERGE = "Merge the shards into one file (load the tensors of each, save all of them together) and name that."
_FETCH = "download or copy it again"
#: First bytes -> what a file is, and what to do with it.
_SIGNATURES = {
    b"version https://git-lfs": "it is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`",
    b"\x1f\x8b": "it is compressed with gzip; unpack it first",
    b"BZh": "it is compressed with bzip2; unpack it first",
    b"\xfd7zXZ\0": "it is compressed with xz; unpack it first",
    b"\x28\xb5\x2f\xfd": "it is compressed with zstd; unpack it first",
    b"7z\xbc\xaf": "it is a 7z archive; unpack it first",
    b"Rar!": "it is a RAR archive; unpack it first",
    b"\x89HDF": "it is an HDF5 file, as Keras writes them; save the weights of a torch model with torch.save",
    b"\x93NUMPY": "it is a NumPy array, without names; save a state dict with torch.save",
    b"GGUF": "it is a GGUF file; save the weights of a torch model with torch.save",
}


class WeightsFile(BaseModel):
    """A file of weights, and which of the networks in it to take.

    Attributes:
        path: the file, or a folder with model.safetensors.
        prefix: what the names of that network start with, such as ``module.encoder_q``.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    path: Path
    prefix: str | None = None


def is_weights_file(path: Path) -> bool:
    """Whether a path has the name of a file of weights."""
    return path.suffix.lower() in _SUFFIXES


def read_weights(path: Path) -> State:
    """The tensors of a file by their dotted names, on the CPU: ``state_dict.module.conv1.weight``.

    Args:
        path: a folder with model.safetensors (what ``export`` and timm write), a .safetensors file, or a file
            that ``torch.save`` wrote, which is read with ``weights_only=True``.

    Raises UsageError if there is no such file, it cannot be read as plain tensors, or it holds none.
    """
    file = weights_file(path)
    _require_weights(user_path(path), file)
    if reason := _other_kind(file):
        raise _unreadable(file, reason)
    try:
        content = (
            load_file(file)
            if file.suffix.lower() == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # torch's unpickler may raise almost any type
        raise _unreadable(file, _reason(file, error)) from error
    state = _flat(content)
    if not state:
        raise UsageError(f"weights: {file} does not hold a state dict (names with tensors).")
    return state


def _require_weights(path: Path, file: Path) -> None:
    """Raise UsageError, with a remedy, unless ``file`` exists and has a name of files of weights."""
    is_known = is_weights_file(file)
    if not os.path.isfile(file):
        if os.path.isdir(path):
            raise UsageError(f"weights: {path} has no model.safetensors. {_remedy_of_folder(path)}")
        names = "" if is_known else "; pretrained weights are loaded by name through 'pretrained'"
        raise UsageError(f"weights: {path} does not exist{names}. Give {_FORMATS}.")
    if not is_known:
        raise UsageError(f"weights: {file} is neither a folder nor a file that can be read. Give {_FORMATS}.")
    if (shard := _SHARD.search(file.name)) and int(shard[1]) > 1:
        raise UsageError(f"weights: {file} is one of {int(shard[1])} shards of a network. {_MERGE}")


def _remedy_of_folder(folder: Path) -> str:
    """What to set instead of a folder without model.safetensors, by the files that are in it."""
    export = folder / "backbone"
    if (export / "model.safetensors").is_file():
        return f"Its encoder is in {export}; set weights to that folder."
    if (folder / "recipe.yaml").is_file():
        return (
            "It is the folder of a run that has exported no encoder; finish the run, which writes backbone/."
        )
    files = sorted(file.name for file in folder.iterdir() if is_weights_file(file) and file.is_file())
    if shards := [name for name in files if _SHARD.search(name)]:
        return f"Its network is divided over shards ({abbreviate(shards)}). {_MERGE}"
    if len(files) == 1:
        return f"Set weights to the file in it: {folder / files[0]}."
    if files:
        return f"Set weights to one of the files in it, such as {folder / files[0]} ({abbreviate(files)})."
    return f"It holds no other file of weights. Give {_FORMATS}."


def _unreadable(file: Path, reason: str) -> UsageError:
    return UsageError(f"weights: {file} cannot be read as plain tensors: {reason}")


def _other_kind(file: Path) -> str:
    """What a file is, by its content, and the remedy, if it is not what its name promises; or empty."""
    try:
        with file.open("rb") as stream:
            start = stream.read(4096)
    except OSError as error:
        return f"it cannot be opened ({error.strerror}); check its permissions."
    is_safetensors = file.suffix.lower() == ".safetensors"
    reason = _other_content(start) or _other_archive(file, start)
    if not reason and _is_safetensors(start) != is_safetensors:
        if not is_safetensors:
            reason = f"it is a safetensors file; rename it to {file.stem}.safetensors"
        elif start.startswith((b"PK\x03\x04", b"\x80")):
            reason = f"it is a file that torch.save wrote, not safetensors; rename it to {file.stem}.pth"
        else:
            reason = f"it is not a safetensors file; {_FETCH}"
    return f"{reason}." if reason else ""


def _other_content(start: bytes) -> str:
    """What a file is whose first bytes alone show that it holds no weights."""
    if not start:
        return f"it is empty (0 bytes); {_FETCH}"
    if not start.strip(b"\0"):
        return f"it holds only zeros, as an interrupted download does; {_FETCH}"
    for signature, reason in _SIGNATURES.items():
        if start.startswith(signature):
            return reason
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        return "it is a web page, such as one that asks to sign in; download the file itself"
    if text and all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in start):
        line = start.decode("ascii").strip().splitlines()[0]
        return f"it is a text file, which begins with {line[:40]!r}; {_FETCH}"
    return ""


def _is_safetensors(start: bytes) -> bool:
    """Whether a file begins with the length of a JSON map, and with that map."""
    length = int.from_bytes(start[:8], "little")
    return start[8:9] == b"{" and 2 <= length <= 100_000_000


def _other_archive(file: Path, start: bytes) -> str:
    """What an archive is that ``torch.save`` did not write, or that is cut off."""
    if start.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(file) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, OSError):
            return f"its end is missing, as after an interrupted download; {_FETCH}"
        inner = {name.partition("/")[2] for name in names}
        if "constants.pkl" in inner:
            return (
                "it is a TorchScript program, which is code; save its weights alone: "
                f"torch.save(torch.jit.load('{file.name}').state_dict(), 'weights.pth')"
            )
        if "data.pkl" in inner:
            return ""
        if "archive_format" in inner:
            return (
                "it is a program that torch.export wrote; save its weights alone: "
                f"torch.save(torch.export.load('{file.name}').state_dict, 'weights.pth')"
            )
        return (
            "it is a ZIP archive that torch.save did not write; unpack it, and name the file of weights in it"
        )
    if tarfile.is_tarfile(file):
        with tarfile.open(file) as archive:
            names = archive.getnames()
        if {"storages", "tensors", "pickle"} <= set(names):
            return (
                "it is in the format of torch before 0.1.10; load it with torch and save its state dict again"
            )
        return f"it is a tar archive ({abbreviate(names)}); unpack it, and name the file of weights in it"
    return ""


def _reason(file: Path, error: Exception) -> str:
    """Why torch or safetensors cannot read a file that begins as theirs do."""
    try:
        classes = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # it is no pickle that torch wrote
        classes = []
    if classes:
        return (
            f"it needs {abbreviate(sorted(classes))}, and loading such objects may run code. If you trust the"
            " file, load it with torch and save only its state dict."
        )
    text = str(error).lower()
    if isinstance(error, EOFError) or any(word in text for word in ("truncated", "incomplete", "eof")):
        return f"its end is missing, as after an interrupted download; {_FETCH}."
    message = str(error).strip().partition("\n")[0] or type(error).__name__
    if "weights_only" in message:  # torch's advice is to run what is in the file
        return (
            f"it is damaged, or torch.save did not write it; {_FETCH}, or save a state dict with torch.save."
        )
    return message


def _flat(content: Any, path: str = "") -> State:
    """The tensors in nested maps with text as keys, by dotted names."""
    if isinstance(content, Tensor):
        return {path: content} if path else {}
    if not isinstance(content, Mapping):
        return {}
    state: State = {}
    for key, value in content.items():
        if isinstance(key, str):
            state |= _flat(value, f"{path}.{key}" if path else key)
    return state
