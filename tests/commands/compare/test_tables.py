"""Tables on a terminal: framed if they fit, else names above their cells, and never a broken cell."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from contrastive.commands.compare.candidates import gather, plan
from contrastive.commands.compare.findings import analyse
from contrastive.commands.compare.tables import tables
from contrastive.registry import load_registry
from tests.support.comparisons import BASE, BETTER
from tests.support.fake_runs import write_runs

LONG = "simclr-temperature_0.1-head_mlp"


def shown(comparison: dict, width: int) -> list[str]:
    """The lines that a terminal of a width shows of all tables."""
    text = io.StringIO()
    Console(file=text, width=width).print(*tables(comparison), sep="\n")
    return text.getvalue().splitlines()


@pytest.fixture
def long_names(runs) -> dict:
    folders = write_runs(runs, LONG, BASE)
    folders += write_runs(runs, "other", BETTER, recipe={"loss": {"name": "nt_xent", "temperature": 9}})
    candidates = plan(folders, 1, load_registry())
    return analyse(candidates, gather(candidates))


def test_a_wide_terminal_frames_them(long_names):
    line = next(line for line in shown(long_names, 160) if LONG in line)
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells == [LONG, "3", "81.0 % ± 2.5", "baseline", "40.0 %"]


def test_in_80_columns_a_long_name_stands_above_its_cells(long_names):
    lines = shown(long_names, 80)
    assert max(map(len, lines)) <= 80
    start = lines.index(LONG)
    assert lines[start - 2].strip() == "knn top1 on test, last epoch"
    assert lines[start - 1].split() == ["seeds", "trained", "difference", "untrained"]
    assert lines[start + 1].split() == ["3", "81.0", "%", "±", "2.5", "baseline", "40.0", "%"]
    assert lines[start + 2] == "other"
    assert "+5.1 ± 0.4 better, p < 0.001" in lines[start + 3]
    assert len(lines[start - 1]) == len(lines[start + 1]) == len(lines[start + 3])  # columns are aligned
