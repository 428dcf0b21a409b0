"""Several processes on one machine that train one run: ``contrastive run RECIPE --processes N``.

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
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import IO

import torch
from accelerate import PartialState

from contrastive import interrupts
from contrastive.errors import ContrastiveError, Interrupted, UsageError
from contrastive.rendezvous import DEFAULT_LIMIT, set_limit
from contrastive.runs.network import refuse_loopback
from contrastive.text import quantity

#: Seconds that the other processes have to exit by themselves once one has failed.
GRACE = 5.0
#: Environment variable of a process whose launcher keeps its standard input open: end of file means that the
#: launcher has died.
LAUNCHER_VARIABLE = "CONTRASTIVE_LAUNCHED"
#: What may be behind the signal that killed a process.
_DEATHS = {
    signal.SIGKILL: "; it may have run out of memory",
    signal.SIGABRT: "; it may have waited longer than train.timeout for another process",
}
_POLL = 0.1


def launch(arguments: Sequence[str], count: int) -> int:
    """Run ``contrastive`` with these arguments in ``count`` processes; returns the highest exit code.

    The output of the first one is shown, and the errors of the others if they fail. Signals are passed on to
    all of them: they save and exit, and a second SIGINT ends them at once.

    Raises:
        UsageError: more processes than GPUs, or fewer than one.
        ContrastiveError: a process was killed; then the others are ended.
    """
    gpus = torch.cuda.device_count()
    if count < 1:
        raise UsageError(f"--processes {count}: must be 1 or more.")
    if gpus and count > gpus:
        raise UsageError(f"--processes {count}: this machine has {gpus} GPUs, and each process uses one.")
    environment = _environment(count, bool(gpus))
    processes = [_Process(arguments, rank, environment) for rank in range(count)]
    try:
        with interrupts.guard(), interrupts.responding(interrupts.passing_on(partial(_send, processes))):
            failed = _watch(processes)
    finally:
        for process in processes:
            process.end()
    if failed is None:
        stopped = any(process.is_stopped() for process in processes)
        return Interrupted.exit_code if stopped else max(process.code for process in processes)
    for process in processes[1:]:
        process.print_errors_missing_from(processes[0])
    if failed.code < 0:
        name = signal.Signals(-failed.code).name
        raise ContrastiveError(
            f"process {failed.rank} of {count} was killed by {name}, so the run was stopped"
            f"{_DEATHS.get(signal.Signals(-failed.code), '')}. "
            "The same command continues from the last checkpoint."
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
        """Its exit code, negative if a signal killed it."""
        return self._process.wait()

    def running(self) -> bool:
        return self._process.poll() is None

    def is_stopped(self) -> bool:
        """Whether it ended because a signal asked it to, perhaps before it could answer signals."""
        return self.code == Interrupted.exit_code or (
            interrupts.stop_requested() and -self.code in (signal.SIGINT, signal.SIGTERM)
        )

    def send(self, number: int) -> None:
        """Send it a signal if it still runs."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def end(self) -> None:
        """Kill it if it still runs: checkpoints are whole at any instant."""
        self._process.kill()
        self._process.wait()
        self._listener.join()

    def print_errors_missing_from(self, first: _Process) -> None:
        """Print the lines of its standard error that the first process did not print."""
        for line in self.error_lines:
            if line not in first.error_lines:
                sys.stderr.write(f"process {self.rank}: {line}")


def end_with_launcher() -> None:
    """End this process, which :func:`launch` started, as soon as its launcher dies."""

    def watch() -> None:
        sys.stdin.read()  # nothing is ever written; it ends when the launcher does
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _send(processes: Sequence[_Process], number: int) -> None:
    for process in processes:
        process.send(number)


def _watch(processes: Sequence[_Process]) -> _Process | None:
    """Wait for all processes, or :data:`GRACE` after the first failure; returns the process that failed.

    If one was stopped, the others are asked to stop too, and how they end is no failure.
    """
    failed, is_stopped, deadline = None, False, math.inf
    while any(process.running() for process in processes) and time.monotonic() < deadline:
        ends = [process for process in processes if not process.running()]
        if not is_stopped and any(process.is_stopped() for process in ends):
            is_stopped, failed, deadline = True, None, math.inf
            _send(processes, signal.SIGTERM)
        if failed is None and not is_stopped:
            failed = next((process for process in ends if process.code), None)
            deadline = math.inf if failed is None else time.monotonic() + GRACE
        time.sleep(_POLL)
    if any(process.is_stopped() for process in processes if not process.running()):
        return None
    return failed or next((p for p in processes if not p.running() and p.code), None)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _environment(count: int, gpus: bool) -> dict[str, str]:
    """The variables that torchrun sets to the same value for all processes."""
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


#: Variables in which launchers pass the number of processes: torchrun and Accelerate, then MPI.
_WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


#: Ways to split a model over processes, not yet tested on hardware.
_SPLITTING = {"FSDP": "FSDP", "DEEPSPEED": "DeepSpeed", "MEGATRON_LM": "Megatron-LM"}


def join_processes(minutes: float) -> None:
    """Join the other processes that a launcher started with this one, if there are any.

    Args:
        minutes: how long a collective may take, ``train.timeout``.

    Raises:
        UsageError: the launcher would train several separate copies, starts one process instead of several,
            or splits the model over processes.
    """
    _refuse_launchers()
    process_count = _process_count()
    if process_count in (None, 1):
        return
    cpu = not torch.cuda.is_available()
    if cpu:
        os.environ["ACCELERATE_USE_CPU"] = "1"  # otherwise Accelerate treats each process as the only one
    refuse_loopback(process_count)
    limit = timedelta(minutes=minutes)
    state = PartialState(cpu=cpu, timeout=max(limit, DEFAULT_LIMIT))  # until all have started
    if state.num_processes != process_count:
        raise UsageError(
            f"{quantity(process_count, 'process', 'processes')} were launched, but Accelerate joins "
            f"{state.num_processes}; each would train a separate run. "
            "Use contrastive run RECIPE --processes N."
        )
    set_limit(limit)


def _process_count() -> int | None:
    """How many processes the launcher reports; None without such a report."""
    return next((int(os.environ[name]) for name in _WORLD_SIZES if name in os.environ), None)


def _refuse_launchers() -> None:
    env = os.environ
    for flag, name in _SPLITTING.items():
        if env.get(f"ACCELERATE_USE_{flag}", "false").lower() in ("1", "true"):
            raise UsageError(
                f"{name} has not been tested with this version and is refused; launch with plain data "
                "parallelism (accelerate launch --multi_gpu)."
            )
    has_process_count = _process_count() is not None
    if not has_process_count and "ACCELERATE_DYNAMO_BACKEND" in env and "MASTER_PORT" in env:
        raise UsageError(
            "accelerate launch starts a single process on CPUs, however many are requested; use contrastive "
            "run RECIPE --processes N."
        )
    if not has_process_count and int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        raise UsageError(
            f"srun started {env['SLURM_STEP_NUM_TASKS']} processes that do not know of each other; start one "
            "per machine, and in it accelerate launch (docs/runs.md)."
        )


def refuse_processes(command: str) -> None:
    """Raise UsageError if a launcher started several processes for a command that runs in one."""
    if (_process_count() or 1) > 1:
        raise UsageError(f"contrastive {command} runs in one process; start it without a launcher.")
