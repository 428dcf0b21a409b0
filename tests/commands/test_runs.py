"""``contrastive runs``: what it lists, in which state."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from contrastive.cli import main
from tests.support.command_line import json_of, refused
from tests.support.fake_runs import write_run

pytestmark = pytest.mark.usefixtures("elsewhere")


def finished(name: str, seed: int, accuracy: float, time: int) -> Path:
    same = {"fingerprint": "0123456789ab"}
    folder = write_run(Path("runs"), name, seed, accuracy, summary={**same, "epochs": 2}, environment=same)
    os.utime(folder / "summary.json", (time, time))
    return folder


def test_runs_are_listed_newest_first_with_state_and_metric(capsys: pytest.CaptureFixture[str]):
    finished("old", 0, 0.5, 1_000_000_000)
    new = finished("new", 3, 0.75, 1_700_000_000)
    half = finished("half", 1, 0.1, 1_600_000_000)
    (half / "summary.json").unlink()
    os.utime(half / "metrics.jsonl", (1_600_000_000, 1_600_000_000))
    (Path("runs") / "no run").mkdir()
    runs = json_of(capsys, "runs")["runs"]
    assert [(run["name"], run["seed"], run["state"]) for run in runs] == [
        ("new", 3, "finished"), ("half", 1, "interrupted"), ("old", 0, "finished"),
    ]  # fmt: skip
    assert (runs[0]["metric"], runs[0]["value"], runs[0]["epochs"]) == ("knn_top1", 0.75, 2)
    assert (runs[1]["metric"], runs[1]["value"], runs[1]["epochs"]) == (None, None, 2)
    assert runs[0]["fingerprint"] == "0123456789ab"
    assert runs[0]["bytes"] == sum(path.stat().st_size for path in new.rglob("*"))
    assert main(["runs", "runs"]) == 0
    text = capsys.readouterr().out
    for word in ("new", "half", "interrupted", "75.0 %", "01234567"):
        assert word in text


def test_a_run_without_labels_has_its_recognition(capsys: pytest.CaptureFixture[str]):
    folder = finished("new", 0, 0.75, 1_700_000_000)
    summary = json.loads((folder / "summary.json").read_text())
    summary |= {"trained": {}, "views": {"trained": {"lidar": 9.0, "recall_1": 0.5}}}
    (folder / "summary.json").write_text(json.dumps(summary))
    [run] = json_of(capsys, "runs")["runs"]
    assert (run["metric"], run["value"], run["unit"]) == ("recall_1", 0.5, "fraction")
    assert main(["runs"]) == 0
    assert "recall 1 50.0 %" in " ".join(capsys.readouterr().out.split())


def test_a_run_that_another_process_writes_is_running(capsys: pytest.CaptureFixture[str]):
    folder = finished("new", 0, 0.75, 1_700_000_000)
    with (folder / ".lock").open("w") as lock:
        assert json_of(capsys, "runs")["runs"][0]["state"] == "finished"
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert json_of(capsys, "runs")["runs"][0]["state"] == "running"


def test_damaged_files_do_not_hide_other_runs(capsys: pytest.CaptureFixture[str]):
    finished("whole", 0, 0.75, 1_700_000_000)
    folder = finished("torn", 0, 0.75, 1_600_000_000)
    (folder / "summary.json").write_text("{")
    (folder / "recipe.yaml").write_text("a: [")
    (folder / "metrics.jsonl").write_text("")
    states = {run["run"]: (run["name"], run["state"]) for run in json_of(capsys, "runs")["runs"]}
    assert states == {"runs/whole-seed0": ("whole", "finished"), "runs/torn-seed0": (None, "interrupted")}


def test_no_runs_and_no_folder(capsys: pytest.CaptureFixture[str]):
    assert "there is no folder runs" in refused(capsys, "runs")
    Path("runs").mkdir()
    assert json_of(capsys, "runs") == {"runs": []}
    assert main(["runs"]) == 0
    assert capsys.readouterr().out == "no runs in runs\n"


def test_a_run_folder_itself_is_listed(capsys: pytest.CaptureFixture[str]):
    folder = finished("one", 0, 0.75, 1_700_000_000)
    assert [run["run"] for run in json_of(capsys, "runs", str(folder))["runs"]] == [str(folder)]
    assert json.loads((folder / "summary.json").read_text())["name"] == "one"
