"""BYOL's loss and views against plain float64, and what its target does."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from byol_helpers import write_recipe
from contrastive_byol import BYOL, MeanRegression, Regression
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import contrastive
from contrastive.augmentations import Key
from contrastive.comparison import Comparison
from contrastive.errors import RecipeError
from contrastive.heads import MLP, Linear
from contrastive.negatives import NoNegatives
from contrastive.parts import Backbone, Loss
from contrastive.targets import EMA
from contrastive.training import Checkpoints, Method
from contrastive.values import Progress
from tests.support.tiny import write_data


def cosine(p: Tensor, k: Tensor) -> float:
    dot = sum(float(a) * float(b) for a, b in zip(p, k, strict=True))
    return dot / math.sqrt(sum(float(a) ** 2 for a in p) * sum(float(b) ** 2 for b in k))


@settings(deadline=None, derandomize=True, max_examples=30)
@given(b=st.integers(1, 5), d=st.integers(1, 4), pairs=st.sampled_from([None, [(0, 1)], [(1, 0)]]))
def test_the_loss_is_the_sum_over_pairs_of_2_minus_2_cos(b: int, d: int, pairs: list | None):
    generator = torch.Generator().manual_seed(10 * b + d)
    p = [torch.randn(b, d, generator=generator, dtype=torch.float64) for _ in range(2)]
    k = [torch.randn(b, d, generator=generator, dtype=torch.float64) for _ in range(2)]
    comparison = Comparison.of(p, k, pairs=pairs)
    expected = [sum(2 - 2 * cosine(p[o][i], k[t][i]) for o, t in pairs or [(0, 1), (1, 0)]) for i in range(b)]
    assert Regression().compare(comparison).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert Regression()(comparison).item() == pytest.approx(sum(expected) / b, rel=1e-9, abs=1e-12)


def test_the_gradient_is_that_of_finite_differences():
    torch.manual_seed(0)
    p = [torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    k = [torch.randn(3, 4, dtype=torch.float64) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda *p: Regression()(Comparison.of(list(p), k)), p)


def test_a_quarter_of_it_has_simsiams_gradient():
    """Chen and He 2021, equation 4: -(cos(p1, z2) + cos(p2, z1)) / 2."""
    torch.manual_seed(0)
    k = [torch.randn(6, 4, dtype=torch.float64) for _ in range(2)]
    p = [torch.randn(6, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    ours = Regression()(Comparison.of(p, k))
    cos = nn.functional.cosine_similarity
    theirs = -(cos(p[0], k[1]) + cos(p[1], k[0])).mean() / 2
    torch.testing.assert_close(ours, 4 + 4 * theirs)
    for a, b in zip(torch.autograd.grad(ours / 4, p), torch.autograd.grad(theirs, p), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_agreement_costs_nothing_and_opposites_eight():
    p = [torch.randn(5, 3) for _ in range(2)]
    same = Regression()(Comparison.of(p, [2 * p[1], 3 * p[0]]))
    opposite = Regression()(Comparison.of(p, [-p[1], -p[0]]))
    assert same.item() == pytest.approx(0, abs=1e-5)
    assert opposite.item() == pytest.approx(8, abs=1e-5)


# -- the mean of several keys ------------------------------------------------------------------------


def fast_siam(p: list[Tensor], z: list[Tensor]) -> Tensor:
    """Pototzky et al. 2022: the mean over views of -cos(p_i, mean of the other views' z), in plain loops."""
    views, total = len(p), torch.zeros((), dtype=torch.float64)
    for i in range(views):
        for n in range(len(p[i])):
            key = sum(z[j][n] for j in range(views) if j != i) / (views - 1)
            total = total - (p[i][n] @ key) / (p[i][n].norm() * key.norm())
    return total / (views * len(p[0]))


def predictions_and_keys(views: int, seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    """p and z of views of five images, z of different lengths."""
    g = torch.Generator().manual_seed(seed)
    p, z = (torch.randn(2, views, 5, 4, generator=g, dtype=torch.float64)).unbind()
    scales = torch.rand(views, 5, 1, generator=g, dtype=torch.float64) * 3 + 0.1
    return [each.requires_grad_() for each in p.unbind()], list((z * scales).unbind())


@pytest.mark.parametrize("views", [2, 3, 4, 5])
def test_the_mean_of_the_other_views_is_fast_siams(views: int):
    p, z = predictions_and_keys(views)
    ours, theirs = MeanRegression()(Comparison.of(p, z)) / (2 * views), fast_siam(p, z)
    torch.testing.assert_close(ours, theirs + 1, rtol=1e-12, atol=1e-12)
    for a, b in zip(torch.autograd.grad(ours, p), torch.autograd.grad(theirs, p), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_with_two_views_it_is_regression():
    p, z = predictions_and_keys(2)
    torch.testing.assert_close(MeanRegression()(Comparison.of(p, z)), Regression()(Comparison.of(p, z)))


class OfDirections(MeanRegression):
    """The mean of keys of unit length."""

    def compare(self, comparison: Comparison) -> Tensor:
        keys = {t: nn.functional.normalize(z, dim=1) for t, z in comparison.target_keys.items()}
        return super().compare(dataclasses.replace(comparison, target_keys=keys))


class OfAllViews(MeanRegression):
    """The mean over all views, the query's own among them."""

    def compare(self, comparison: Comparison) -> Tensor:
        views = comparison.query_views
        return super().compare(dataclasses.replace(comparison, pairs=tuple(itertools.product(views, views))))


@pytest.mark.parametrize("fault", [OfDirections, OfAllViews, Regression])
def test_a_fault_in_the_mean_is_found(fault: type[Loss]):
    """``regression`` itself is one: the mean of the cosines, not the cosine of the mean."""
    p, z = predictions_and_keys(4)
    loss, right = fault()(Comparison.of(p, z)), 8 * (fast_siam(p, z) + 1)
    pairs = 3 if fault is Regression else 1
    assert abs(loss / pairs - right) > 1e-3
    torch.testing.assert_close(MeanRegression()(Comparison.of(p, z)), right)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_mean_of_keys_of_half_precision_is_taken_in_more(dtype: torch.dtype):
    p, z = ([each.detach().to(dtype) for each in side] for side in predictions_and_keys(4))
    value = MeanRegression()(Comparison.of(p, z))
    expected = 8 * (fast_siam([each.double() for each in p], [each.double() for each in z]) + 1)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)


def test_patches_have_the_mean_of_the_keys_that_they_match():
    g = torch.Generator().manual_seed(1)
    p, z = torch.randn(2, 3, 2, 4, 5, generator=g, dtype=torch.float64).unbind()  # [views, b, N, D]
    matches = {(o, t): torch.randint(0, 4, (2, 4), generator=g) for o in range(3) for t in range(3) if o != t}
    value = MeanRegression()(Comparison.of(list(p), list(z), matches=matches))
    rows = []
    for o, image, patch in itertools.product(range(3), range(2), range(4)):
        key = sum(z[t, image, matches[o, t][image, patch]] for t in range(3) if t != o)
        rows.append(2 - 2 * nn.functional.cosine_similarity(p[o, image, patch], key, dim=0))
    torch.testing.assert_close(value, torch.stack(rows).view(3, -1).sum(0).mean())


# -- views -------------------------------------------------------------------------------------------


def shares(view: int, augmentation: BYOL) -> dict[str, float]:
    """The share of images that each operation of a view takes."""
    pipeline, ids = augmentation.pipelines()[view], np.arange(4000)
    draws = {op.name: pipeline.draw(n, ids, Key(0, 0, view)) for n, op in enumerate(pipeline.operations)}
    return {name: round(float(d["chosen"].mean()), 1) for name, d in draws.items() if "chosen" in d}


def test_the_two_views_differ_as_in_the_paper():
    common = {"flip": 0.5, "color_jitter": 0.8, "grayscale": 0.2}
    assert shares(0, BYOL(96)) == {**common, "blur": 1.0}
    assert shares(1, BYOL(96)) == {**common, "blur": 0.1, "solarize": 0.2}
    assert shares(1, BYOL(32)) == {**common, "solarize": 0.2}
    assert shares(0, BYOL(32, blur=True)) == {**common, "blur": 1.0}
    for view in (0, 1):
        assert shares(view, BYOL(96, asymmetric=False)) == {**common, "blur": 0.5}


def test_amounts_of_the_jitter_scale_with_strength():
    for strength in (1.0, 0.5):
        jitter = BYOL(32, strength=strength).pipelines()[0].operations[2]
        amounts = [jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue]
        assert amounts == pytest.approx([strength * x for x in (0.4, 0.4, 0.2, 0.1)])


def test_views_of_a_batch():
    images = torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8)
    views = BYOL(36)(images, torch.arange(3))
    assert [view.shape for view in views] == [(3, 3, 36, 36)] * 2
    assert not torch.equal(*views)


# -- the target --------------------------------------------------------------------------------------


class Flat(Backbone):
    """A linear encoder of 2 x 2 x 2 images, with no batch norm."""

    def __init__(self):
        super().__init__()
        self.features = 6
        self.layer = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))


