"""Runs what has not been run: each run in a process of its own, one after the other."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from contrastive.compare.plan import Candidate
from contrastive.errors import ContrastiveError, Interrupted
from contrastive.files import write_whole
from contrastive.process import interrupts
from contrastive.recipe import dump_yaml

Log = Callable[[str], None]


def train(candidates: Sequence[Candidate], out: Path, log: Log) -> list[str]:
    """Train every run that is not there; seeds first, so that a comparison that stops early is even.

    A run that fails is told of, and the others go on: what they give is not lost.

    Args:
        candidates: what is compared.
        out: the comparison's folder; takes the resolved recipes.
        log: where progress is told.

    Returns:
        The runs that failed, in words.

    Raises:
        Interrupted: Ctrl-C or SIGTERM, after the run under way has been saved.
        ContrastiveError: no run of a candidate came to its end.
    """
    wanted = [(candidate, seed) for candidate in candidates for seed in candidate.folders]
    wanted.sort(key=lambda pair: list(pair[0].folders).index(pair[1]))
    due = [(candidate, seed) for candidate, seed in wanted if not candidate.finished(seed)]
    if len(due) < len(wanted):
        log(f"{len(wanted) - len(due)} of {len(wanted)} runs are there already")
    failed = []
    for number, (candidate, seed) in enumerate(due, 1):
        folder = candidate.folders[seed]
        log(f"[{number}/{len(due)}] {candidate.name}, seed {seed}")
        _wait_for_others(folder, log)
        code = _run(_written(candidate, out), seed, folder)
        if code == Interrupted.exit_code:
            raise Interrupted(f"stopped in {folder}, which is saved; the same command goes on from there.")
        if code or not candidate.finished(seed):
            failed.append(f"{candidate.name}, seed {seed}: failed with exit code {code}, in {folder}")
            log(failed[-1])
    for candidate in candidates:
        if not any(candidate.finished(seed) for seed in candidate.folders):
            raise ContrastiveError(
                f"no run of {candidate.name} came to its end, so there is nothing to compare; its own "
                "message is above, and the other runs are kept."
            )
    return failed


def _written(candidate: Candidate, out: Path) -> Path:
    """The resolved recipe as a file: what a cell of a grid stands for, readable and runnable alone."""
    assert candidate.source is not None, "finished runs are never due"
    path = out / "recipes" / f"{candidate.name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, dump_yaml(candidate.source))
    return path


def _run(recipe: Path, seed: int, folder: Path) -> int:
    """``contrastive run`` as a child; its exit code. Ctrl-C and SIGTERM reach it once, and it saves."""
    command = [sys.executable, "-m", "contrastive", "run", str(recipe)]
    command += ["--set", f"train.seed={seed}", "--out", str(folder)]
    with interrupts() as asked:
        # A group of its own: a terminal's Ctrl-C would reach it beside ours, and two of them stop it unsaved.
        # Under --json standard output is redirected here, in Python alone, and the child's must follow.
        out = sys.stderr if sys.stdout is sys.stderr else None
        child = subprocess.Popen(command, stdout=out, process_group=0)
        told = False
        while True:
            try:
                code = child.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                if asked() and not told:
                    child.send_signal(signal.SIGINT)
                    told = True
                continue
            except KeyboardInterrupt:  # the second one: at once, as the child's own second would
                child.kill()
                raise
            return Interrupted.exit_code if asked() else code


def _wait_for_others(folder: Path, log: Log) -> None:
    """Where another process writes to this run, an earlier comparison's perhaps, its end is awaited."""
    path = folder / ".lock"
    if not path.is_file():
        return
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            log(f"another process is writing to {folder}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
