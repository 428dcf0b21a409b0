"""How the threads of OpenMP wait for one another, on a machine that other programs use too. No torch here."""

from __future__ import annotations

import os
import sys

#: A thread that waits spins this often, a few tens of microseconds, and then sleeps. By default GNU's OpenMP
#: spins for milliseconds, and takes the processor from the very thread it waits for if another program has
#: taken that thread's own. Measured by ``python -m benchmarks waiting``.
POLICY = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}


def set_wait_policy() -> None:
    """Set it for this process and its children, unless torch is loaded already or the user has set one."""
    if "torch" not in sys.modules and POLICY.keys().isdisjoint(os.environ):
        os.environ.update(POLICY)
