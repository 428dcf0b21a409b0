"""What the walk counter counts, on a package of four files."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest
from walks import WALKS, Moment, Tracer, table

BASELINE = Path(__file__).parent / "baselines" / "walks.json"
FILES = {
    "__init__.py": "",
    # calls a helper twice by two functions, and a base class in a loop
    "top.py": """
from tower import lazily
from tower.base import Part
from tower.helpers import first, second

class Own(Part):
    def work(self):
        return first()

def start():
    for _ in range(3):
        Own().run()
    second()
    lazily.door
    return sum(numbers())

def numbers():
    for number in range(3):
        yield within(number)

def within(number):
    return number
""",
    "base.py": """
from tower.helpers import first

class Part:
    def run(self):
        return self.work()
""",
    "helpers.py": """
def first():
    return 1

def second():
    return list(map(first_of, [[2], [3]]))

def first_of(items):
    return items[0]
""",
    "lazily.py": """
from tower.helpers import second

def __getattr__(name):
    return second()
""",
}


@pytest.fixture
def tower(tmp_path, monkeypatch):
    folder = tmp_path / "tower"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for module in [module for module in sys.modules if module.split(".")[0] == "tower"]:
        del sys.modules[module]


def start() -> object:
    return import_module("tower.top").start()


def test_a_walk_counts_each_call_once(tower):
    walk = Tracer(tower).run(start)
    # start -> Own.run in base -> Own.work in top -> first in helpers, and back; then second in helpers
    assert walk.stays == [
        "top.py", "base.py", "top.py", "helpers.py", "top.py", "base.py", "top.py", "helpers.py", "top.py",
    ]  # fmt: skip
    assert walk.back_up == [("base.py", "top.py")]
    assert walk.twice == {"helpers.py"}
    assert walk.entered_from == {"top.py": "", "base.py": "top.py", "helpers.py": "top.py"}
    assert walk.numbers() == {
        "stays": 9,
        "distinct files": 3,
        "steps back up": 1,
        "files entered twice": 1,
    }


@pytest.mark.parametrize(
    ("begin", "end", "stays"),
    [
        (Moment("call", "Part.run"), Moment("return", "Part.run"), "base top helpers top base"),
        (Moment("call", "second"), None, "helpers top"),
        (None, Moment("call", "Own.work"), "top base"),
        (Moment("return", "first"), Moment("call", "second"), "top base top helpers top base top"),
    ],
)
def test_a_walk_may_be_a_part_of_a_command(tower, begin, end, stays):
    walk = Tracer(tower, begin, end).run(start)
    assert " ".join(file.removesuffix(".py") for file in walk.stays) == stays


def test_moments_that_never_come_are_an_error(tower):
    with pytest.raises(ValueError, match="there was no call of gone"):
        Tracer(tower, Moment("call", "gone")).run(start)


def test_the_table_has_a_line_for_each_walk():
    walks = {
        "there": {
            "stays": 3, "distinct files": 2, "steps back up": 1, "files entered twice": 0,
            "enters the job of runs from": "cli.py",
        },
        "back": {
            "stays": 1, "distinct files": 1, "steps back up": 0, "files entered twice": 0,
            "enters the job of runs from": None,
        },
    }  # fmt: skip
    assert table(walks) == (
        "| walk | stays | distinct files | steps back up | files entered twice |\n"
        "|---|---:|---:|---:|---:|\n"
        "| there | 3 | 2 | 1 | 0 |\n"
        "| back | 1 | 1 | 0 | 0 |\n"
        "\n"
        "- there: enters, first from cli.py, the module that executes a run\n"
        "- back: never enters the module that executes a run"
    )


def test_the_baseline_has_every_walk():
    assert list(json.loads(BASELINE.read_text())) == list(WALKS)
