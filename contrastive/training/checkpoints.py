"""Checkpoints, which are written whole or not at all.

A checkpoint is a folder ``step_00001000`` with ``state.pt`` (one tree of plain values and tensors,
read with ``weights_only=True``) and ``manifest.json`` (sizes and SHA-256 of its files, step, world size,
fingerprint, versions). It is written into a temporary sibling, synced, and renamed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from contrastive.distributed import world_size
from contrastive.errors import ContrastiveError, UsageError
from contrastive.files import recover, remove, replace_folder, sha256_of, staging_folder, writable
from contrastive.versions import versions

_STATE, _MANIFEST = "state.pt", "manifest.json"
_NAME = re.compile(r"step_[0-9]{8,18}")


class Checkpoints:
    """The checkpoints of a run folder: the last two, and the best on validation.

    Args:
        folder: ``checkpoints/`` of the run.
        fingerprint: of the run; checkpoints of other runs are skipped. Empty: accept any.
        warn: called with the reason for every checkpoint that is skipped.
        earlier: fingerprints that the run had before.
    """

    keep_last = 2

    def __init__(
        self, folder: Path, fingerprint: str, warn: Callable[[str], None], earlier: Sequence[str] = ()
    ):
        self.folder = folder
        self.fingerprint = fingerprint
        self._warn = warn
        self._own = {fingerprint, *earlier}

    def steps(self) -> list[int]:
        """Steps of the checkpoints on disk, oldest first; unfinished temporary folders do not count."""
        names = (path.name for path in self.folder.glob("step_*"))
        return sorted(int(name[5:]) for name in names if _NAME.fullmatch(name))

    def path(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}"

    def last(self) -> Path | None:
        """The path of the latest step's checkpoint, if there is one."""
        steps = self.steps()
        return self.path(steps[-1]) if steps else None

    def save(self, step: int, state: dict[str, Any], best_step: int | None = None) -> Path:
        """Write ``state`` as the checkpoint of ``step`` and prune the ones no longer kept.

        A checkpoint of the same step is replaced: an interrupt saved it before its evaluation. Raises
        ContrastiveError if it cannot be written; the older ones stay.
        """
        final = self.path(step)
        with writable(final):
            temporary = staging_folder(final)
            try:
                self._write(temporary, step, state)
                replace_folder(temporary, final)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)  # what a failed write left takes space
            for old in self.steps()[: -self.keep_last]:
                if old != best_step:
                    remove(self.path(old))
        return final

    def _write(self, folder: Path, step: int, state: dict[str, Any]) -> None:
        with (folder / _STATE).open(
            "wb"
        ) as file:  # torch's own files do not report why they cannot be written
            torch.save(state, file)
        size, sha256 = (folder / _STATE).stat().st_size, sha256_of(folder / _STATE)
        manifest = {
            "step": step,
            "fingerprint": self.fingerprint,
            "world_size": world_size(),
            "versions": versions(),
            "files": {_STATE: {"size": size, "sha256": sha256}},
        }
        (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1))

    def newest(self) -> dict[str, Any] | None:
        """The state of the newest whole checkpoint, or None; warns about each that cannot be used.

        It only reads, so that it is safe while another process writes the run.
        """
        for step in reversed(self.steps()):
            state = self.load(step)
            if state is not None:
                return state
        return None

    def take_up(self) -> dict[str, Any] | None:
        """:meth:`newest`, for the run itself: first removes what a kill left half done, and moves what cannot
        be used out of the way of later checkpoints.

        Raises ContrastiveError if there are checkpoints and none can be used: starting again would undo the
        run that wrote them.
        """
        recover(self.folder)
        damaged_paths: list[Path] = []
        for step in reversed(self.steps()):
            state = self.load(step)
            if state is not None:
                for path in damaged_paths:
                    aside = path.with_name(f"damaged_{path.name}")
                    shutil.rmtree(aside, ignore_errors=True)
                    os.replace(path, aside)
                return state
            damaged_paths.append(self.path(step))
        if damaged_paths:
            raise ContrastiveError(
                f"{self.folder}: none of the checkpoints can be used. Put back a whole one, or use --resume "
                "never to move the run aside and start again."
            )
        return None

    def load(self, step: int) -> dict[str, Any] | None:
        """The state of one checkpoint, or None (with a warning) if it is damaged or another run's."""
        folder = self.path(step)
        try:
            manifest = json.loads((folder / _MANIFEST).read_text())
            if self.fingerprint and manifest["fingerprint"] not in self._own:
                raise ValueError("it belongs to another run")
            expected = manifest["files"][_STATE]["sha256"]
            if sha256_of(folder / _STATE) != expected:
                raise ValueError("its checksum does not match")
            return torch.load(folder / _STATE, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file may make the readers raise anything
            reason = str(error).partition("\n")[0] or type(error).__name__
            self._warn(f"{folder} cannot be used ({reason}); trying the one before it.")
            return None


class Restorable(Protocol):
    """What loads a checkpoint: the engine."""

    folder: Path

    def load_state_dict(self, state: Any) -> None: ...


def weights_of(folder: Path, warn: Callable[[str], None]) -> dict[str, Tensor]:
    """The method's state at the newest whole checkpoint of a run. Raises UsageError if there is none.

    Args:
        folder: of the run.
        warn: called with the reason for every checkpoint that is skipped.
    """
    checkpoints = Checkpoints(folder / "checkpoints", "", warn)
    state = checkpoints.newest()
    if state is None and checkpoints.steps():
        raise UsageError(f"{folder}: none of its checkpoints can be used; run its recipe again.")
    if state is None:
        raise UsageError(f"{folder} holds no checkpoint yet; let the run finish an epoch.")
    weights = state.get("method") if isinstance(state, dict) else None
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        raise UsageError(f"{folder}: its checkpoint is not a run's: it holds no weights by name.")
    return weights


def restore(engine: Restorable, state: Any) -> None:
    """Load a checkpoint into the engine. Raises UsageError if it does not fit this recipe."""
    try:
        engine.load_state_dict(state)
    except (ContrastiveError, OSError):
        raise
    except Exception as error:  # it may hold anything, and parts may raise anything
        raise UsageError(
            f"{engine.folder}: its checkpoint does not fit the recipe ({last_words(error)}); use --resume "
            "never to move the folder aside and start again."
        ) from error


def last_words(error: Exception) -> str:
    """The last line of an error's message: torch's errors about a state dict end with what does not fit."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()[:200]
