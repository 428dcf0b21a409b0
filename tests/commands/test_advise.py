"""``contrastive advise``: three methods with reasons from the table of results, and recipes that work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from contrastive.cli import main
from contrastive.commands import advice
from contrastive.commands.advice import EqualTime, Situation, advise, rescale
from contrastive.recipe import MeasuredResult, MethodFacts, load_recipe
from contrastive.registry import load_registry

PAGE = Path(__file__).parents[2] / "docs" / "results.md"
SITUATION = Situation(
    dataset={"name": "fashion_mnist_sample"},
    images=8000,
    side=28,
    channels=1,
    labelled=0.0,
    mean=(0.3,),
    std=(0.4,),
    device="cpu",
    minutes=5,
)


def folder_of_images(folder: Path, count: int, side: tuple[int, int] = (40, 60)) -> Path:
    folder.mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (*side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("table", [*advice.RESNETS, *advice.TRANSFORMERS])
def test_its_tables_stand_in_the_page_of_results_with_recipes_to_extend(table):
    assert f"## {table.section}\n" in PAGE.read_text(encoding="utf-8")
    names = [name for name, _ in table.standings()]
    assert len(names) >= 3
    for name in names:
        load_recipe(f"cifar10/{name}-{table.suffix}", (), load_registry())


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch):
    """A table of invented results in place of the pages'."""

    def put(linear: dict[str, str], transformers: dict[str, str]):
        facts = {
            name: MethodFacts(
                results=[
                    MeasuredResult(recipe=name, section=section, seeds=3, linear=table[name])
                    for section, table in (("A", linear), ("B", transformers))
                    if name in table
                ]
            )
            for name in {*linear, *transformers}
        }
        monkeypatch.setattr(advice, "method_facts", lambda name: facts.get(name, MethodFacts()))
        monkeypatch.setattr(advice, "RESNETS", (EqualTime("A", 3, "ResNet-10", "cpu"),))
        monkeypatch.setattr(advice, "TRANSFORMERS", (EqualTime("B", 3, "transformer", "vit-cpu"),))

    return put


def test_the_best_the_best_of_another_family_and_a_transformer(results):
    results({"simclr": "49.2 ± 0.1", "moco_v2": "50.1", "byol": "42.3"}, {"mae": "43.7", "dino": "37.6"})
    first, second, third = advise(SITUATION, load_registry())
    assert [first.method, second.method, third.method] == ["moco_v2", "byol", "mae"]
    assert "50.1 %" in first.reason
    assert "of 3 methods" in first.reason
    assert "42.3 %" in second.reason
    assert third.recipe == "cifar10/mae-vit-cpu"


def test_labels_take_the_third_place(results):
    results({"simclr": "49.2", "byol": "42.3"}, {"mae": "43.7"})
    methods = [each.method for each in advise(replace(SITUATION, labelled=0.25), load_registry())]
    assert methods == ["simclr", "byol", "supcon"]
    assert "25.0 %" in advise(replace(SITUATION, labelled=0.25), load_registry())[2].reason


def test_of_two_tables_the_one_of_the_nearest_length_counts(results, monkeypatch):
    results({"simclr": "49.2", "byol": "42.3"}, {"byol": "60.0", "simclr": "10.0", "moco_v2": "5.0"})
    tables = (EqualTime("A", 3, "ResNet-10", "cpu"), EqualTime("B", 20, "ResNet-10", "cpu"))
    monkeypatch.setattr(advice, "RESNETS", tables)
    labelled = replace(SITUATION, labelled=1.0)
    assert advise(replace(labelled, minutes=5), load_registry())[0].method == "simclr"
    assert advise(replace(labelled, minutes=60), load_registry())[0].method == "byol"


