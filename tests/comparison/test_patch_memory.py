"""Memory of comparisons of patches: linear in images and patches, for every loss built on rows."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from contrastive.comparison import Comparison, tiles
from contrastive.errors import UsageError
from contrastive.registry import load_registry
from contrastive.testing.materials import comparison_for
from contrastive.testing.subjects import IN_FEATURES, Subject

REGISTRY = load_registry()
#: Parameters of a loss that change what it asks of rows.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "margin": [{"semi_hard": True}],
    "nt_logistic": [{"semi_hard": True}],
    "dcl": [{"weighted": True}],
    "hard_negative": [{"class_share": 0.0, "hardness": 0.0}],
}
CASES = [(name, params) for name in REGISTRY.names("loss") for params in ({}, *VARIANTS.get(name, []))]


class Largest(TorchDispatchMode):
    """Records the elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                stored = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.elements = max(self.elements, min(tensor.numel(), stored))
        return out


def largest(name: str, params: dict[str, Any], b: int, n: int, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """Elements of the largest tensor of a step of a loss; None if it is not built on rows."""
    loss = Subject(REGISTRY.entry("loss", name), REGISTRY, params or None).part()
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(b, n, IN_FEATURES, generator=generator).requires_grad_() for _ in range(2)]
    keys = [torch.randn(b, n, IN_FEATURES, generator=generator) for _ in range(2)]
    apart = loss.needs & {"predictor", "detached_keys"}
    uses, rows = [], Comparison.rows
    monkeypatch.setattr(Comparison, "rows", lambda *a, **k: uses.append(1) or rows(*a, **k))
    with Largest() as recorder, suppress(UsageError):  # of a loss that compares whole images only
        loss(comparison_for(loss, views, keys=keys if apart else None)).backward()
    monkeypatch.setattr(Comparison, "rows", rows)
    return recorder.elements if uses else None


def grows_linearly(
    name: str, params: dict[str, Any], b: int, n: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", tile)
    small = largest(name, params, b, n, monkeypatch)
    if small is None:
        pytest.skip("it is not built on rows")
    for images, patches in ((2 * b, n), (b, 2 * n)):
        large = largest(name, params, images, patches, monkeypatch)
        assert large <= 2.2 * small, f"{images} images of {patches} patches: {large}, of {b} x {n}: {small}"
    assert small <= 8 * 2 * b * n * IN_FEATURES, "a constant times rows and width"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "params"), CASES)
def test_the_largest_tensor_grows_with_the_number_of_patches(
    name: str, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    grows_linearly(name, params, 8, 16, 2**10, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "params"), CASES)
def test_the_largest_tensor_of_many_patches_too(
    name: str, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    grows_linearly(name, params, 16, 100, 2**14, monkeypatch)


def test_losses_built_on_rows_are_seen():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE_ELEMENTS", 2**10)
        built = [name for name in REGISTRY.names("loss") if largest(name, {}, 4, 4, patch) is not None]
    assert {"nt_xent", "nt_logistic", "margin", "dcl", "debiased", "hard_negative"} <= {*built}
