"""What is compared under which name, and what is refused before anything is trained."""

from __future__ import annotations

import json
from functools import wraps
from pathlib import Path

import pytest

from contrastive.cli import main
from contrastive.commands.compare.candidates import plan
from contrastive.heads import Linear
from contrastive.registry import load_registry
from tests.support.comparisons import BASE, compared, refused
from tests.support.fake_runs import PROTOCOLS, write_run, write_runs


def test_runs_of_one_name_and_different_recipes_go_by_their_folders(runs, capsys):
    cold = write_run(runs / "1", "same", 0, 0.8)
    hot = write_run(runs / "2", "same", 1, 0.8, recipe={"loss": {"name": "nt_xent", "temperature": 9}})
    found = compared(capsys, str(cold), str(hot))
    assert [row["name"] for row in found["recipes"]] == ["same-seed0", "same-seed1"]
    assert found["differing"] == {"loss.temperature": {"same-seed0": 0.5, "same-seed1": 9}}
    assert found["recipes"][1]["figures"]["knn_top1"]["difference"] is None  # no seed in common


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"environment": {"data": "fedcba98"}},
            "the data: a has image_folder with fingerprint 01234567, b has",
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
        ("summary.json", {"trained": None}, "summary.json has no 'trained', which every run writes"),
        (
            "recipe.yaml",
            {"train": {"epochs": 2}},
            "recipe.yaml has no 'train.seed', which every run writes",
        ),
        ("recipe.yaml", {"evaluate": None}, "recipe.yaml has no 'evaluate'"),
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


def test_two_recipes_need_two_names(tiny_recipe, capsys):
    assert "two recipes are called 'tiny'" in refused(capsys, str(tiny_recipe), str(tiny_recipe))


def test_seeds_are_at_least_one(tiny_recipe, capsys):
    assert "--seeds is 0" in refused(capsys, str(tiny_recipe), "--seeds", "0")


def test_a_recipe_and_a_run_of_its_name_are_compared(recipes, children, runs, capsys):
    (planned,) = plan([recipes[0]], 1, load_registry())
    finished = write_run(runs, "a", 0, 0.7, environment={"data": planned.data})
    recipe = json.loads((finished / "recipe.yaml").read_text())
    evaluate = planned.recipe["evaluate"]
    (finished / "recipe.yaml").write_text(json.dumps(recipe | {"evaluate": evaluate}))
    found = compared(capsys, recipes[0], str(finished), "--seeds", "1")
    assert [row["name"] for row in found["recipes"]] == ["a", finished.name]


def test_seeds_begin_at_the_recipe_s_own(recipes):
    (candidate,) = plan([recipes[0]], 2, load_registry(), ["train.seed=7"])
    assert list(candidate.folders) == [7, 8]


def test_runs_from_other_weights_of_one_name_are_two_candidates(runs, capsys):
    recipe = {"backbone": {"name": "timm", "weights": "w.pth"}}
    for name, digest in (("one", "a" * 64), ("two", "b" * 64)):
        weights = {"initial_weights": {"backbone.weights": digest}}
        write_run(runs / name, "base", 0, 0.8, recipe=recipe, environment=weights)
    out = compared(capsys, str(runs / "one/base-seed0"), str(runs / "two/base-seed0"))
    assert len(out["recipes"]) == 2
    assert [*out["differing"]] == ["sha256.backbone.weights"]
    assert any(note.startswith("w.pth (backbone.weights) was another file when") for note in out["notes"])


def test_sentences_for_readers_do_not_forbid_a_ranking(runs, capsys):
    remark = {"knn": {**PROTOCOLS["knn"], "remark": "k is 3"}, "linear": PROTOCOLS["linear"]}
    write_run(runs, "base", 0, 0.8)
    write_run(runs, "other", 0, 0.8, summary={"protocols": remark}, recipe={"loss": {"name": "margin"}})
    assert len(compared(capsys, *(str(runs / f"{n}-seed0") for n in ("base", "other")))["recipes"]) == 2
