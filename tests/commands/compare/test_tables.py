"""Tables on a terminal: framed if they fit, else names above their cells, and never a broken cell."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from contrastive.commands.compare.candidates import gather, plan
from contrastive.commands.compare.findings import analyse
from contrastive.commands.compare.tables import tables
from contrastive.registry import load_registry
from tests.support.comparisons import BASE, BETTER
from tests.support.fake_runs import write_run, write_runs

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


def of_minutes(runs: Path, name: str, minutes: float | None, epochs: list[int]) -> list[str]:
    """Finished runs of three seeds with epochs of their own."""
    length = {"epochs": epochs[0]} if minutes is None else {"minutes": minutes}
    return [
        str(
            write_run(
                runs,
                name,
                seed,
                0.8 + seed / 100,
                recipe={"train": {**length, "seed": seed, "workers": "auto"}},
                summary={"epochs": count},
            )
        )
        for seed, count in enumerate(epochs)
    ]


@pytest.mark.parametrize(
    ("other", "title", "budgets"),
    [
        (3, "last epoch, 3 min per run", [("3 min", "16.7"), ("3 min", "8")]),
        (10, "last epoch", [("3 min", "16.7"), ("10 min", "8")]),
        (None, "last epoch", [("3 min", "16.7"), ("-", "8")]),
    ],
)
def test_tables_name_the_minutes_of_runs(
    other: float | None, title: str, budgets: list[tuple[str, str]], runs: Path
):
    folders = of_minutes(runs, "ours", 3, [17, 17, 16]) + of_minutes(runs, "theirs", other, [8, 8, 8])
    candidates = plan(folders, 1, load_registry())
    comparison = analyse(candidates, gather(candidates))
    metric, *_, costs = (table.table for table in tables(comparison))
    assert metric.title.endswith(title)
    assert [column.title for column in costs.columns[:3]] == ["recipe", "budget", "epochs"]
    assert [tuple(cell.text for cell in row[1:3]) for row in costs.rows] == budgets


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
