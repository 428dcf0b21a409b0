"""``contrastive list methods``, ``show method``, and the outline of a recipe from which they derive."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from contrastive.build import build
from contrastive.cli import main
from contrastive.commands.methods import list_methods, render_method, render_methods, show_method
from contrastive.commands.objectives import ObjectivesReport, passes_of
from contrastive.commands.outline import Outline, numbers_text
from contrastive.recipe import load_recipe, shipped_methods
from contrastive.registry import load_registry
from tests.support.command_line import json_of, refused

pytestmark = pytest.mark.usefixtures("elsewhere")


def outline(name: str, **sets) -> Outline:
    return Outline(
        load_recipe(name, {key.replace("__", "."): value for key, value in sets.items()}, load_registry())
    )


def rows(name: str, **sets) -> dict[str, str]:
    """The composition of a recipe of one objective."""
    (own,) = outline(name, **sets).composition()
    return own


# -- the commands -------------------------------------------------------------------------------------


def test_list_has_every_method_with_its_family_plugins_and_paper(capsys):
    methods = {method["name"]: method for method in json_of(capsys, "list", "methods")["method"]}
    assert list(methods) == list(shipped_methods())
    moco = methods["moco_v2"]
    assert (moco["title"], moco["family"], moco["plugins"]) == (
        "MoCo v2",
        "contrastive",
        ["contrastive-moco"],
    )
    assert moco["missing"] == []
    assert moco["paper"]["citation"] == "Chen et al. 2020"
    assert moco["paper"]["address"] == "https://arxiv.org/abs/2003.04297"
    assert methods["simclr_queue"]["paper"] is None
    assert methods["ibot"]["summary"].startswith("DINO on large crops")
    assert methods["dinov2"]["summary"].startswith("iBOT with a head")  # a name keeps its letters


def test_show_has_composition_formula_costs_numbers_and_recipe(capsys):
    method = json_of(capsys, "show", "method", "simclr")
    assert method["composition"] == outline("simclr").composition()
    assert "Σ" in method["formula"]
    assert any(number["value"] == 69.3 for number in method["numbers"])
    assert {
        "recipe": "simclr",
        "knn": "76.7 (76.2 to 77.0)",
        "linear": "85.4 (85.0 to 85.9)",
        "seeds": 3,
    }.items() <= method["results"][0].items()
    assert method["recipe"].endswith("simclr.yaml")
    assert {"simclr", "cifar10/simclr-cpu", "imagenet/simclr"} <= set(method["recipes"])
    assert main(["show", "methods", "simclr"]) == 0
    text = capsys.readouterr().out
    for heading in (
        "composition",
        "formula",
        "when to use it",
        "what it costs",
        "traps",
        "published",
        "recipes",
    ):
        assert f"\n{heading}\n" in text


def test_an_unknown_method_is_refused_with_the_nearest_names(capsys):
    assert "there is no method 'simclrr'. Did you mean 'simclr'" in refused(
        capsys, "show", "method", "simclrr"
    )
    message = refused(capsys, "show", "method", "moco")
    assert "'moco_v1'" in message
    assert "'moco_v2'" in message
    assert "`contrastive list methods` lists them" in refused(capsys, "show", "method", "xyz")
    assert "show method needs a name" in refused(capsys, "show", "method")
    assert "Did you mean 'method'?" in refused(capsys, "list", "metod")


def test_a_method_whose_plugin_is_missing_says_what_to_install():
    registry = load_registry(plugins=False)
    methods = {method["name"]: method for method in list_methods(registry)}
    assert methods["mochi"]["missing"] == ["contrastive-moco", "contrastive-negatives"]
    assert methods["simclr"]["missing"] == []
    out = StringIO()
    method = show_method(registry, "moco_v2")
    assert method["composition"] is None
    assert method["costs"] is None
    render_method(method, Console(file=out, width=200))
    text = " ".join(out.getvalue().split())
    assert "contrastive-moco (not installed: pip install contrastive-moco)" in text
    assert "formula L = mean_i" in text


@pytest.mark.ci
@pytest.mark.parametrize("width", [80, 160])
def test_nothing_is_cut_or_wider_than_the_terminal(width):
    registry, out = load_registry(), StringIO()
    console = Console(file=out, width=width)
    methods = list_methods(registry)
    render_methods(methods, console)
    for name in shipped_methods():
        render_method(show_method(registry, name), console)
    lines = out.getvalue().splitlines()
    assert [line for line in lines if len(line) > width] == []
    assert [line for line in lines if line != line.rstrip()] == []
    words = " ".join(out.getvalue().split())
    for method in methods:
        assert f"{method['name']} {method['summary']}" in words


# -- the outline --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "work"), [("simclr", 6), ("moco_v2", 4), ("byol", 8), ("simsiam", 6), ("distill", 4)]
)
def test_passes_of_whole_views_add_up_to_the_known_work(recipe, work):
    assert outline(recipe).work == work


def test_small_views_and_patches_left_out_count_by_their_share():
    small = (12 / 28) ** 2
    assert outline("dino").work == pytest.approx(3 * (2 + 2 * small) + 2)
    assert outline("mae").work == pytest.approx(3 * 12 / 49)  # 37 of 49 patches are hidden
    assert outline("simmim").work == 3  # replaced patches are encoded


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("simclr", "moco_v2", "ibot") else pytest.mark.ci)
        for name in shipped_methods()
        if name not in ("guided", "distill", "dinov2_gram")  # they need weights
    ],
)
def test_passes_are_those_of_the_built_method(name):
    recipe = load_recipe(name, (), load_registry())
    data, parts = build(recipe)
    report = ObjectivesReport(recipe, parts, data.train.channels)
    passes = passes_of(parts.method, report.views, report.patches)
    online = sorted(
        (view, each["hide"] == "drop")
        for each in passes
        if each["encoder"] == "online"
        for view in each["views"]
    )
    target = sorted(view for each in passes if each["encoder"] == "target" for view in each["views"])
    own = Outline(recipe)
    assert own.online_passes == online
    assert sorted(own.target_passes) == target


def test_who_makes_the_keys():
    assert rows("simclr")["keys"] == "views 0, 1 (28 px) -> encoder (shared) -> head mlp"
    assert rows("simsiam")["keys"] == "views 0, 1 (28 px) -> encoder (stop_grad) -> head mlp -> stop-gradient"
    assert rows("moco_v2")["keys"] == (
        "view 1 (28 px) -> copy of the encoder (split_bn of ema) -> head mlp -> stop-gradient"
    )
    assert rows("mae")["keys"] == "view 0 (28 px) -> no network (own_pixels)"
    assert rows("mae")["queries"] == (
        "view 0 (28 px, 76 % of the patches left out) -> encoder -> predictor decoder"
    )
    first, second = outline("distill").composition()
    assert first["keys"] == "view 0 (28 px) -> frozen network (stock) -> stop-gradient"
    assert second["compares"] == "patches, each view with itself"


def test_what_a_query_is_contrasted_with():
    assert "negatives" not in rows("byol")
    assert rows("moco_in_batch")["negatives"] == (
        "other images of the batch (in_batch); 4,096 keys of earlier batches (queue)"
    )
    assert "2,000 keys" in rows("moco_v2", negatives__size=2000)["negatives"]
    assert "a frozen guide leaves out" in rows("guided")["negatives"]
    assert rows("byol_negatives")["loss"] == "regression + 0.1 nt_xent"


def test_numbers_of_views():
    assert numbers_text([0, 1]) == "0, 1"
    assert numbers_text([2, 3, 4, 5]) == "2 to 5"
    assert numbers_text([0, 2, 4]) == "0, 2, 4"
