"""How much of a machine's processors other programs use, which makes timings long."""

from __future__ import annotations

import time

import psutil

#: The share of the processors from which on timings are of a busy machine.
CONTENDED = 0.1


class Contention:
    """Measures from its creation on."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._busy, self._own = _busy_seconds(), _own_seconds()

    def share(self) -> float:
        """The share of all processors' time that other programs took, 0 to 1."""
        busy, own = _busy_seconds() - self._busy, _own_seconds() - self._own
        available = (time.perf_counter() - self._start) * (psutil.cpu_count() or 1)
        return min(1.0, max(0.0, busy - own) / available) if available else 0.0


def _busy_seconds() -> float:
    """Seconds in which the processors of the machine did something."""
    times = psutil.cpu_times()
    guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # part of user and nice
    return float(sum(times) - guest - times.idle - getattr(times, "iowait", 0.0))


def _own_seconds() -> float:
    """Seconds of this process and of its children, dead or alive."""
    own = psutil.Process()
    seconds = 0.0
    for process in (own, *own.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:  # it has just ended, and counts among the children's
            continue
        seconds += times.user + times.system
    ended = own.cpu_times()
    return seconds + getattr(ended, "children_user", 0.0) + getattr(ended, "children_system", 0.0)
