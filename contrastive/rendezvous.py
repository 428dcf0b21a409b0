"""Points at which processes wait for each other without a limit, as long as each of them is alive.

A collective of a training step times out: a process that is minutes late hangs, or its network is gone.
Before and between the steps one process may work much longer than the others: it evaluates, decodes or saves.
So they meet in a group of its own, in which each that still works sends a sign of life every few seconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

#: The longest silence of a process, and the longest time that a collective takes.
DEFAULT_LIMIT = timedelta(minutes=10)
#: Maximum number of seconds between two signs of life.
_INTERVAL = 10.0

_limit = DEFAULT_LIMIT
#: The group of the waiting processes, and the default group that it belongs to.
_group: tuple[Any, Any] | None = None


def set_limit(limit: timedelta) -> None:
    """Set the limit of every collective of the processes that train together, from now on."""
    global _limit
    _limit = limit
    dist.set_timeout(limit)


def new_group() -> Any:
    """A group of all processes that communicates between hosts (gloo), with the limit."""
    return dist.new_group(backend="gloo", timeout=_limit)


def waiting_group() -> Any:
    """The group in which processes wait for each other; all must ask for it first at the same point."""
    global _group
    if _group is None or _group[1] is not dist.group.WORLD:
        _group = new_group(), dist.group.WORLD
    return _group[0]


def meet(work: Callable[[], None] | None = None) -> None:
    """Do this process's ``work``, and wait until every process has done its own.

    Raises RuntimeError if another process has exited, or gave no sign of life within the limit.
    """
    group = waiting_group()
    if work is not None:
        _work_alive(work, group)
    while not _all_ready(True, group):
        pass


def _work_alive(work: Callable[[], None], group: Any) -> None:
    """Do the work while a thread gives signs of life."""
    ready = threading.Event()
    errors: list[RuntimeError] = []
    interval = min(_INTERVAL, _limit.total_seconds() / 4)

    def give_signs() -> None:
        try:
            while not ready.wait(interval):
                _all_ready(False, group)
        except RuntimeError as error:
            errors.append(error)

    signs = threading.Thread(target=give_signs, daemon=True)
    signs.start()
    try:
        work()
    finally:
        ready.set()
        signs.join()  # two threads must not use the group at once
    if errors:
        raise errors[0]


def _all_ready(is_ready: bool, group: Any) -> bool:
    """Whether every process that takes part in this round is ready; waits until each takes part."""
    answer = torch.tensor(int(is_ready))
    dist.all_reduce(answer, dist.ReduceOp.MIN, group=group)
    return bool(answer)
