"""A run that is killed by SIGKILL, whatever it was changing in its folder, ends as one that never was."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

#: Few steps: what is left of a run are its writes. Enough epochs that it prunes.
SHORT = ["train.epochs=4", "train.batch_size=60", "evaluate.every=3", "evaluate.linear=null"]
LONGEST = 60  # changes; the strategy draws up to here, and what lies past the end kills nothing

Kill = Callable[[list[tuple[int, bool]]], list[str]]


@pytest.fixture(scope="module")
def kill(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kill]:
    """Kills a run at some of its changes, one after the other; it must end as the undisturbed one."""
    folder = tmp_path_factory.mktemp("killed") / "runs"
    sets = [part for text in SHORT for part in ("--set", text)]
    command = [
        sys.executable,
        "-m",
        "tests.support.injected",
        str(tiny_recipe),
        str(folder),
        "--stdin",
        *sets,
    ]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        answers = process.stdout
        changes = json.loads(answers.readline())
        assert {"os.rename", "os.rmdir", "open"} <= {change.split()[0] for change in changes}
        assert len(changes) <= LONGEST

        def ask(kills: list[tuple[int, bool]]) -> list[str]:
            print(json.dumps(kills), file=process.stdin, flush=True)
            answer = answers.readline()
            assert answer, "the run did not end as the undisturbed one: see the error above"
            return json.loads(answer)

        yield ask
        process.stdin.close()


@pytest.mark.slow
def test_killed_in_every_kind_of_write(kill: Kill):
    """One after the other: each attempt gets a little further than the one before."""
    fell = kill([(at, at % 2 == 0) for at in (2, 3, 4, 5, 7, 9, 11, 12, 13, 15, 17, 19)])
    assert len(fell) == 12
    assert {"open .lock", "os.rename .environment.json.tmp"} <= set(fell)
    assert any(".tmp/state.pt" in change for change in fell)


@pytest.mark.ci
@settings(max_examples=4, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(1, LONGEST), st.booleans()), min_size=1, max_size=3))
def test_killed_anywhere(kill: Kill, kills: list[tuple[int, bool]]):
    """``python -m tests.support.injected RECIPE FOLDER`` takes every change there is."""
    kill(kills)
