"""Trains the runs that are missing: each in a process of its own, one after the other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from contrastive import interrupts
from contrastive.commands.compare.candidates import Candidate
from contrastive.commands.compare.stock import StockEntry
from contrastive.errors import ContrastiveError, Interrupted
from contrastive.files import writable_by_user, write_whole
from contrastive.recipe import with_name_characters, write_yaml
from contrastive.runs import wait_until_unlocked
from contrastive.text import quantity

Log = Callable[[str], None]

#: File that marks a folder as that of a comparison, finished or not.
MARK = ".comparison"


def train(candidates: Sequence[Candidate], out: Path, log: Log) -> tuple[list[Candidate], list[str]]:
    """Train every run that is not finished; seeds first, so that a comparison that stops early is even.

    If a run fails, the others still run. An encoder from elsewhere that fails is left out, unless it is the
    baseline.

    Args:
        candidates: what is compared.
        out: folder of the comparison; every recipe is written to it in full.
        log: prints progress.

    Returns:
        The candidates with only their finished runs, and a sentence for each run that failed.

    Raises:
        Interrupted: Ctrl-C or SIGTERM, after the current run has been saved.
        ContrastiveError: no run of a recipe finished, or the baseline is an encoder that failed.
    """
    runs = [(candidate, seed) for candidate in candidates for seed in candidate.folders]
    runs.sort(key=lambda run: list(run[0].folders).index(run[1]))
    pending = [(candidate, seed) for candidate, seed in runs if not candidate.is_finished(seed)]
    if len(pending) < len(runs):
        log(f"already finished: {len(runs) - len(pending)} of {quantity(len(runs), 'run')}")
    missing = {(candidate.name, seed) for candidate, seed in pending}
    failures = []
    recipes = write_recipes(candidates, out) if pending else {}
    for number, (candidate, seed) in enumerate(pending, 1):
        if candidate.stock is not None:
            log(f"[{number}/{len(pending)}] {candidate.name}, which is not trained")
            if failure := _failure(candidate.stock):
                failures.append(f"{candidate.name}: failed, {failure}")
                log(failures[-1])
            else:
                missing.remove((candidate.name, seed))
            continue
        log(f"[{number}/{len(pending)}] {candidate.name}, seed {seed}")
        code = _train_or_wait(candidate, seed, recipes[candidate.name], log)
        finished = candidate.is_finished(seed)
        if finished:
            missing.remove((candidate.name, seed))
        if code or not finished:
            failures.append(
                f"{candidate.name}, seed {seed}: failed with exit code {code}, in {candidate.folders[seed]}"
            )
            log(failures[-1])
    first, *others = candidates
    others = [each for each in others if each.stock is None or (each.name, 0) not in missing]
    return [_without(candidate, missing) for candidate in (first, *others)], failures


def _failure(encoder: StockEntry) -> str | None:
    """Evaluate an encoder from elsewhere. Returns why that failed, or None."""
    try:
        encoder.evaluate()
    except Interrupted:
        raise
    except Exception as error:  # of whatever kind, as that of the process of a run may be
        if interrupts.is_broken_off():
            raise
        reason = str(error).partition("\n")[0]
        return reason if isinstance(error, ContrastiveError) else f"{type(error).__name__}: {reason}"
    return None


def _without(candidate: Candidate, missing: set[tuple[str, int]]) -> Candidate:
    """The candidate without its ``missing`` runs, each (name, seed). ContrastiveError if none is left."""
    folders = {
        seed: folder for seed, folder in candidate.folders.items() if (candidate.name, seed) not in missing
    }
    if not folders:
        raise ContrastiveError(
            f"no run of {candidate.name} finished, so there is nothing to compare; its own error is above. "
            "The other runs are kept."
        )
    return replace(candidate, folders=folders)


def write_recipes(candidates: Sequence[Candidate], out: Path) -> dict[str, Path]:
    """Write every recipe in full to the folder of the comparison, so that each runs alone: name -> path."""
    folder = out / "recipes"
    with writable_by_user(out):
        folder.mkdir(parents=True, exist_ok=True)
        (out / MARK).touch()
    paths = {c.name: folder / f"{with_name_characters(c.name, '_')}.yaml" for c in candidates}
    for candidate in candidates:
        write_whole(paths[candidate.name], write_yaml(candidate.recipe))
    return paths


def _train_or_wait(candidate: Candidate, seed: int, recipe: Path, log: Log) -> int:
    """The exit code of a run, trained by us or by another process that began it first.

    Raises:
        Interrupted: Ctrl-C or SIGTERM, after the run has been saved.
    """
    folder = candidate.folders[seed]
    _wait_for_others(folder, log)
    code = _run(recipe, seed, folder)
    if code not in (0, Interrupted.exit_code) and _wait_for_others(folder, log):
        # Another comparison began this very run while ours was starting.
        code = 0 if candidate.is_finished(seed) else _run(recipe, seed, folder)
    if code == Interrupted.exit_code:
        raise Interrupted(f"stopped; the same command continues with the run in {folder}.")
    return code


def _run(recipe: Path, seed: int, folder: Path) -> int:
    """``contrastive run`` as a child; its exit code. Signals are passed on to it."""
    command = [sys.executable, "-m", "contrastive", "run", str(recipe)]
    command += ["--set", f"train.seed={seed}", "--out", str(folder)]
    # A process group of its own: otherwise a terminal's Ctrl-C reaches the child as well as our signal, and
    # the second one stops it without saving.
    # Under --json standard output is redirected in Python only, so the child must be redirected too.
    out = sys.stderr if sys.stdout is sys.stderr else None
    child = subprocess.Popen(command, stdout=out, process_group=0)

    def pass_on(number: int) -> None:
        with suppress(ProcessLookupError):
            child.send_signal(number)

    with interrupts.guard(), interrupts.responding(interrupts.passing_on(pass_on)):
        code = child.wait()  # the child prints what a signal does
        return Interrupted.exit_code if interrupts.stop_requested() else code


def _wait_for_others(folder: Path, log: Log) -> bool:
    """Wait until no other process writes to a run. Returns whether one did, such as an earlier comparison."""
    return wait_until_unlocked(folder, lambda: log(f"another process is writing to {folder}; waiting for it"))
