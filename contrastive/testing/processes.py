"""Two processes that train together, started once for many calls."""

from __future__ import annotations

import atexit
import importlib
import io
import multiprocessing
import os
import pickle
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist

from contrastive.testing.framework import fail

WORLD = 2
_NAME = "contrastive-kit"
LIMIT = 180.0  # seconds per answer, including the import of torch on a busy machine


class Unreachable(Exception):  # noqa: N818 - the call itself is not at fault
    """The other processes cannot import the function to run; the message has the remedy."""


class Pair:
    """Two processes under gloo on this machine."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.mkdtemp(prefix="contrastive-processes-")
        self._connections: list[Connection] = []
        self._processes = []
        for rank in range(WORLD):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve,
                args=(theirs, rank, os.path.join(self._folder, "store")),
                name=f"{_NAME}-{rank}",
                daemon=True,
            )
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)

    def call(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What ``function``, of the top level of a module, returns in each process, by rank."""
        try:
            request = pickle.dumps((sys.path, pickle.dumps((function, arguments))))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise Unreachable(
                f"other processes cannot import it ({error}); define it at the top level of a module"
            ) from error
        try:
            for connection in self._connections:
                connection.send_bytes(request)
            return self._answers()
        except BaseException:
            close()  # one of them may wait for the other forever
            raise

    def _answers(self) -> list[Any]:
        answers: list[Any] = [None] * WORLD
        waiting, deadline = set(range(WORLD)), time.monotonic() + LIMIT
        while waiting:
            sources = [self._connections[rank] for rank in waiting]
            ready = wait(sources, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                fail(f"no answer of two processes in {LIMIT:.0f} s: one waits in a collective for the other")
            for rank in sorted(waiting):
                if self._connections[rank] in ready:
                    answers[rank] = self._answer(rank)
                    waiting.remove(rank)
        return answers

    def _answer(self, rank: int) -> Any:
        try:
            outcome, content = pickle.loads(self._connections[rank].recv_bytes())
        except EOFError:
            self._processes[rank].join(5)
            exit_code = self._processes[rank].exitcode
            advice = (
                "; guard the checks of a script with if __name__ == '__main__':" if exit_code == 1 else ""
            )
            fail(f"process {rank} of two died with exit code {exit_code}{advice}")
        if outcome == "absent":
            raise Unreachable(f"other processes cannot import it ({content}); move it into a module")
        if outcome == "raised":
            fail(f"in process {rank} of two it {content}")
        return torch.load(io.BytesIO(content), weights_only=True)

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        for connection in self._connections:
            connection.close()
        shutil.rmtree(self._folder, ignore_errors=True)


_pairs: list[Pair] = []


def two_processes(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``function`` returns (plain values and tensors) in each of two processes that train together.

    Raises Unreachable if they cannot import it, and CheckFailed if it raises or they die.
    """
    if multiprocessing.current_process().name.startswith(_NAME):  # which imports the script that started it
        raise Unreachable("this is one of them; put the checks of a script under if __name__ == '__main__':")
    if not _pairs:
        _pairs.append(Pair())
    return _pairs[0].call(function, *arguments)


@atexit.register
def close() -> None:
    """End the two processes; the next call starts new ones."""
    while _pairs:
        _pairs.pop().close()


def _serve(connection: Connection, rank: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD, timeout=timedelta(seconds=LIMIT)
    )
    while True:
        try:
            request = connection.recv_bytes()
        except EOFError:
            return
        connection.send_bytes(pickle.dumps(_result(request)))


def _import_from(path: list[str]) -> None:
    """Take over the import path of the caller, and drop modules of folders that are no longer on it."""
    stale_folders = tuple(os.path.join(entry, "") for entry in sys.path if entry and entry not in path)
    for name, module in list(sys.modules.items()):
        if stale_folders and str(getattr(module, "__file__", None) or "").startswith(stale_folders):
            del sys.modules[name]
    sys.path[:] = path
    importlib.invalidate_caches()


def _result(request: bytes) -> tuple[str, Any]:
    """(``done``, the returned value), (``raised``, a message) or (``absent``, what cannot be imported)."""
    path, call = pickle.loads(request)
    _import_from(path)
    try:
        function, arguments = pickle.loads(call)
    except (ImportError, AttributeError) as error:
        return "absent", str(error)
    try:
        file = io.BytesIO()
        torch.save(function(*arguments), file)
        return "done", file.getvalue()
    except Exception as error:  # any exception of a part is reported to the caller
        last = traceback.extract_tb(error.__traceback__)[-1]
        return (
            "raised",
            f"raised {type(error).__name__}: {error} ({os.path.basename(last.filename)}:{last.lineno})",
        )
