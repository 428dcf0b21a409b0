"""What a comparison finds in finished runs: metrics, differences, curves and notes."""

from __future__ import annotations

from pathlib import Path

import pytest

from contrastive.cli import main
from contrastive.commands.compare.findings import differing
from contrastive.commands.curves import curves
from tests.support.comparisons import BASE, BETTER, compared
from tests.support.fake_runs import write_run, write_runs


def test_finished_runs_are_compared_with_the_first(runs, capsys):
    folders = write_runs(runs, "base", BASE) + write_runs(runs, "better", BETTER)
    found = compared(capsys, *folders)
    base, better = found["recipes"]
    assert (base["name"], better["name"], found["figures"]) == ("base", "better", ["knn_top1", "linear_top1"])
    difference = better["figures"]["knn_top1"]["difference"]
    assert difference["mean"] == pytest.approx(0.152 / 3)
    assert difference["verdict"] == "better"
    assert difference["interval"][0] > 0
    assert difference["p_holm"] == difference["p"] < 0.05  # two recipes are one comparison
    assert "difference" not in base["figures"]["knn_top1"]
    assert base["figures"]["knn_top1"]["sampling_error"] == pytest.approx(
        1.96 * (0.81 * 0.19 / 1000) ** 0.5, 1e-3
    )
    assert base["costs"]["images_per_second"] == 100  # the median of the steps
    assert base["costs"]["wall_seconds"] == 61


def test_more_recipes_are_corrected_for_their_number(runs, capsys):
    folders = [
        f
        for name, values in (("a", BASE), ("b", BETTER), ("c", BASE))
        for f in write_runs(runs, name, values)
    ]
    _, b, c = compared(capsys, *folders)["recipes"]
    b, c = (row["figures"]["linear_top1"]["difference"] for row in (b, c))
    assert b["p_holm"] == pytest.approx(2 * b["p"])
    assert (c["mean"], c["interval"], c["p"], c["verdict"]) == (0, [0, 0], 1, "not shown")


def test_z_is_compared_with_h_within_the_same_runs(runs, capsys):
    probe = {"id": "linear/1", "l2": [0.1]}
    protocols = {"linear": {**probe, "feature": "h"}, "linear_z": {**probe, "feature": "z"}}
    protocols["other_z"] = {**probe, "feature": "z", "l2": [0.2]}  # not the same probe
    folders = []
    for name, loss in (("a", [0.05, 0.06, 0.05]), ("b", [0.0, 0.0, 0.0])):
        for seed, (h, less) in enumerate(zip(BASE, loss, strict=True)):
            trained = {"linear_top1": h, "linear_z_top1": h - less, "other_z_top1": h}
            summary = {"trained": trained, "protocols": protocols, "untrained": trained}
            folders.append(str(write_run(runs, name, seed, h, summary=summary)))
    found = compared(capsys, *folders)
    assert found["features"] == [["linear_top1", "linear_z_top1"]]
    a, b = (row["figures"]["linear_z_top1"]["to_h"] for row in found["recipes"])
    assert a["mean"] == pytest.approx(-0.16 / 3)
    assert (a["verdict"], b["verdict"], b["mean"]) == ("worse", "not shown", 0)
    assert a["p_holm"] == pytest.approx(2 * a["p"])  # two recipes, two comparisons
    assert main(["compare", *folders, "--out", "here"]) == 0
    assert "linear_z_top1 against linear top1, the same runs" in capsys.readouterr().out
    report = Path("here/report.html").read_text()
    assert "For a, linear_z_top1 is worse than linear top1 by 5.3 points" in report
    assert "For b" not in report


def test_a_single_seed_says_that_it_tells_nothing(runs, capsys):
    folders = write_runs(runs, "a", [0.8]) + write_runs(runs, "b", [0.9])
    assert main(["compare", *folders]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "A single seed gives no interval" in out
    assert "not shown" in out
    assert "±" not in out


def test_surroundings_that_differ_are_noted(runs, capsys):
    surroundings = {"device": "H100", "processes": 2}
    folders = write_runs(runs, "a", BASE) + write_runs(runs, "b", BASE, environment=surroundings)
    notes = compared(capsys, *folders)["notes"]
    assert "Runs differ in device (H100, cpu): times and memory are not comparable." in notes
    assert any(note.startswith("Runs differ in processes (1, 2): it changes metrics too") for note in notes)


def test_runs_without_labels_have_no_figures(runs, capsys):
    bare = {"trained": {}, "untrained": {}, "split": None}
    folders = write_runs(runs, "a", BASE, summary=bare) + write_runs(runs, "b", BASE, summary=bare)
    assert compared(capsys, *folders)["figures"] == []


def test_a_run_without_metrics_stands_next_to_those_that_have_some(runs, capsys):
    reason = "none of the 12 labelled images of the test split can be read"
    bare = {"trained": {}, "untrained": {}, "split": None, "omitted": {"knn": reason, "linear": reason}}
    images = {"train": 100, "test": 12, "scored": 0}
    folders = write_runs(runs, "a", BASE[:1], summary={**bare, "images": images})
    folders += write_runs(runs, "b", BASE)
    comparison = compared(capsys, *folders)
    assert (comparison["split"], comparison["figures"]) == ("test", ["knn_top1", "linear_top1"])
    assert comparison["images"]["scored"] == 1000
    without, scored = comparison["recipes"]
    assert without["figures"]["knn_top1"]["mean"] is None
    assert scored["figures"]["knn_top1"]["mean"] > 0
    assert f"No metrics of knn in {folders[0]}: {reason}." in comparison["notes"]


def test_unequal_seeds_are_noted(runs, capsys):
    folders = write_runs(runs, "a", BASE[:2]) + write_runs(runs, "b", BETTER)
    found = compared(capsys, *folders)
    assert "b has other seeds than a; differences use the seeds they share." in found["notes"]
    assert found["recipes"][1]["figures"]["knn_top1"]["difference"]["seeds"] == 2


def test_curves_are_means_of_epochs():
    lines = [
        {"epoch": 1, "loss": 4.0},
        {"epoch": 1, "loss": 2.0},
        {"epoch": 2, "loss": None, "knn_top1": 0.5},
    ]
    assert curves(lines) == {"loss": [(1, 3.0)], "knn_top1": [(2, 0.5)]}


def test_differing_names_absent_keys_and_leaves_bookkeeping_out():
    one = {"name": "a", "loss": {"x": 1}, "train": {"workers": 1}, "evaluate": {"every": 1}}
    two = {
        "name": "b",
        "loss": {"x": True},
        "train": {"workers": 2},
        "evaluate": {"every": 2},
        "head": "none",
    }
    assert differing({"a": one, "b": two}) == {
        "loss.x": {"a": 1, "b": True},
        "head": {"a": None, "b": "none"},
    }
