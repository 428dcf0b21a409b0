"""``contrastive compare``: what is run, what is refused, and what is told."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from functools import wraps
from pathlib import Path

import pytest

from contrastive.cli import main
from contrastive.commands.compare import runner as training
from contrastive.commands.compare.candidates import plan
from contrastive.commands.compare.findings import curves, differing
from contrastive.commands.compare.plots import mean_curve, pareto_front
from contrastive.heads import Linear
from contrastive.recipe import load_tree
from contrastive.registry import load_registry
from contrastive.runs.process_guard import locked
from tests.support.fake_runs import write_run, write_runs


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def runs(tmp_path) -> Path:
    return tmp_path / "finished"


BASE, BETTER = [0.80, 0.82, 0.81], [0.851, 0.869, 0.862]


def compared(capsys, *arguments: str) -> dict:
    """What ``compare --json`` prints, its only output there."""
    assert main(["compare", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments: str) -> str:
    assert main(["compare", *arguments]) == 2
    assert not Path("comparisons").exists()
    return capsys.readouterr().err


# -- finished runs ----------------------------------------------------------------------------------


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
    assert "linear z top1 against linear top1, the same runs" in capsys.readouterr().out
    report = Path("here/report.html").read_text()
    assert "Of a, linear z top1 is worse than linear top1 by 5.3 points" in report
    assert "Of b" not in report


def test_a_single_seed_says_that_it_tells_nothing(runs, capsys):
    folders = write_runs(runs, "a", [0.8]) + write_runs(runs, "b", [0.9])
    assert main(["compare", *folders]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "A single seed gives no interval" in out
    assert "not shown" in out
    assert "±" not in out


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


def test_runs_of_one_name_and_different_recipes_go_by_their_folders(runs, capsys):
    cold = write_run(runs / "1", "same", 0, 0.8)
    hot = write_run(runs / "2", "same", 1, 0.8, recipe={"loss": {"name": "nt_xent", "temperature": 9}})
    found = compared(capsys, str(cold), str(hot))
    assert [row["name"] for row in found["recipes"]] == ["same-seed0", "same-seed1"]
    assert found["differing"] == {"loss.temperature": {"same-seed0": 0.5, "same-seed1": 9}}
    assert found["recipes"][1]["figures"]["knn_top1"]["difference"] is None  # no seed in common


def test_surroundings_that_differ_are_noted(runs, capsys):
    surroundings = {"device": "H100", "processes": 2}
    folders = write_runs(runs, "a", BASE) + write_runs(runs, "b", BASE, environment=surroundings)
    notes = compared(capsys, *folders)["notes"]
    assert "Runs differ in device (H100, cpu): times and memory do not compare." in notes
    assert any(
        note.startswith("Runs differ in processes (1, 2): figures differ by that too") for note in notes
    )


def test_runs_without_labels_have_no_figures(runs, capsys):
    bare = {"trained": {}, "untrained": {}, "split": None}
    folders = write_runs(runs, "a", BASE, summary=bare) + write_runs(runs, "b", BASE, summary=bare)
    assert compared(capsys, *folders)["figures"] == []


# -- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"environment": {"data": "fedcba98"}},
            "the data: a has image_folder of fingerprint 01234567, b has",
        ),
        ({"recipe": {"evaluate": {"knn": {"k": 7}}}}, "evaluate.knn.k: 5 in a, 7 in b"),
        ({"summary": {"split": "validation"}}, "split: test in a-seed0, validation in b-seed0"),
        (
            {"summary": {"protocols": {"knn": {"k": 5, "version": 2}}}},
            "protocols.knn.version: 1 in a-seed0, 2 in b-seed0",
        ),
    ],
)
def test_what_was_judged_otherwise_is_not_ranked(runs, capsys, more, said):
    folders = write_runs(runs, "a", BASE) + write_runs(runs, "b", BASE, **more)
    error = refused(capsys, *folders)
    assert "cannot be ranked" in error
    assert said in error.replace(f"{runs}/", "")


def test_when_protocols_run_in_training_changes_no_rank(runs, capsys):
    evaluate = {"every": 5, "knn": {"k": 5, "at": "end"}, "linear": {"at": "end"}}
    compared(
        capsys, *write_runs(runs, "a", BASE), *write_runs(runs, "b", BASE, recipe={"evaluate": evaluate})
    )


def test_a_run_that_has_not_finished_is_refused(runs, capsys):
    folder = write_run(runs, "a", 0, 0.8)
    (folder / "summary.json").unlink()
    assert "has not finished" in refused(capsys, str(folder))


def test_a_run_whose_files_are_missing_or_damaged_is_refused_in_a_sentence(runs, capsys):
    folder = write_run(runs, "a", 0, 0.8)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("xx\n")
    assert "metrics.jsonl:6 is damaged: it is not a JSON map; delete the line." in refused(
        capsys, str(folder)
    )
    (folder / "environment.json").unlink()
    assert "environment.json is missing" in refused(capsys, str(folder))


def test_mistakes_of_all_recipes_are_told_at_once(tiny_recipe, capsys):
    for name, old, new in (("one", "epochs: 3", "epochs: none"), ("two", "temperature", "temperatur")):
        Path(f"{name}.yaml").write_text(tiny_recipe.read_text().replace(old, new))
    error = refused(capsys, "one.yaml", "two.yaml", str(tiny_recipe))
    assert "one.yaml:8:17  train.epochs" in error
    assert "two.yaml:6:23  loss.temperatur" in error
    assert not Path("runs").exists()


@pytest.mark.parametrize("command", ["check", "compare"])
def test_a_plugin_that_fails_in_one_recipe_hides_no_mistake_of_another(
    command, tiny_recipe, capsys, monkeypatch
):
    @wraps(Linear.__init__)
    def fail(self, *arguments, **parameters):
        raise KeyError("mine")

    text = tiny_recipe.read_text()
    variants = "variants: {failing: {head: linear}, wrong: {loss: {temperatur: 1}}}\n"
    Path("grid.yaml").write_text(text + variants)
    failed = "head: the part failed with KeyError: 'mine'"
    monkeypatch.setattr(Linear, "__init__", fail)
    assert main([command, "grid.yaml"]) == 2
    told = capsys.readouterr().err
    assert failed in told
    assert "loss.temperatur: nt_xent has no parameter" in told
    Path("grid.yaml").write_text(text + variants.replace("temperatur:", "temperature:"))
    assert main([command, "grid.yaml"]) == 3
    told = capsys.readouterr().err
    assert failed in told
    assert "temperatur" not in told


def test_runs_are_told_apart_by_as_much_of_their_folder_as_it_takes(runs, capsys):
    """Of one name and one seed, in folders of one name: never one run for the other."""
    folders = []
    for place, temperature, accuracy in (("x", 0.5, 0.8), ("y", 9, 0.9)):
        loss = {"loss": {"name": "nt_xent", "temperature": temperature}}
        folders.append(str(write_run(runs / place, "same", 0, accuracy, recipe=loss)))
    found = compared(capsys, *folders)
    assert [row["name"] for row in found["recipes"]] == folders
    assert [row["figures"]["knn_top1"]["mean"] for row in found["recipes"]] == [0.8, 0.9]
    assert found["differing"] == {"loss.temperature": {folders[0]: 0.5, folders[1]: 9}}


def test_runs_in_folders_of_one_name_are_judged_alike_or_not_ranked(runs, capsys):
    one, two = (
        write_run(runs / place, "same", seed, 0.8, summary={"split": split})
        for seed, (place, split) in enumerate((("x", "test"), ("y", "validation")))
    )
    two = two.rename(two.with_name(one.name))
    assert "split: test in" in refused(capsys, str(one), str(two))


def test_a_run_that_is_being_lengthened_has_not_finished(runs, capsys):
    folder = write_run(runs, "a", 0, 0.8, environment={"fingerprint": "of 20 epochs"})
    assert "has not finished" in refused(capsys, str(folder))


@pytest.mark.parametrize(
    ("file", "damage", "told"),
    [
        ("summary.json", {"trained": None}, "summary.json is not what a run writes: it has no 'trained'"),
        (
            "recipe.yaml",
            {"train": {"epochs": 2}},
            "recipe.yaml is not what a run writes: it has no 'train.seed'",
        ),
        ("recipe.yaml", {"evaluate": None}, "it has no 'evaluate'"),
    ],
)
def test_files_that_are_not_a_run_s_are_told(runs, capsys, file, damage, told):
    path = write_run(runs, "a", 0, 0.8) / file
    content = json.loads(path.read_text()) | damage
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    assert told in refused(capsys, str(path.parent))


def test_a_file_that_is_no_json_is_told(runs, capsys):
    folder = write_run(runs, "a", 0, 0.8)
    (folder / "environment.json").write_text("{")
    assert "environment.json is damaged" in refused(capsys, str(folder))


def test_unequal_seeds_are_noted(runs, capsys):
    folders = write_runs(runs, "a", BASE[:2]) + write_runs(runs, "b", BETTER)
    found = compared(capsys, *folders)
    assert "b: not the seeds of a; differences are over the shared ones." in found["notes"]
    assert found["recipes"][1]["figures"]["knn_top1"]["difference"]["seeds"] == 2


def test_a_recipe_and_a_run_of_its_name_are_compared(recipes, children, runs, capsys):
    (planned,) = plan([recipes[0]], 1, load_registry())
    finished = write_run(runs, "a", 0, 0.7, environment={"data": planned.data})
    recipe = json.loads((finished / "recipe.yaml").read_text())
    evaluate = planned.recipe["evaluate"]
    (finished / "recipe.yaml").write_text(json.dumps(recipe | {"evaluate": evaluate}))
    found = compared(capsys, recipes[0], str(finished), "--seeds", "1")
    assert [row["name"] for row in found["recipes"]] == ["a", finished.name]


def test_two_recipes_need_two_names(tiny_recipe, capsys):
    assert "two recipes are called 'tiny'" in refused(capsys, str(tiny_recipe), str(tiny_recipe))


def test_seeds_are_at_least_one(tiny_recipe, capsys):
    assert "--seeds is 0" in refused(capsys, str(tiny_recipe), "--seeds", "0")


# -- running ----------------------------------------------------------------------------------------


@pytest.fixture
def children(monkeypatch):
    """Runs that children would make, made by a fake; ``codes`` (name, seed) -> exit code other than 0."""
    made, codes = [], {}

    def run(recipe: Path, seed: int, folder: Path) -> int:
        made.append((recipe.stem, seed))
        if code := codes.get((recipe.stem, seed)):
            return code
        asked = {c.name: c for c in plan_of[-1]}[recipe.stem].asked[seed]
        write_run(folder.parent, folder.name.rpartition("-seed")[0], seed, 0.5 + seed / 10)
        shutil.rmtree(folder, ignore_errors=True)
        (folder.parent / f"{folder.name.rpartition('-seed')[0]}-seed{seed}").rename(folder)
        summary = json.loads((folder / "summary.json").read_text())
        judged = {"evaluate": asked.evaluate, "fingerprint": asked.fingerprint}
        (folder / "summary.json").write_text(json.dumps(summary | judged))
        environment = json.loads((folder / "environment.json").read_text())
        environment["fingerprint"] = asked.fingerprint
        (folder / "environment.json").write_text(json.dumps(environment))
        return 0

    plan_of = []
    monkeypatch.setattr(
        "contrastive.commands.compare.outcome.plan", lambda *a: plan_of.append(plan(*a)) or plan_of[-1]
    )
    monkeypatch.setattr(training, "_run", run)
    return made, codes


@pytest.fixture
def recipes(tiny_recipe) -> list[str]:
    for name in ("a", "b"):
        Path(f"{name}.yaml").write_text(tiny_recipe.read_text().replace("name: tiny", f"name: {name}"))
    return ["a.yaml", "b.yaml"]


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


def test_recipes_are_written_in_full_whoever_ran_them(recipes, children, runs, capsys):
    compared(capsys, *recipes, "--seeds", "1", "--out", "first")
    compared(capsys, *recipes, "--seeds", "1", "--out", "second")  # nothing is due
    for folder in ("first", "second"):
        assert [path.name for path in sorted(Path(folder, "recipes").iterdir())] == ["a.yaml", "b.yaml"]
    found = load_tree("second/recipes/a.yaml").root.plain()
    assert found["train"]["epochs"] == 3
    assert found["loss"]["name"] == "nt_xent"


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
    assert "the same command goes on" in capsys.readouterr().err
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
    assert "no run of b came to its end" in capsys.readouterr().err


def test_seeds_begin_at_the_recipe_s_own(recipes):
    (candidate,) = plan([recipes[0]], 2, load_registry(), ["train.seed=7"])
    assert list(candidate.folders) == [7, 8]


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
    assert (first.returncode, "the same command goes on" in error) == (130, True), error
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


def test_a_run_that_another_process_writes_is_awaited(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    told = []
    with ExitStack() as held:
        held.enter_context(locked(tmp_path))
        timer = threading.Timer(0.3, held.close)
        timer.start()
        training._wait_for_others(tmp_path, told.append)
        timer.join()
    training._wait_for_others(tmp_path, told.append)  # free now: nothing to tell
    assert told == [f"another process is writing to {tmp_path}; waiting for it"]


# -- small functions --------------------------------------------------------------------------------


def test_curves_are_means_of_epochs():
    lines = [
        {"epoch": 1, "loss": 4.0},
        {"epoch": 1, "loss": 2.0},
        {"epoch": 2, "loss": None, "knn_top1": 0.5},
    ]
    assert curves(lines) == {"loss": [(1, 3.0)], "knn_top1": [(2, 0.5)]}
    assert mean_curve([[(1, 2.0), (2, 4.0)], [(1, 4.0)]]) == [(1, 3.0), (2, 4.0)]


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


def test_pareto_front_by_its_definition():
    points = [(1, 5), (2, 4), (3, 7), (3, 6), (4, 7), (5, 9)]
    beaten = {p for p in points for q in points if q != p and q[0] <= p[0] and q[1] >= p[1]}
    assert pareto_front(points) == [p for p in points if p not in beaten]