def test_methods_whose_plugin_is_missing_are_not_named(results, monkeypatch):
    results({"simclr": "40.0", "byol": "42.3", "moco_v2": "50.0"}, {"simclr": "43.7"})
    own = advice.method_facts
    plugins = {"moco_v2": ["contrastive-nowhere"]}
    monkeypatch.setattr(
        advice,
        "method_facts",
        lambda name: own(name).model_copy(update={"plugins": plugins.get(name, [])}),
    )
    assert [each.method for each in advise(SITUATION, load_registry())][:2] == ["byol", "simclr"]


@pytest.mark.parametrize(
    ("side", "device", "minutes", "view", "patch"),
    [
        (28, "cpu", 5, 28, 4),
        (33, "cpu", 5, 32, 4),
        (500, "cpu", 5, 32, 4),
        (500, "cpu", 90, 64, 8),
        (45, "cpu", 90, 40, 5),
        (500, "cuda", 90, 224, 28),
        (5, "cpu", 5, 8, 4),
    ],
)
def test_views_are_no_larger_than_images_and_what_the_device_can_do(side, device, minutes, view, patch):
    own = replace(SITUATION, side=side, device=device, minutes=minutes)
    assert (own.view_side, own.patch) == (view, patch)
    assert view % patch == 0


def test_every_size_in_pixels_is_scaled_in_whole_patches():
    augmentation = {
        "name": "views",
        "of": [
            {"times": 2, "pipeline": {"name": "simclr", "size": 32, "scale": [0.2, 1.0]}},
            [{"name": "random_resized_crop", "size": {"from": 16, "to": 32}}, {"name": "shift", "pixels": 4}],
        ],
    }
    assert rescale(augmentation, 2.0, 8) == {
        "name": "views",
        "of": [
            {"times": 2, "pipeline": {"name": "simclr", "size": 64, "scale": [0.2, 1.0]}},
            [{"name": "random_resized_crop", "size": {"from": 32, "to": 64}}, {"name": "shift", "pixels": 8}],
        ],
    }


def test_a_folder_of_few_photographs(tmp_path, capsys):
    photos = folder_of_images(tmp_path / "photos", 40)
    out = tmp_path / "advice"
    assert main(["advise", str(photos), "--minutes", "90", "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (
        report["situation"] | {"images": 40, "side": 40, "channels": 3, "labelled": 0} == report["situation"]
    )
    files = [Path(each["file"]) for each in report["advice"]]
    assert sorted(files) == sorted(out.iterdir())
    assert len(files) == 3
    for file, each in zip(files, report["advice"], strict=True):
        assert yaml.safe_load(file.read_text()) == each["recipe"]
        recipe = load_recipe(file, (), load_registry())
        assert recipe.train.minutes == 90
        assert recipe.train.batch_size == 8
        assert recipe.dataset.dump()["root"] == str(photos)


def test_it_prints_reasons_and_the_next_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["advise", "fashion_mnist_sample", "--minutes", "2", "--out", str(tmp_path / "a")]) == 0
    text = capsys.readouterr().out
    assert text.startswith("8,000 grey images of 28 px, 100.0 % with labels; 2 min on ")
    assert "1. simclr" in text
    assert "3. supcon" in text
    assert "contrastive run" in text
    assert max(map(len, text.splitlines())) <= 80 + len(str(tmp_path))


def test_nothing_is_written_over(tmp_path, capsys):
    (tmp_path / "mine").write_text("")
    assert main(["advise", "fashion_mnist_sample", "--minutes", "2", "--out", str(tmp_path)]) == 2
    assert "is not empty; name another folder with --out" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_data_set_that_no_recipe_can_use_leaves_nothing(tmp_path, capsys):
    photos = folder_of_images(tmp_path / "photos", 1)
    assert main(["advise", str(photos), "--minutes", "2", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize("minutes", ["0", "-1", "soon", "inf", "nan"])
def test_minutes_that_are_none(minutes, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["advise", "fashion_mnist_sample", f"--minutes={minutes}"])
    assert f"must be a number above 0, not '{minutes}'" in capsys.readouterr().err
