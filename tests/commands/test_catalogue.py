"""``contrastive list``, ``show`` and ``plugin list``."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from rich.console import Console

from contrastive.cli import main
from contrastive.commands.catalogue import (
    list_parts,
    list_plugins,
    render_list,
    render_part,
    render_plugins,
    show_part,
)
from contrastive.errors import UsageError
from contrastive.kinds import KINDS
from contrastive.recipe import shipped_recipes
from contrastive.registry import load_registry
from tests.support.command_line import json_of
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
    assert "its figures carry the id finetune/1" in out.getvalue()
    assert "id" not in show_part(fake_registry(), "loss", "nt_xent")


def test_an_unknown_kind_is_a_usage_error():
    with pytest.raises(UsageError, match="Did you mean 'loss'"):
        list_parts(fake_registry(), "losss")
