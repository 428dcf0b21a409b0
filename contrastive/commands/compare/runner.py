"""Runs what has not been run: each run in a process of its own, one after the other."""

from __future__ import annotations

import fcntl
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from contrastive.commands.compare.candidates import Candidate
from contrastive.errors import ContrastiveError, Interrupted
from contrastive.files import writable_by_user, write_whole
from contrastive.recipe.reader import write_yaml
from contrastive.runs.process_guard import interrupts

Log = Callable[[str], None]

#: File that says that a folder is a comparison's, finished or not.
MARK = ".comparison"


def train(candidates: Sequence[Candidate], out: Path, log: Log) -> list[str]:
    """Train every run that is not there; seeds first, so that a comparison that stops early is even.

    A run that fails is told of, and the others go on: what they give is not lost.

    Args:
        candidates: what is compared.
        out: the comparison's folder; takes every recipe in full.
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
    recipes = write_recipes(candidates, out) if due else {}
    for number, (candidate, seed) in enumerate(due, 1):
        folder = candidate.folders[seed]
        log(f"[{number}/{len(due)}] {candidate.name}, seed {seed}")
        _wait_for_others(folder, log)
        code = _run(recipes[candidate.name], seed, folder)
        if code not in (0, Interrupted.exit_code) and _wait_for_others(folder, log):
            # another comparison began this very run while ours was starting
            code = 0 if candidate.finished(seed) else _run(recipes[candidate.name], seed, folder)
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


def write_recipes(candidates: Sequence[Candidate], out: Path) -> dict[str, Path]:
    """Every recipe in full in the comparison's folder, readable and runnable alone: name -> path."""
    folder = out / "recipes"
    with writable_by_user(out):
        folder.mkdir(parents=True, exist_ok=True)
        (out / MARK).touch()
    paths = {c.name: folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', c.name)}.yaml" for c in candidates}
    for candidate in candidates:
        write_whole(paths[candidate.name], write_yaml(candidate.recipe))
    return paths


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


def _wait_for_others(folder: Path, log: Log) -> bool:
    """Whether another process was writing to this run, an earlier comparison's perhaps; waits for its end."""
    path = folder / ".lock"
    if not path.is_file():
        return False
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
        except OSError:
            log(f"another process is writing to {folder}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
            return True
