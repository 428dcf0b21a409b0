"""``contrastive compare`` as a whole: the files it writes, and what it leaves alone."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from contrastive.cli import main
from contrastive.recipe import load_tree
from tests.support.comparisons import BASE, BETTER, compared
from tests.support.fake_runs import write_runs


def test_table_csv_and_report_are_written(runs, capsys):
    folders = write_runs(runs, "base", BASE) + write_runs(runs, "better", BETTER)
    assert main(["compare", *folders, "--out", "here"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "here/report.html"
    lines = list(csv.DictReader(Path("here/runs.csv").read_text().splitlines()))
    assert [(line["recipe"], line["seed"], line["knn_top1"]) for line in lines[2:4]] == [
        ("base", "2", "0.81"),
        ("better", "0", "0.851"),
    ]
    assert lines[0]["run"] == folders[0]
    report = Path("here/report.html").read_text()
    assert "better is better than base in knn top1 by 5.1 points" in report
    assert json.loads(Path("here/comparison.json").read_text())["report"] == "here/report.html"
    assert main(["compare", *folders, "--out", "here"]) == 0  # an earlier comparison may be replaced


def test_a_report_that_no_comparison_wrote_is_kept(runs, capsys):
    folders = write_runs(runs, "a", BASE)
    for kept in (Path("mine/report.html"), Path("my/recipes/a.yaml")):
        kept.parent.mkdir(parents=True)
        kept.write_text("precious")
        assert main(["compare", *folders, "--out", kept.parts[0]]) == 2
        assert "no comparison wrote" in capsys.readouterr().err
        assert kept.read_text() == "precious"


def test_recipes_are_written_in_full_whoever_ran_them(recipes, children, runs, capsys):
    compared(capsys, *recipes, "--seeds", "1", "--out", "first")
    compared(capsys, *recipes, "--seeds", "1", "--out", "second")  # nothing is due
    for folder in ("first", "second"):
        assert [path.name for path in sorted(Path(folder, "recipes").iterdir())] == ["a.yaml", "b.yaml"]
    found = load_tree("second/recipes/a.yaml").root.plain()
    assert found["train"]["epochs"] == 3
    assert found["loss"]["name"] == "nt_xent"


@pytest.mark.slow
def test_twins_differ_by_exactly_zero_and_a_stopped_comparison_goes_on(recipes, capfd):
    """The whole command, in processes of its own: stopped in its first run, finished, then found again."""
    overrides = ("--set", "evaluate={knn: {k: 5, at: end}}", "--set", "train.epochs=6")
    command = [*recipes, "--seeds", "1", *overrides]
    first = subprocess.Popen(
        [sys.executable, "-m", "contrastive", "compare", *command],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    while not list(Path("runs").glob("*/metrics.jsonl")) and first.poll() is None:
        time.sleep(0.02)
    first.send_signal(signal.SIGINT)
    _, error = first.communicate()
    assert (first.returncode, "the same command continues" in error) == (130, True), error
    assert not Path("comparisons").exists() or not list(Path("comparisons").rglob("report.html"))

    found = compared(capfd, *command)
    a, b = found["recipes"]
    assert b["figures"]["knn_top1"]["difference"]["mean"] == 0.0
    assert a["curves"] == b["curves"]
    assert found["differing"] == {}
    started = [
        json.loads((Path(row["runs"]["0"]) / "environment.json").read_text())["started"] for row in (a, b)
    ]
    assert len({row["runs"]["0"] for row in (a, b)}) == 2
    assert started[0] < started[1]
    assert "features of a" in Path(found["report"]).read_text()

    compared(capfd, *command)
    assert [
        json.loads((Path(row["runs"]["0"]) / "environment.json").read_text())["started"] for row in (a, b)
    ] == started
