"""Kill a run at chosen changes to its folder, or fill its disk there, from within.

``python -m tests.support.injected RECIPE FOLDER`` runs the recipe once undisturbed and counts its changes.
Then it runs it once for each of them: killed there by SIGKILL, killed again some changes after the restart,
and then run to the end. Every run must end as the undisturbed one; each gets a line of JSON. With ``--stdin``
the kills are read from standard input, one line per run: ``[[at, torn], ...]``, the changes to be killed at
one after the other. With ``--fill`` the disk that holds FOLDER, a small tmpfs, is full from each change on;
it has space again for the next attempt.

A process that has imported everything forks one process per attempt, so that attempts start at once. Python's
audit events show the changes: files opened for writing, renamed, removed or truncated, folders created or
removed. A kill comes just before a change; if it is ``torn``, half of the data of a write is already there.
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
from contrastive.training import Checkpoints
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
    """Exit code, or minus the signal; the changes to the folder; the text on standard error."""

    code: int
    changes: list[str]
    stderr: str


def attempt(recipe: str, sets: Sequence[str], folder: Path, at: int | None = None, act: Act = die) -> Outcome:
    """Run the recipe in its own process, and ``act`` before its ``at``-th change."""
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


def run_with_kills(
    recipe: str, sets: Sequence[str], folder: Path, kills: Sequence[tuple[int, bool]]
) -> list[str]:
    """Kill a run at each of ``kills`` in turn, then run it to the end; returns the change of each kill."""
    fell = []
    for at, torn in kills:
        code, changes, stderr = attempt(recipe, sets, folder, at, tear if torn else die)
        if code == 0:  # it ended before
            return fell
        assert code == -signal.SIGKILL, stderr
        fell.append(changes[-1])
    assert (last := attempt(recipe, sets, folder)).code == 0, f"after kills at {fell}: {last.stderr}"
    return fell


def run_with_full_disk(recipe: str, sets: Sequence[str], folder: Path, at: int) -> list[str]:
    """Run on a full disk, then with free space; the change at which it was full, the exit code, the error.

    The failure is one line, and earlier checkpoints stay intact.
    """
    ballast = folder.with_name("ballast")
    code, changes, stderr = attempt(recipe, sets, folder, at, fill(ballast))
    ballast.unlink(missing_ok=True)
    assert code in (0, 1, 2), stderr
    assert "Traceback" not in stderr
    if code:
        assert "No space left on device" in stderr, stderr
        assert len(stderr.splitlines()) == 1, stderr
    damaged: list[str] = []
    Checkpoints(folder / "checkpoints", "", damaged.append).newest()
    assert not damaged
    assert (last := attempt(recipe, sets, folder)).code == 0, f"with free space: {last.stderr}"
    return [changes[at - 1], f"{code}", stderr]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.injected", description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("folder", type=Path, help="takes the runs; must not exist")
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--stdin", action="store_true", help="read the kills from standard input")
    parser.add_argument("--fill", action="store_true", help="fill the disk instead of killing")
    parser.add_argument("--every", type=int, default=1, help="only at every N-th change")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    run = arguments.recipe, arguments.sets
    undisturbed = arguments.folder / "undisturbed"
    code, changes, stderr = attempt(*run, undisturbed)
    assert code == 0, stderr
    print(json.dumps(changes), flush=True)
    points = range(1, len(changes) + 1, arguments.every)
    kills = ([[at, at % 2 == 0], [8 + at % 7, at % 4 < 2]] for at in points)
    for number, point in enumerate(
        map(json.loads, sys.stdin) if arguments.stdin else points if arguments.fill else kills
    ):
        folder = arguments.folder / str(number)
        report = (
            run_with_full_disk(*run, folder, point) if arguments.fill else run_with_kills(*run, folder, point)
        )
        assert_same_run(undisturbed, folder)
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
