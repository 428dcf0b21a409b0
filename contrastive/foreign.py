"""Run folders of unknown origin: what they hold is checked before it is used, and refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from contrastive.errors import ContrastiveError, UsageError
from contrastive.files import json_map
from contrastive.training.checkpoints import Checkpoints


class Restorable(Protocol):
    """What takes up a checkpoint: the engine."""

    folder: Path

    def load_state_dict(self, state: Any) -> None: ...


def read_map(path: Path) -> dict[str, Any]:
    """The map a JSON file holds, empty where there is no file. Raises UsageError where it holds none."""
    if not path.is_file():
        return {}
    content = json_map(path.read_bytes())
    if content is None:
        raise UsageError(f"{path} is damaged: it holds no JSON map; put back the one the run wrote.")
    return content


def weights_of(folder: Path, warn: Callable[[str], None]) -> dict[str, Tensor]:
    """The method's state at the newest whole checkpoint of a run. Raises UsageError where there is none.

    Args:
        folder: of the run.
        warn: told of every checkpoint that is passed over.
    """
    checkpoints = Checkpoints(folder / "checkpoints", "", warn)
    state = checkpoints.newest()
    if state is None and checkpoints.steps():
        raise UsageError(f"{folder}: none of its checkpoints can be used; run its recipe again.")
    if state is None:
        raise UsageError(f"{folder} holds no checkpoint yet; let the run get through an epoch.")
    weights = state.get("method") if isinstance(state, dict) else None
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        raise UsageError(f"{folder}: its checkpoint is not of a run: it holds no weights by name.")
    return weights


def restore(engine: Restorable, state: Any) -> None:
    """Load a checkpoint into the engine. Raises UsageError where it is not one of this recipe."""
    try:
        engine.load_state_dict(state)
    except (ContrastiveError, OSError):
        raise
    except Exception as error:  # it may hold anything, and the parts it is handed to are anyone's
        raise UsageError(
            f"{engine.folder}: its checkpoint does not fit the recipe ({last_words(error)}); say --resume "
            "never to move the folder aside and begin anew."
        ) from error


def last_words(error: Exception) -> str:
    """The last line of what an error says: torch's errors about a state dict end with what does not fit."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()[:200]