def byol(momentum: float, schedule: str) -> Method:
    torch.manual_seed(0)
    head, predictor, target = Linear(6, 4), MLP(4, [5, 4], "none"), EMA(momentum, schedule)
    return Method(Flat(), head, predictor, target, [NoNegatives()], [(1.0, Regression())]).double().train()


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_target_is_the_closed_form_of_the_average(schedule: str):
    steps, m = 7, 0.8
    method = byol(m, schedule)
    trained = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.3)
    online = nn.ModuleList([method.backbone, method.head])
    path = [copy.deepcopy(list(online.parameters()))]
    for step in range(steps):
        optimizer.zero_grad()
        views = [torch.randn(5, 2, 2, 2, dtype=torch.float64) for _ in range(2)]
        output = method(views, torch.arange(5), progress=Progress(step, steps))
        assert not output.comparison.keys.z.requires_grad
        output.loss.backward()
        optimizer.step()
        method.after_batch(output.comparison)
        method.after_step(Progress(step, steps))
        path.append(copy.deepcopy(list(online.parameters())))
    rates = [m if schedule == "constant" else 1 - (1 - m) * (math.cos(math.pi * k / steps) + 1) / 2
             for k in range(steps)]  # fmt: skip
    weights = [math.prod(rates)] + [(1 - rates[k]) * math.prod(rates[k + 1 :]) for k in range(steps)]
    assert sum(weights) == pytest.approx(1)
    for n, average in enumerate(method.target.parameters()):
        expected = sum(w * parameters[n] for w, parameters in zip(weights, path, strict=True))
        torch.testing.assert_close(average, expected, rtol=1e-12, atol=1e-13)
        assert average.grad is None
        assert (average - path[-1][n]).norm() > 1e-3, "the online weights moved away from the average"
    assert all(p.grad is not None for p in trained)
    assert not {id(p) for p in method.target.parameters()} & {id(p) for p in trained}


