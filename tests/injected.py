"""Kills a run at chosen ones of its changes to the run folder, by SIGKILL and from within.

``python -m tests.injected RECIPE FOLDER`` runs the recipe once undisturbed, counting its changes, then once
for each of them: killed there, killed again some changes after it was started again, and then let through.
Every run must end as the undisturbed one; a line of JSON tells of each. With ``--ask`` the kills are read
from standard input, a line for a run: ``[[at, torn], ...]``, changes to be killed at one after the other.

A process that has imported everything forks one for each attempt, so an attempt takes no start. Python's
audit events tell of the changes: files opened for writing, renamed, removed, truncated, folders made and
removed; torch.save writes past them and tells of itself. A kill comes just before a change; where it is
``torn`` half of what a write would have written is there.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

import contrastive.runs
import contrastive.timm_models  # noqa: F401 - all that a run imports is imported before the forks
from contrastive.cli import main as command
from tests.same import assert_same_run

EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}


class Killer:
    """Counts the changes below ``folder`` and dies before the ``at``-th (from 1), or amid it if ``torn``."""

    def __init__(self, folder: Path, at: int | None, torn: bool, log: int):
        self.folder, self.at, self.torn, self.log, self.seen = str(folder), at, torn, log, 0

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
        self.seen += 1
        name = os.path.relpath(os.fsdecode(path), self.folder)
        os.write(self.log, f"{event} {name}\n".encode())
        if self.seen == self.at:
            if self.torn and event == "open":
                self.tear(os.fsdecode(path))
            os.kill(os.getpid(), signal.SIGKILL)

    def tear(self, path: str) -> None:
        """Leave half of a write: the file's end, if it only grows, or all there is of it."""
        if path.endswith("/.lock"):
            return
        with open(path, "ab" if path.endswith(".jsonl") else "wb") as file:
            file.write(b'{"step": 1, "los')

    def save(self, state: Any, path: Path) -> None:
        """torch.save, which writes from C++."""
        self.change("open", path)
        _save(state, path)


_save = torch.save


def attempt(
    recipe: str, sets: list[str], folder: Path, at: int | None = None, torn: bool = False
) -> tuple[int, list[str]]:
    """Run the recipe in a process of its own; (exit code, or minus the signal; the changes it made)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        torch.set_num_threads(1)
        killer = Killer(folder, at, torn, writing)
        torch.save = killer.save
        sys.addaudithook(killer.audit)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        arguments = [part for text in sets for part in ("--set", text)]
        code = 70
        try:
            code = command(["run", recipe, "--out", str(folder), *arguments])
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        changes = pipe.read().splitlines()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), changes


def disturbed(recipe: str, sets: list[str], folder: Path, kills: list[tuple[int, bool]]) -> list[str]:
    """Kill a run at each of ``kills``, one after the other, then let it through; where each kill fell."""
    fell = []
    for at, torn in kills:
        code, changes = attempt(recipe, sets, folder, at, torn)
        if code == 0:  # it ended before
            return fell
        assert code == -signal.SIGKILL, f"exit code {code} after {changes[-3:]}"
        fell.append(changes[-1])
    code, changes = attempt(recipe, sets, folder)
    assert code == 0, f"exit code {code} after kills at {fell}"
    return fell


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.injected", description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("folder", type=Path, help="takes the runs; must not exist")
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--ask", action="store_true", help="read the kills from standard input")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    undisturbed = arguments.folder / "undisturbed"
    code, changes = attempt(arguments.recipe, arguments.sets, undisturbed)
    assert code == 0
    print(json.dumps(changes), flush=True)
    every = ([[at, at % 2 == 0], [8 + at % 7, at % 4 < 2]] for at in range(1, len(changes) + 1))
    for number, kills in enumerate(map(json.loads, sys.stdin) if arguments.ask else every):
        folder = arguments.folder / str(number)
        fell = disturbed(arguments.recipe, arguments.sets, folder, kills)
        assert_same_run(undisturbed, folder)
        print(json.dumps(fell), flush=True)


if __name__ == "__main__":
    main()
