"""The command line keeps freed memory, unless the user has set how the C library allocates."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from contrastive import freed_memory

#: Prints how many pages are touched anew while the same 128 MB are taken and freed three times.
TOUCH = """
import resource, sys
from contrastive.freed_memory import keep_freed_memory
if "keep" in sys.argv:
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
size = 2**26
for _ in range(3):  # the heap finds its size
    (b"x" * size, b"x" * size)
before = faults()
for _ in range(3):
    (b"x" * size, b"x" * size)
print(faults() - before)
"""


def pages(*arguments: str, **variables: str) -> int:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", TOUCH, *arguments]
    process = subprocess.run(command, env={**own, **variables}, capture_output=True, text=True, check=True)
    return int(process.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc returns what is freed so early")
def test_pages_are_not_touched_anew_unless_the_user_decides():
    assert pages() > 10 * (kept := pages("keep"))
    assert kept < 1000
    assert pages("keep", MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072") > 10_000


def test_a_library_without_mallopt_stays_as_it_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(freed_memory.ctypes, "CDLL", lambda name: object())
    freed_memory.keep_freed_memory()
