"""``contrastive check`` of a recipe with objectives: passes, widths, tokens, cost and warnings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from contrastive.build import build
from contrastive.commands.check import check, render
from contrastive.commands.objectives import ObjectivesReport
from contrastive.parts import Backbone
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry
from tests.support.masked_recipes import CONTRAST, VIT, recipe_of, write
from tests.support.teachers import export_transformer

pytestmark = pytest.mark.usefixtures("elsewhere")


def checked(recipe: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return check(write(Path("recipe.yaml"), {**recipe, **keys}))


def test_each_objective_has_its_widths_rows_and_passes(tiny_data: Path):
    report = checked(recipe_of(tiny_data, "simclr_mae"))
    contrast, rebuild = report["objectives"].values()
    assert contrast["widths"] == {"input": 24, "z": 8, "queries": 8, "keys": 8}
    assert contrast["queries_per_image"] == [2, 2]
    assert rebuild["widths"] == {"input": 24, "z": 24, "queries": 48, "keys": 48}
    assert rebuild["queries_per_image"] == [12, 12]
    assert rebuild["keys_per_image"] == 16
    assert rebuild["passes"] == {"online": 1, "target": 0}
    whole, masked = report["passes"]
    assert (whole["views"], whole["hide"], whole["objectives"]) == ([0, 1], "none", ["contrast"])
    assert (masked["views"], masked["hide"], masked["hidden"]) == ([2], "drop", [12, 12])
    assert "warnings" not in report, "the class token is compared"


class Recorder:
    """Counts the passes of every backbone in a method, the online one's and those of targets."""

    def __init__(self, method: torch.nn.Module):
        self.counts: dict[str, int] = {"online": 0, "target": 0}
        for name, module in method.named_modules():
            if isinstance(module, Backbone):
                encoder = "online" if name == "backbone" else "target"
                for call in ("forward", "tokens"):
                    setattr(module, call, self.recorded(getattr(module, call), encoder))

    def recorded(self, call: Any, encoder: str) -> Any:
        def recording(*arguments: Any) -> Any:
            self.counts[encoder] += 1
            return call(*arguments)

        return recording


@pytest.mark.parametrize(
    ("name", "target"), [("simclr_mae", None), ("dense", "shared"), ("ijepa", "ema"), ("mae", "stop_grad")]
)
def test_the_passes_are_those_of_a_step(name: str, target: str | None, tiny_data: Path):
    tree = recipe_of(tiny_data, name)
    if (
        target
    ):  # its second view is not an online one; without an encoder of its own the online one encodes it
        tree["augmentation"]["of"].append({"times": 2, "pipeline": {"name": "simclr", "size": 16}})
        first = {"mae": 1, "ijepa": 1, "simclr_mae": 3, "dense": 2}[name]
        asymmetric = {"online": [first], "target": [first + 1]}
        tree["objectives"]["other"] = {**CONTRAST, "views": asymmetric, "target": target}
    recipe = load_recipe(write(Path("recipe.yaml"), tree), (), load_registry())
    data, parts = build(recipe)
    report = ObjectivesReport(recipe, parts, data.train.channels)
    recorder = Recorder(parts.method)
    parts.method([*report.views.values()], torch.arange(2))
    passes = report.report()["passes"]
    for encoder, count in recorder.counts.items():
        assert sum(each["encoder"] == encoder for each in passes) == count, passes


def test_the_passes_of_a_guide_are_counted(tiny_data: Path):
    """A guide encodes the views of both sides; the pixels that the other objective predicts need no pass."""
    tree = recipe_of(tiny_data, "simclr_mae")
    guide = {"name": "stock", "weights": str(export_transformer(Path("guide"), channels=3))}
    tree["objectives"]["contrast"]["negatives"] = ["in_batch", {"name": "guided", "guide": guide}]
    report = checked(tree)
    guided = [(each["views"], each["objectives"]) for each in report["passes"] if each["encoder"] == "target"]
    assert guided == [([0], ["contrast"]), ([1], ["contrast"])]
    assert report["objectives"]["contrast"]["passes"]["target"] == 2


def test_numbers_that_vary_by_epoch_are_a_range(tiny_data: Path):
    tree = recipe_of(tiny_data, "mae")
    tree["augmentation"]["of"][0][2] = {"name": "mask_blocks", "ratio": [0.1, 0.6]}
    tree["train"]["epochs"] = 50
    report = checked(tree)
    least, most = report["objectives"]["rebuild"]["queries_per_image"]
    assert least < most
    assert report["passes"][0]["hidden"] == [least, most]


def test_a_class_token_that_no_objective_compares_is_named(tiny_data: Path):
    tree = recipe_of(tiny_data, "mae")
    [warning] = checked(tree)["warnings"]
    assert "h is the class token, which no objective compares" in warning
    assert "feature: patches for knn" in warning
    assert "warnings" not in checked(recipe_of(tiny_data, "ijepa")), "h is the mean of the patches"


def test_the_work_of_patches_against_a_batch_is_named(tiny_data: Path):
    [warning] = checked(recipe_of(tiny_data, "dense"), evaluate={"knn": "none"})["warnings"]
    assert warning.startswith("dense: each of the 512 patches of a batch is contrasted with 512, so 262,144")


def test_comparisons_that_accumulate_are_counted(tiny_data: Path):
    tree = recipe_of(tiny_data, "dense")
    tree["train"] = {"epochs": 1, "batch_size": 8, "accumulate": 11, "precision": "fp32"}
    memory = checked(tree)["memory_mib"]
    numbers = 2 * 16 * 24  # of queries, and of keys, which are there as directions and as they are
    assert memory["accumulated_comparisons"] == round(10 * 8 * 3 * numbers * 4 / 2**20, 1) > 0


def test_a_shared_part_is_named_and_the_table_fits_a_terminal(
    tiny_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    tree = recipe_of(tiny_data, "simclr_mae")
    tree["head"] = tree["objectives"]["contrast"].pop("head")
    tree["objectives"]["rebuild"]["head"] = "none"
    report = checked(tree)
    monkeypatch.setenv("COLUMNS", "80")
    render(report)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[1:])) <= 80
    out = " ".join(" ".join(lines).replace("│", " ").split())
    assert "head: mlp (top level), 24 -> 8" in out
    assert "target: own_pixels (own), keys of 48" in out
    assert "online: view 2, 16 x 16, 12 of 16 patches left out (rebuild)" in out


def test_a_recipe_of_one_image_objective_is_reported_as_before(tiny_recipe: Path):
    report = check(tiny_recipe)
    assert not {"objectives", "passes", "warnings"} & report.keys()
    assert set(report["memory_mib"]) == {"weights_gradients_optimizer", "activations", "total"}


def test_a_network_without_a_class_token_needs_no_warning(tiny_data: Path):
    tree = recipe_of(tiny_data, "dense")
    tree["evaluate"] = {"knn": {"k": 5}}
    tree["backbone"] = {**VIT, "options": {**VIT["options"], "global_pool": "avg"}}
    assert not any("class token" in warning for warning in checked(tree)["warnings"])
