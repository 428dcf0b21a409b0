"""Checkpoints that are written whole or not at all.

A checkpoint is a folder ``step_00001000`` with ``state.pt`` (one tree of plain values and tensors,
read with ``weights_only=True``) and ``manifest.json`` (sizes and SHA-256 of its files, step,
fingerprint). It is written into a temporary sibling, synced, and renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from contrastive.errors import ContrastiveError

_STATE, _MANIFEST = "state.pt", "manifest.json"
_NAME = re.compile(r"step_[0-9]{8,18}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """Replace a text file in one step: a reader sees the old or the new one, never half."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    _sync(temporary)
    os.replace(temporary, path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Checkpoints:
    """The checkpoints of a run folder: the last two, and the best on validation.

    Args:
        folder: ``checkpoints/`` of the run.
        fingerprint: of the run; checkpoints of another one are passed over. Empty: take any.
        warn: told of every checkpoint that is passed over.
    """

    keep_last = 2

    def __init__(self, folder: Path, fingerprint: str, warn: Callable[[str], None]):
        self.folder, self.fingerprint, self._warn = folder, fingerprint, warn

    def steps(self) -> list[int]:
        """Steps of the checkpoints on disk, oldest first; unfinished temporary folders do not count."""
        names = (path.name for path in self.folder.glob("step_*"))
        return sorted(int(name[5:]) for name in names if _NAME.fullmatch(name))

    def path(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}"

    def save(self, step: int, state: dict[str, Any], best_step: int | None = None) -> Path:
        """Write ``state`` as the checkpoint of ``step`` and prune the ones no longer kept.

        A checkpoint of the same step (an interrupt saved it, its evaluation has been done since) is
        replaced.
        """
        final = self.path(step)
        temporary = self.folder / f".{final.name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            self._write(temporary, step, state)
        except (OSError, RuntimeError) as error:  # torch.save tells of a full disk by a RuntimeError
            shutil.rmtree(temporary, ignore_errors=True)
            reason = str(error).partition("\n")[0]
            raise ContrastiveError(
                f"{final}: the checkpoint could not be written ({reason}); make room and run again."
            ) from error
        if final.exists():
            stale = self.folder / f".{final.name}.old"
            shutil.rmtree(stale, ignore_errors=True)
            os.replace(final, stale)
            os.replace(temporary, final)
            shutil.rmtree(stale)
        else:
            os.replace(temporary, final)
        _sync(self.folder)
        self._prune(best_step)
        return final

    def _write(self, folder: Path, step: int, state: dict[str, Any]) -> None:
        """Fill ``folder`` and see it on the disk."""
        torch.save(state, folder / _STATE)
        file = {"size": (folder / _STATE).stat().st_size, "sha256": _sha256(folder / _STATE)}
        manifest = {
            "step": step,
            "fingerprint": self.fingerprint,
            "torch": torch.__version__,
            "files": {_STATE: file},
        }
        (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1))
        for path in (*folder.iterdir(), folder):
            _sync(path)

    def _prune(self, best_step: int | None) -> None:
        for step in self.steps()[: -self.keep_last]:
            if step != best_step:
                shutil.rmtree(self.path(step))

    def newest(self) -> dict[str, Any] | None:
        """The state of the newest whole checkpoint, or None; one that cannot be used is named."""
        for stale in self.folder.glob(".step_*.old"):  # a kill came between the two renames of a replacement
            final = stale.with_name(stale.name[1:].removesuffix(".old"))
            shutil.rmtree(stale) if final.exists() else os.replace(stale, final)
        for step in reversed(self.steps()):
            state = self.load(step)
            if state is not None:
                return state
        return None

    def load(self, step: int) -> dict[str, Any] | None:
        """The state of one checkpoint, or None (with a warning) where it is damaged or another run's."""
        folder = self.path(step)
        try:
            manifest = json.loads((folder / _MANIFEST).read_text())
            if self.fingerprint and manifest["fingerprint"] != self.fingerprint:
                raise ValueError("it belongs to another run")
            expected = manifest["files"][_STATE]["sha256"]
            if _sha256(folder / _STATE) != expected:
                raise ValueError("its checksum does not match")
            return torch.load(folder / _STATE, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged file makes the readers raise
            reason = str(error).partition("\n")[0] or type(error).__name__
            self._warn(f"{folder} cannot be used ({reason}); going back to the one before.")
            return None
