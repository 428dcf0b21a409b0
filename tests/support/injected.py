"""Kills a run at chosen ones of its changes to the run folder, or fills its disk there, from within.

``python -m tests.support.injected RECIPE FOLDER`` runs the recipe once undisturbed, counting its changes,
then once for each of them: killed there by SIGKILL, killed again some changes after it was started again,
and then let through. Every run must end as the undisturbed one; a line of JSON tells of each. With
``--ask`` the kills are read from standard input, a line for a run: ``[[at, torn], ...]``, changes to be
killed at one after the other. With ``--fill`` the disk that holds FOLDER, a small tmpfs, is full from each
change on; there is room again for the next attempt.

A process that has imported everything forks one for each attempt, so an attempt takes no start. Python's
audit events tell of the changes: files opened for writing, renamed, removed, truncated, folders made and
removed. A kill comes just before a change; where it is ``torn`` half of what a write would have written is
there.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

import contrastive.commands.run
import contrastive.timm_models  # noqa: F401 - all that a run imports is imported before the forks
from contrastive.cli import main as command
from contrastive.training.checkpoints import Checkpoints
from tests.support.same import assert_same_run

EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}
Act = Callable[[str, str], None]


class Watch:
    """Counts the changes below ``folder``, and does ``act`` before the ``at``-th, from 1."""

    def __init__(self, folder: Path, at: int | None, act: Act, log: int):
        self.folder, self.at, self.act, self.log, self.seen = str(folder), at, act, log, 0

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            self.change("open", arguments[0])
        elif event in ("os.remove", "os.rmdir") and arguments[1] not in (-1, None):  # in an open folder
            self.change(event, os.path.join(os.readlink(f"/proc/self/fd/{arguments[1]}"), arguments[0]))
        elif event in EVENTS:
            self.change(event, arguments[0])

    def change(self, event: str, path: Any) -> None:
        if isinstance(path, int) or not os.fsdecode(path).startswith(self.folder):
            return
        path = os.fsdecode(path)
        self.seen += 1
        os.write(self.log, f"{event} {os.path.relpath(path, self.folder)}\n".encode())
        if self.seen == self.at:
            self.act(event, path)


def die(event: str, path: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def tear(event: str, path: str) -> None:
    """Die with half of a write done: a file that grows has a torn line, any other one no more than that."""
    if event == "open" and not path.endswith("/.lock"):
        with open(path, "ab" if path.endswith(".jsonl") else "wb") as file:
            file.write(b'{"step": 1, "los')
    die(event, path)


def fill(ballast: Path) -> Act:
    """Take all the room there is."""

    def act(event: str, path: str) -> None:
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    return act


class Outcome(NamedTuple):
    """Exit code, or minus the signal; the changes that were made; what was said on standard error."""

    code: int
    changes: list[str]
    said: str


def attempt(recipe: str, sets: Sequence[str], folder: Path, at: int | None = None, act: Act = die) -> Outcome:
    """Run the recipe in a process of its own, and ``act`` before its ``at``-th change."""
    with tempfile.TemporaryFile("w+") as log, tempfile.TemporaryFile("w+") as errors:
        child = os.fork()
        if child == 0:
            code = 70
            try:
                os.dup2(errors.fileno(), 2)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                torch.set_num_threads(1)
                sys.addaudithook(Watch(folder, at, act, log.fileno()).audit)
                options = [part for text in sets for part in ("--set", text)]
                code = command(["run", recipe, "--out", str(folder), *options])
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        log.seek(0)
        errors.seek(0)
        return Outcome(code, log.read().splitlines(), errors.read())


def killed(recipe: str, sets: Sequence[str], folder: Path, kills: Sequence[tuple[int, bool]]) -> list[str]:
    """Kill a run at each of ``kills``, one after the other, then let it through; where each kill fell."""
    fell = []
    for at, torn in kills:
        code, changes, said = attempt(recipe, sets, folder, at, tear if torn else die)
        if code == 0:  # it ended before
            return fell
        assert code == -signal.SIGKILL, said
        fell.append(changes[-1])
    assert (last := attempt(recipe, sets, folder)).code == 0, f"after kills at {fell}: {last.said}"
    return fell


def filled(recipe: str, sets: Sequence[str], folder: Path, at: int) -> list[str]:
    """Run into a full disk, then with room again; the change from which on it was full, and what was said.

    The failure is told in one line, and a checkpoint that was there is there still.
    """
    ballast = folder.with_name("ballast")
    code, changes, said = attempt(recipe, sets, folder, at, fill(ballast))
    ballast.unlink(missing_ok=True)
    assert code in (0, 1, 2), said
    assert "Traceback" not in said
    if code:
        assert "No space left on device" in said, said
        assert len(said.splitlines()) == 1, said
    damaged: list[str] = []
    Checkpoints(folder / "checkpoints", "", damaged.append).newest()
    assert not damaged
    assert (last := attempt(recipe, sets, folder)).code == 0, f"with room again: {last.said}"
    return [changes[at - 1], f"{code}", said]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.injected", description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("folder", type=Path, help="takes the runs; must not exist")
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--ask", action="store_true", help="read the kills from standard input")
    parser.add_argument("--fill", action="store_true", help="fill the disk instead of killing")
    parser.add_argument("--every", type=int, default=1, help="not at each change, but at each so many-th")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    run = arguments.recipe, arguments.sets
    undisturbed = arguments.folder / "undisturbed"
    code, changes, said = attempt(*run, undisturbed)
    assert code == 0, said
    print(json.dumps(changes), flush=True)
    points = range(1, len(changes) + 1, arguments.every)
    kills = ([[at, at % 2 == 0], [8 + at % 7, at % 4 < 2]] for at in points)
    for number, what in enumerate(
        map(json.loads, sys.stdin) if arguments.ask else points if arguments.fill else kills
    ):
        folder = arguments.folder / str(number)
        told = filled(*run, folder, what) if arguments.fill else killed(*run, folder, what)
        assert_same_run(undisturbed, folder)
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
