"""Which runs are trained, in which order, and what happens if one fails or another process trains it."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack
from pathlib import Path

from contrastive.cli import main
from contrastive.commands.compare import runner as training
from contrastive.runs.process_guard import folder_lock
from tests.support.comparisons import compared


def test_seeds_go_first_and_nothing_is_run_twice(recipes, children, capsys):
    made, _ = children
    compared(capsys, *recipes, "--seeds", "2")
    assert made == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    made.clear()
    found = compared(
        capsys, *recipes, "--seeds", "3", "--set", "train.workers=0"
    )  # no part of the fingerprint
    assert made == [("a", 2), ("b", 2)]
    assert found["recipes"][0]["runs"]["0"].startswith("runs/a-seed0-")


def test_another_evaluation_is_not_taken_from_an_old_run(recipes, children, capsys):
    made, _ = children
    compared(capsys, *recipes, "--seeds", "1")
    compared(capsys, *recipes, "--seeds", "1", "--set", "evaluate.knn.k=3")
    assert made == [("a", 0), ("b", 0)] * 2


def test_what_a_protocol_of_another_version_said_is_asked_again(recipes, children, capsys):
    made, _ = children
    compared(capsys, recipes[0], "--seeds", "1")
    (path,) = Path("runs").glob("a-seed0-*/summary.json")
    path.write_text(path.read_text().replace("knn/1", "knn/0"))
    compared(capsys, recipes[0], "--seeds", "1")
    assert made == [("a", 0)] * 2


def test_a_longer_run_in_its_folder_is_not_taken_for_the_asked_one(recipes, children, capsys):
    made, _ = children
    compared(capsys, recipes[0], "--seeds", "1")
    (path,) = Path("runs").glob("a-seed0-*/summary.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": "of more epochs"}))
    compared(capsys, recipes[0], "--seeds", "1")
    assert made == [("a", 0)] * 2


def test_a_run_that_another_comparison_begins_at_the_same_time_is_its_run(
    recipes, children, monkeypatch, capsys
):
    """Both find no lock, the other's child is first, and ours fails: we wait, and take what it made."""
    made, codes = children
    codes["a", 0] = 2
    waits = []

    def wait(folder: Path, log) -> bool:
        waits.append(folder.name)
        if len(waits) != 2:
            return False
        codes.clear()
        training._run(Path("a.yaml"), 0, folder)  # by the other
        return True

    monkeypatch.setattr(training, "_wait_for_others", wait)
    compared(capsys, recipes[0], "--seeds", "1")
    assert made == [("a", 0)] * 2  # ours, and the other's


def test_a_stop_ends_the_comparison_and_it_goes_on(recipes, children, capsys):
    made, codes = children
    codes["b", 0] = 130
    assert main(["compare", *recipes, "--seeds", "2"]) == 130
    assert "the same command continues" in capsys.readouterr().err
    codes.clear()
    made.clear()
    compared(capsys, *recipes, "--seeds", "2")
    assert made == [("b", 0), ("a", 1), ("b", 1)]


def test_a_run_that_fails_is_told_and_the_others_are_compared(recipes, children, capsys):
    _, codes = children
    codes["b", 1] = 1
    assert main(["compare", *recipes, "--seeds", "3"]) == 1
    out = capsys.readouterr().out
    assert "b, seed 1: failed with exit code 1" in out
    assert out.splitlines()[-1].endswith("report.html")


def test_a_recipe_of_which_all_runs_fail_cannot_be_compared(recipes, children, capsys):
    _, codes = children
    codes["b", 0] = 1
    assert main(["compare", *recipes, "--seeds", "1"]) == 1
    assert "no run of b finished" in capsys.readouterr().err


def test_a_run_that_another_process_writes_is_awaited(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    told = []
    with ExitStack() as held:
        held.enter_context(folder_lock(tmp_path))
        timer = threading.Timer(0.3, held.close)
        timer.start()
        training._wait_for_others(tmp_path, told.append)
        timer.join()
    training._wait_for_others(tmp_path, told.append)  # free now: nothing to tell
    assert told == [f"another process is writing to {tmp_path}; waiting for it"]
