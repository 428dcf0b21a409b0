"""Several processes of one machine that train one run: ``contrastive run RECIPE --processes N``.

Each is the same command with its rank in the variables that torchrun sets; Accelerate joins them. Without
GPUs they share the cores and communicate over gloo.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import IO

import torch
from accelerate import PartialState

from contrastive.errors import ContrastiveError, UsageError
from contrastive.runs.process_guard import interrupts

#: Seconds that processes have to end by themselves once one of them has failed.
GRACE = 5.0
#: Tells a process that its launcher holds its standard input open, and has died once that ends.
LAUNCHER_VARIABLE = "CONTRASTIVE_LAUNCHED"
_POLL = 0.1


def launch(arguments: Sequence[str], count: int) -> int:
    """Run ``contrastive`` with these arguments in ``count`` processes; returns the exit code of all.

    The first one's output is shown, of the others what they say should they fail. Ctrl-C or SIGTERM lets
    them save and end; a second one ends them at once.

    Raises:
        UsageError: more processes than GPUs, or fewer than one.
        ContrastiveError: a process was killed; the others are ended then.
    """
    gpus = torch.cuda.device_count()
    if count < 1:
        raise UsageError(f"--processes {count}: say how many, 1 or more.")
    if gpus and count > gpus:
        raise UsageError(f"--processes {count}: this machine has {gpus} GPUs; one process takes one.")
    environment = _environment(count, bool(gpus))
    processes = [_Process(arguments, rank, environment) for rank in range(count)]
    try:
        with interrupts() as interrupted:
            failed = _watch(processes, interrupted)
    finally:
        for process in processes:
            process.end()
    if failed is None:
        return max(process.code for process in processes)
    for process in processes[1:]:
        process.print_errors_missing_from(processes[0])
    if failed.code < 0:
        name = signal.Signals(-failed.code).name
        raise ContrastiveError(
            f"process {failed.rank} of {count} was killed by {name}, so the run was ended"
            f"{'; it may have run out of memory' if failed.code == -signal.SIGKILL else ''}. "
            "The same command goes on from the last checkpoint."
        )
    return failed.code


class _Process:
    """One of the processes."""

    def __init__(self, arguments: Sequence[str], rank: int, environment: dict[str, str]):
        self.rank = rank
        self.error_lines: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "contrastive", *arguments],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,
            stdout=None if rank == 0 else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a terminal's Ctrl-C comes once, from the launcher
        )
        assert self._process.stderr is not None
        self._listener = threading.Thread(target=self._listen, args=(self._process.stderr,), daemon=True)
        self._listener.start()

    def _listen(self, errors: IO[str]) -> None:
        for line in errors:
            self.error_lines.append(line)
            if self.rank == 0:
                sys.stderr.write(line)
                sys.stderr.flush()

    @property
    def code(self) -> int:
        """Its exit code, less than zero where a signal killed it."""
        return self._process.wait()

    def running(self) -> bool:
        return self._process.poll() is None

    def request_stop(self) -> None:
        if self.running():
            self._process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Kill it where it still runs: checkpoints are whole at any instant."""
        self._process.kill()
        self._process.wait()
        self._listener.join()

    def print_errors_missing_from(self, first: _Process) -> None:
        """Print what it said on standard error and the first process did not."""
        for line in self.error_lines:
            if line not in first.error_lines:
                sys.stderr.write(f"process {self.rank}: {line}")


def end_with_launcher() -> None:
    """End this process, which :func:`launch` started, at once where its launcher has died."""

    def watch() -> None:
        sys.stdin.read()  # nothing is ever written; it ends when the launcher does
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _watch(processes: Sequence[_Process], interrupted: Callable[[], bool]) -> _Process | None:
    """Wait for all processes, or a little longer than for the first that fails; gives the one that failed."""
    failed, stop_requested, deadline = None, False, math.inf
    while any(process.running() for process in processes) and time.monotonic() < deadline:
        if interrupted() and not stop_requested:
            stop_requested = True
            for process in processes:
                process.request_stop()
        if failed is None:
            failed = next((p for p in processes if not p.running() and p.code not in (0, 130)), None)
            deadline = math.inf if failed is None else time.monotonic() + GRACE
        time.sleep(_POLL)
    return failed or next((p for p in processes if not p.running() and p.code), None)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _environment(count: int, gpus: bool) -> dict[str, str]:
    """What torchrun would tell all processes alike."""
    threads = max(1, len(os.sched_getaffinity(0)) // count) if hasattr(os, "sched_getaffinity") else 1
    return {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        **({} if gpus else {"ACCELERATE_USE_CPU": "1"}),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        LAUNCHER_VARIABLE: "1",
    }


#: How launchers tell a process how many there are: torchrun and Accelerate, then MPI's.
_WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


#: What splits a model over processes; not tried on hardware yet.
_SPLITTING = {"FSDP": "FSDP", "DEEPSPEED": "DeepSpeed", "MEGATRON_LM": "Megatron-LM"}


#: How long a process may wait for another, which evaluates alone; one that has died is seen at once.
_TIMEOUT = timedelta(days=7)


def join_processes() -> None:
    """Meet the other processes that a launcher has started with this one, if it has.

    Raises:
        UsageError: the launcher would train several separate copies, or one process instead of several,
            or splits the model over processes.
    """
    _refuse_launchers()
    count = _process_count()
    if count in (None, 1):
        return
    cpu = not torch.cuda.is_available()
    if cpu:
        os.environ["ACCELERATE_USE_CPU"] = "1"  # else Accelerate takes each process for the only one
    state = PartialState(cpu=cpu, timeout=_TIMEOUT)
    if state.num_processes != count:
        raise UsageError(
            f"{count} processes were launched, but Accelerate joins {state.num_processes}; each would "
            "train a run of its own. Say contrastive run RECIPE --processes N."
        )


def _process_count() -> int | None:
    """How many processes a launcher says it started; None where none says so."""
    return next((int(os.environ[name]) for name in _WORLD_SIZES if name in os.environ), None)


def _refuse_launchers() -> None:
    env = os.environ
    for flag, name in _SPLITTING.items():
        if env.get(f"ACCELERATE_USE_{flag}", "false").lower() in ("1", "true"):
            raise UsageError(
                f"{name} has not been tried with this version and is refused; launch with plain data "
                "parallelism (accelerate launch --multi_gpu)."
            )
    is_counted = _process_count() is not None
    if not is_counted and "ACCELERATE_DYNAMO_BACKEND" in env and "MASTER_PORT" in env:
        raise UsageError(
            "accelerate launch was asked for several processes and started one, as it does on CPUs; say "
            "contrastive run RECIPE --processes N."
        )
    if not is_counted and int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        raise UsageError(
            f"srun started {env['SLURM_STEP_NUM_TASKS']} processes that do not know of each other; start "
            "one a machine, and in it accelerate launch (docs/runs.md)."
        )


def refuse_processes(command: str) -> None:
    """Raise UsageError where a launcher started several processes for a command that one does alone."""
    if (_process_count() or 1) > 1:
        raise UsageError(f"contrastive {command} runs in one process; start it without a launcher.")
