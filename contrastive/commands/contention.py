"""How much of a machine's processors other programs use, which makes timings long."""

from __future__ import annotations

import time
from contextlib import suppress

import psutil

#: The share of the processors from which on timings are of a busy machine.
BUSY = 0.1


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
    times = own.cpu_times()
    seconds = times.user + times.system
    seconds += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)  # of dead ones
    for child in own.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            seconds += sum(child.cpu_times()[:2])
    return float(seconds)
