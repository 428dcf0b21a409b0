"""Where a run is: its progress, its callbacks and its metrics, as a checkpoint holds them.

A run that ends at ``max_steps`` counts its last epoch as complete and evaluates. A longer run that continues
it undoes both: the checkpoint also holds the position before that end.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from contrastive.parts import Listener
from contrastive.training.live_run import LiveRun
from contrastive.training.metrics_file import MetricsFile
from contrastive.training.state import LENGTH_WAS_READ, State


class Position:
    """The position of a run.

    Args:
        state, callbacks, metrics: those of the engine.
        run: the run as its callbacks see it.
        accumulate: micro-batches per step.
    """

    def __init__(
        self,
        state: State,
        callbacks: Sequence[Listener],
        metrics: MetricsFile,
        run: LiveRun,
        accumulate: int,
    ):
        self._state, self._callbacks, self._metrics, self._run = state, callbacks, metrics, run
        self._accumulate = accumulate
        self._before_end: dict[str, Any] | None = None

    def note_end(self) -> None:
        """Remember the position between the last step and the end of its epoch."""
        self._before_end = {
            "progress": self._state.without_costs(),
            "callbacks": copy.deepcopy(self._callback_states()),
            "metrics_lines": self._metrics.lines(),
        }

    def state_dict(self) -> dict[str, Any]:
        """The position, as plain values and tensors."""
        return {
            "callbacks": self._callback_states(),
            "progress": vars(self._state).copy(),
            "metrics_bytes": self._metrics.seal(),
            LENGTH_WAS_READ: self._run.length_was_read,
            "before_end": self._before_end,
        }

    def load_state_dict(self, checkpoint: Mapping[str, Any], steps: int) -> None:
        """Restore a position in a run of this many steps; metrics.jsonl is cut to what it held then.

        If it is at the end of a shorter run, that end is undone.
        """
        before_end = checkpoint.get("before_end")
        is_longer = checkpoint["progress"]["step"] < steps
        self._before_end = None if is_longer else before_end
        self._run.length_was_read |= checkpoint.get(LENGTH_WAS_READ, False)
        position = before_end if before_end and is_longer else checkpoint
        for callback, callback_state in zip(self._callbacks, position["callbacks"], strict=True):
            callback.load_state_dict(callback_state)
        self._state.restore({**checkpoint["progress"], **position["progress"]})
        if is_longer:  # a checkpoint of an earlier version does not hold the position before the end
            self._state.reopen_epoch(self._run.steps_per_epoch, self._accumulate)
        self._metrics.truncate(checkpoint["metrics_bytes"])
        if position is before_end:
            self._metrics.keep_lines(before_end["metrics_lines"])

    def _callback_states(self) -> list[dict[str, Any]]:
        return [callback.state_dict() for callback in self._callbacks]
