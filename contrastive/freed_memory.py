"""Memory that tensors free stays with the process, for the next ones. No torch here.

By default glibc returns each large block to the system when it is freed, and the system clears every page of
the next one when it is first touched. A training step frees and takes the same blocks again and again.
Measured by ``python -m benchmarks freed_memory``.
"""

from __future__ import annotations

import ctypes
import os

#: Parameters of glibc's mallopt, and their values: free memory at the end of the heap is never returned, and
#: blocks below a gigabyte come from the heap.
_PARAMETERS = {"M_TRIM_THRESHOLD": (-1, -1), "M_MMAP_THRESHOLD": (-3, 2**30)}


def keep_freed_memory() -> None:
    """Let this process and its forks keep what they free, unless the user has set how glibc allocates.

    Other C libraries stay as they are.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in _PARAMETERS.values():
            mallopt(parameter, value)
