"""``contrastive list``, ``show`` and ``plugin list``."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from contrastive.cli import main
from contrastive.commands.catalogue import (
    PLURALS,
    list_parts,
    list_plugins,
    render_list,
    render_part,
    render_plugins,
    show_part,
)
from contrastive.commands.docstrings import without_marks
from contrastive.errors import UsageError
from contrastive.kinds import KINDS
from contrastive.recipe import load_recipe, shipped_recipes
from contrastive.recipe.reader import read_yaml
from contrastive.registry import Problem, load_registry
from tests.support.command_line import json_of, refused
from tests.support.fake_parts import fake_registry

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_list_names_every_kind_and_the_shipped_recipes(capsys: pytest.CaptureFixture[str]):
    listing = json_of(capsys, "list")
    names = {kind: {part["name"] for part in parts} for kind, parts in listing.items()}
    assert {"nt_xent", "nt_logistic", "margin"} <= names["loss"]
    assert {"fashion_mnist_sample", "image_folder", "parquet", "torchvision", "hugging_face"} <= names[
        "dataset"
    ]
    assert {"simclr", "cifar10/simclr-cpu"} <= names["recipe"]
    assert main(["list", "loss"]) == 0
    assert "nt_xent" in capsys.readouterr().out


@pytest.mark.ci
def test_every_listed_part_can_be_shown(capsys: pytest.CaptureFixture[str]):
    for kind, parts in json_of(capsys, "list").items():
        for part in parts:
            if kind == "recipe":
                continue
            shown = json_of(capsys, "show", kind, part["name"])
            assert shown["name"] == part["name"]
            for parameter in shown["parameters"]:
                assert parameter["doc"], f"{kind} {part['name']}: {parameter['name']} is not documented"


def test_show_prints_parameters_types_and_defaults(capsys: pytest.CaptureFixture[str]):
    assert main(["show", "loss", "nt_xent"]) == 0
    shown = capsys.readouterr().out
    assert "temperature" in shown
    assert "0.5" in shown


def test_plugin_list(capsys: pytest.CaptureFixture[str]):
    assert main(["plugin", "list"]) == 0
    assert json_of(capsys, "plugin", "list") is not None


def test_list_show_and_plugin_list_are_plain_data_and_render():
    registry = load_registry(plugins=False)
    out = StringIO()
    console = Console(file=out, width=200)
    listing, plugins = list_parts(registry), list_plugins(registry)
    assert list(listing) == [*KINDS, "recipe"]
    assert {recipe["name"] for recipe in listing["recipe"]} == set(shipped_recipes())
    render_list(listing, console)
    render_plugins(plugins, console)
    for entry in registry:
        shown = show_part(registry, entry.kind, entry.name)
        json.dumps([listing, plugins, shown], allow_nan=False)
        assert shown["summary"], entry
        assert all(parameter["doc"] for parameter in shown["parameters"]), (
            f"{entry} has an undocumented parameter"
        )
        render_part(shown, console)
        assert f"{entry.kind}: {entry.name}" in out.getvalue()
    assert "nt_xent" in out.getvalue()


def test_show_tells_types_and_defaults():
    part = show_part(fake_registry(), "augmentation", "crop")
    assert part["parameters"] == [
        {"name": "size", "type": "integer > 0", "required": True, "doc": "side of the crop, in pixels."},
        {
            "name": "scale",
            "type": "list of number, number",
            "required": False,
            "default": [0.08, 1.0],
            "doc": "least and greatest share of the area.",
        },
    ]
    assert "Args" not in part["doc"]


def test_show_tells_the_id_of_a_protocol():
    out = StringIO()
    part = show_part(load_registry(plugins=False), "protocol", "finetune")
    assert part["id"] == "finetune/1"
    render_part(part, Console(file=out, width=200))
    assert "its metrics carry the id finetune/1" in out.getvalue()
    assert "id" not in show_part(fake_registry(), "loss", "nt_xent")


def test_an_unknown_kind_is_a_usage_error():
    with pytest.raises(UsageError, match="Did you mean 'loss'"):
        list_parts(fake_registry(), "losss")


@pytest.mark.parametrize("plural", [plural for plural in PLURALS if plural != "encoders"])
def test_list_and_show_take_the_plural_of_a_kind(plural: str, capsys: pytest.CaptureFixture[str]):
    (kind,), (parts,) = zip(*json_of(capsys, "list", plural).items(), strict=True)
    assert kind == PLURALS[plural]
    assert json_of(capsys, "list", kind) == {kind: parts}
    assert json_of(capsys, "show", plural, parts[0]["name"])


def test_plurals_are_english():
    assert list(PLURALS) == [
        "datasets", "augmentations", "backbones", "heads", "targets", "negatives", "losses", "optimizers",
        "callbacks", "protocols", "recipes", "methods", "encoders",
    ]  # fmt: skip


@pytest.mark.parametrize("arguments", [["simclr"], ["recipe", "simclr"], ["recipes", "simclr"]])
def test_show_prints_a_recipe_in_full_as_yaml(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["show", *arguments]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# ")
    assert text.splitlines()[0].endswith("simclr.yaml, with every default")
    recipe = load_recipe("simclr", (), load_registry())
    assert read_yaml(text, "shown.yaml")[0].plain() == recipe.dump()
    assert json_of(capsys, "show", *arguments)["recipe"] == recipe.dump()


def test_show_names_what_a_recipe_extends(capsys: pytest.CaptureFixture[str]):
    Path("mine.yaml").write_text("extends: moco_v2\nname: mine\n")
    shown = json_of(capsys, "show", "mine.yaml")
    assert shown["file"] == "mine.yaml"
    assert [Path(file).name for file in shown["extends"]] == ["moco_v2.yaml", "moco_v1.yaml", "simclr.yaml"]
    assert main(["show", "mine.yaml"]) == 0
    assert "moco_v2.yaml\n#   extends " in capsys.readouterr().out


def test_show_refuses_what_is_not_one_recipe(capsys: pytest.CaptureFixture[str]):
    assert "show loss needs a name; `contrastive list loss` lists them" in refused(capsys, "show", "losses")
    assert "nt_xent is a part, not a recipe; run `contrastive show loss nt_xent`" in refused(
        capsys, "show", "nt_xent"
    )
    assert "stands for several recipes" in refused(capsys, "show", "studies/temperature")
    assert "Did you mean 'simclr'?" in refused(capsys, "show", "simclrr")


def test_summaries_of_shipped_recipes_are_whole_sentences():
    assert [summary for summary in shipped_recipes().values() if not summary.endswith(".")] == []


@pytest.mark.parametrize("width", [80, 160])
def test_nothing_is_cut_or_wider_than_the_terminal(width: int, monkeypatch, capsys):
    """Only a path, which has no place to break, may be longer."""
    monkeypatch.setenv("COLUMNS", str(width))
    registry, out = load_registry(plugins=False), StringIO()
    registry.problems.append(Problem("contrastive-framework", "0", "a reason " * 20))
    console = Console(file=out, width=width)
    listing = list_parts(registry)
    render_list(listing, console)
    render_plugins(list_plugins(registry), console)
    for entry in registry:
        render_part(show_part(registry, entry.kind, entry.name), console)
    for name in ("simclr", "moco_v1", "cifar10/moco_v3-vit"):
        assert main(["show", name]) == 0
    text = out.getvalue() + capsys.readouterr().out
    long = [line for line in text.splitlines() if len(line) > width]
    assert [line for line in long if "/" not in line] == []
    assert [line for line in text.splitlines() if line != line.rstrip()] == []
    words = " ".join(text.split())
    for part in [part for parts in listing.values() for part in parts]:
        assert f"{part['name']} {without_marks(part['summary'])}" in words


def test_encoders_are_listed_with_their_licences(capsys: pytest.CaptureFixture[str]):
    (encoder,) = json_of(capsys, "list", "encoder", "vit_small_patch16_dinov3.lvd1689m")["encoder"]
    assert encoder == {
        "name": "vit_small_patch16_dinov3.lvd1689m",
        "size": 256,
        "licence": "dinov3-license",
    }
    assert main(["list", "encoders", "resnet10t*"]) == 0
    line, _, end = capsys.readouterr().out.strip().splitlines()
    assert line == "resnet10t.c3_in1k   176 px  apache-2.0"
    assert end.startswith("1 encoder; licences as timm records them.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "encoder", "nothing*"], "timm has no pretrained weights called 'nothing*'"),
        (["list", "loss", "nt*"], "only encoders are listed by a pattern: `contrastive list encoder"),
        (["show", "encoder", "resnet18.a1_in1k"], "encoders are only listed; `contrastive evaluate ENCODER`"),
    ],
)
def test_what_encoders_are_not_listed_for(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