VIT = {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}  # layer norm alone


def final_weights(recipe: Path, sets: dict, out: Path) -> dict[str, Tensor]:
    contrastive.run(recipe, sets, out=out)
    return Checkpoints(out / "checkpoints", "", pytest.fail).newest()["method"]


def test_accumulating_a_batch_changes_nothing(tmp_path: Path):
    """Without batch norm, two batches of 16 in one step are a batch of 32; the average moves once a step."""
    recipe = write_recipe(tmp_path, write_data(tmp_path / "data", train=24, test=4))
    sets = {
        "backbone.model": "vit_tiny_patch16_224",
        "backbone.stem": "standard",
        "backbone.options": {"width": None, **VIT},
        "head.batch_norm": "none",
        "predictor.batch_norm": "none",
        "target.momentum": 0.9,
        "train.epochs": 3,
        "callbacks": [],
    }
    whole = final_weights(recipe, sets, tmp_path / "whole")
    parts = final_weights(
        recipe, {**sets, "train.batch_size": 16, "train.accumulate": 2}, tmp_path / "accumulated"
    )
    assert whole.keys() == parts.keys()
    for name, weights in whole.items():
        assert (weights - parts[name]).norm() <= 1e-5 * weights.norm().clamp(min=1e-2), name
    averages = [name for name in whole if name.startswith("target.encoder.0.")]
    distance = sum((whole[n] - whole[n.replace("target.encoder.0", "backbone")]).norm() for n in averages)
    assert distance > 1e-3


@pytest.mark.parametrize(
    ("sets", "reason"),
    [
        ({"predictor": "none"}, "regression collapses without a predictor"),
        ({"target": "shared"}, "regression collapses if gradients reach the keys"),
    ],
)
def test_what_collapses_is_refused_unless_allowed(tmp_path: Path, sets: dict, reason: str):
    recipe = write_recipe(tmp_path, write_data(tmp_path / "data", train=12, test=2))
    sets = {**sets, "train.max_steps": 1}
    with pytest.raises(RecipeError, match=reason):
        contrastive.run(recipe, {**sets, "allow": []}, out=tmp_path / "run")
    contrastive.run(recipe, sets, out=tmp_path / "run")
