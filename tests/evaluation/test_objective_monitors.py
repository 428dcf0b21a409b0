"""Monitors and alarms of each objective: of other heads, and of patches."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import contrastive
from contrastive.build import build
from contrastive.errors import RecipeError
from contrastive.evaluation import Alarms
from contrastive.evaluation.objective_monitors import PATCH_MONITORS, monitor_names, patch_monitors
from contrastive.heads import Linear, NoHead
from contrastive.kinds import MONITORS
from contrastive.losses import NTXent
from contrastive.monitors import effective_rank
from contrastive.negatives import InBatch
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry
from contrastive.targets import SharedEncoder
from contrastive.training import Method, Objective
from contrastive.views import Tokens
from tests.support.masked_recipes import CONTRAST, recipe_of, views, write
from tests.support.patches import TinyPatches

G, GRID = 6, (3, 4)


def objective(name: str, level: str = "patch", head: torch.nn.Module | None = None) -> Objective:
    losses = [(1.0, NTXent(0.5))]
    head = head or NoHead(G)
    return Objective(head, None, SharedEncoder(), [InBatch()], losses, name=name, level=level)  # type: ignore[arg-type]


def tokens_of(patches: Tensor) -> Tokens:
    return Tokens(patches.mean(1), patches[:, :0], patches, None, GRID)


def test_monitors_of_patches_tell_images_and_positions_apart():
    free = torch.randn(50, 12, G)
    within, across, dead, rank = (
        patch_monitors(objective("a"), tokens_of(free))[key] for key in PATCH_MONITORS
    )
    assert within == pytest.approx(1 / math.sqrt(G), rel=0.1)
    assert across == pytest.approx(1 / math.sqrt(G), rel=0.1)
    assert dead == 0
    assert rank == pytest.approx(effective_rank(free.flatten(0, 1)))
    one_image = free[:1].expand(50, -1, -1)  # the same picture everywhere
    assert patch_monitors(objective("a"), tokens_of(one_image))["std_across_images"] < 1e-6
    half = torch.cat([free[:25], free[25:, :1].expand(-1, 12, -1)])
    assert patch_monitors(objective("a"), tokens_of(half))["dead_patches"] == 0.5
    assert all(
        math.isnan(patch_monitors(objective("a"), tokens_of(torch.full((4, 12, G), torch.nan)))[key])
        for key in PATCH_MONITORS
    )


def test_wide_heads_read_fewer_images_and_only_some_patches():
    seen: list[tuple[int, ...]] = []

    class Wide(NoHead):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(tuple(x.shape))
            return x

    head = Wide(G)
    head.out_features = 1 << 18
    patch_monitors(objective("a", head=head), tokens_of(torch.randn(50, 12, G)))
    assert seen == [(32 * 12, G)]


def alarms_of(method: Method, metrics: dict[str, float]) -> list[str]:
    warnings: list[str] = []
    Alarms(100).evaluated(SimpleNamespace(method=method, warn=warnings.append), metrics)  # type: ignore[arg-type]
    return warnings


def test_each_objective_has_its_alarm():
    objectives = [objective("whole", "image", Linear(G, 4)), objective("dense"), objective("other", "image")]
    method = Method.of(TinyPatches(), objectives, {}, True)
    healthy = {
        "embedding_std": 0.5, "embedding_norm": 1.0, "effective_rank": 5.0,
        "dense/std_within_images": 0.4, "dense/std_across_images": 0.4, "dense/effective_rank": 5.0,
        "other/embedding_std": 0.4, "other/embedding_norm": 1.0,
    }  # fmt: skip
    assert alarms_of(method, healthy) == []
    for change, told in (
        ({"dense/std_within_images": 0.01}, "dense: the patches of an image have collapsed"),
        ({"dense/std_across_images": 0.01}, "dense: the patches have collapsed to their positions"),
        ({"dense/effective_rank": 1.1}, "dense: the patches have collapsed to few directions"),
        ({"other/embedding_std": 0.001}, "other: the embeddings have collapsed"),
        ({"other/embedding_norm": 1e6}, "other: the embeddings are exploding"),
        ({"embedding_std": 0.001}, "the embeddings have collapsed"),
    ):
        [warning] = alarms_of(method, healthy | change)
        assert warning.startswith(told)
    both = {"dense/std_within_images": 0.01, "dense/std_across_images": 0.01}
    assert "nearly every one gets the same vector" in alarms_of(method, healthy | both)[0]


def test_a_run_logs_the_monitors_of_every_objective(tiny_data: Path, tmp_path: Path):
    tree = recipe_of(tiny_data, "simclr_mae")
    tree["objectives"]["second"] = {**CONTRAST, "views": views(0, 1)}
    run = contrastive.run(write(tmp_path / "recipe.yaml", tree), out=tmp_path / "run")
    [line] = [line for line in run.metrics if "protocols" in line]
    names = monitor_names(build(load_recipe(tmp_path / "recipe.yaml", (), load_registry()))[1].method)
    assert set(names) <= line.keys()
    assert {*MONITORS, "second/alignment", *(f"rebuild/{name}" for name in PATCH_MONITORS)} == {
        *MONITORS, "second/alignment", *names
    } - {"second/uniformity", "second/embedding_std", "second/embedding_norm"}  # fmt: skip
    assert set(names) == run.summary["monitors"].keys()


@pytest.mark.parametrize(("metric", "refused"), [("alignment", True), ("rebuild/dead_patches", False)])
def test_without_images_there_are_no_monitors_of_z(
    metric: str, refused: bool, tiny_data: Path, tmp_path: Path
):
    tree = recipe_of(tiny_data, "mae")
    tree["callbacks"] = [{"name": "early_stopping", "figure": metric}]
    recipe = load_recipe(write(tmp_path / "recipe.yaml", tree), (), load_registry())
    if not refused:
        build(recipe)
        return
    with pytest.raises(
        RecipeError, match="reads 'alignment', which evaluations during training do not report"
    ):
        build(recipe)
