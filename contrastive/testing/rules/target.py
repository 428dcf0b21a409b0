"""Checks of targets, which encode the keys."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from contrastive.errors import UsageError
from contrastive.optimizers import SGDPart
from contrastive.parts import Level
from contrastive.testing.composition import TINY_GRID, batch, compose, compose_at, sgd, train
from contrastive.testing.equality import far, same
from contrastive.testing.framework import check, require, skip
from contrastive.testing.patches import marks_of
from contrastive.testing.subjects import IN_FEATURES, PATCH, Subject
from contrastive.testing.surroundings import fixed_seed
from contrastive.text import quantity
from contrastive.training import Method
from contrastive.views import View

_PAGE = "(docs/plugins/patches.md, section 'Keys of patches')"


def compose_or_skip(subject: Subject, seed: int = 0, level: Level | None = None) -> Method:
    """The tiny method with the part in it; skips if the part needs more than one process."""
    try:
        return compose(subject.spec, seed, level)
    except UsageError as error:
        skip(str(error))


def _keys(method: Method, view_numbers: tuple[int, ...] = (0, 1), number: int = 0) -> dict[int, Tensor]:
    """Keys of the requested views, when the online encoder has seen view 0 alone."""
    views, _, _ = batch(method, number)
    online = {0: _embed(method, views[0])}
    with fixed_seed(number):
        own_views = {view: views[view] for view in view_numbers}
        return method.target(own_views, online, partial(_embed, method))


def _embed(method: Method, pixels: Tensor) -> Tensor:
    """The online embeddings: [b, D], of patches [b, N, D]."""
    return method.objectives[0].encode(method.backbone, pixels)


@check("keys", "target", after=("builds",))
def keys(subject: Subject) -> None:
    """It returns finite keys [b, D] of the requested views, seen by the online encoder or not."""
    method = compose_or_skip(subject).train()
    level = method.objectives[0].level
    is_image = level == "image"
    width = (method.target.width(level) if method.target.fixed else None) or IN_FEATURES
    expected = [len(batch(method, 0)[1]), *([] if is_image else [TINY_GRID[0] * TINY_GRID[1]]), width]
    for view_numbers in ((0, 1), (1,), (0,)):
        target_keys = _keys(method, view_numbers)
        _require_views(target_keys, view_numbers, "it returns")
        substitutes = method.target.substitute(target_keys)
        _require_views(substitutes, view_numbers, "substitute returns")
        for view, key in [*target_keys.items(), *substitutes.items()]:
            require(list(key.shape) == expected, f"keys of view {view} are {list(key.shape)}, not {expected}")
            require(key.isfinite().all(), f"keys of view {view} are not finite")


def _require_views(keys: object, view_numbers: tuple[int, ...], what: str) -> None:
    require(
        isinstance(keys, dict) and set(keys) == set(view_numbers),
        f"for views {list(view_numbers)} {what} {sorted(keys) if isinstance(keys, dict) else keys!r}",
    )


@check("detached", "target", after=("keys",))
def detached(subject: Subject) -> None:
    """Its declaration ``detached`` is true: keys carry a gradient if, and only if, it is False."""
    method = compose_or_skip(subject).train()
    for view, key in method.target.substitute(_keys(method)).items():
        if method.target.detached:
            require(
                not key.requires_grad,
                f"detached is True, but a gradient flows back from the keys of view {view}; "
                "encode under torch.no_grad(), or detach",
            )
        else:
            require(
                key.requires_grad,
                f"the keys of view {view} carry no gradient; set detached = True",
            )


@check("frozen", "target", after=("keys",))
def frozen(subject: Subject) -> None:
    """A detached target has no trainable parameters, so that none reach the optimizer."""
    method = compose_or_skip(subject)
    if not method.target.detached:
        skip("its keys carry a gradient")
    optimized_ids = {id(p) for group in SGDPart().build(method, 8).param_groups for p in group["params"]}
    inside = [name for name, p in method.target.named_parameters() if id(p) in optimized_ids]
    require(
        not inside,
        f"the optimizer would change its {', '.join(inside[:3])} by weight decay alone; "
        "call requires_grad_(False) on what it copies in bind",
    )
    online = {id(p) for part in (method.backbone, method.head) for p in part.parameters()}
    own = [name for name, p in method.target.named_parameters() if id(p) in online]
    require(not own, f"its {own[:1]} belong to the online encoder; keep the encoder in a list, or copy it")


@check("starts equal", "target", after=("keys",))
def starts_equal(subject: Subject) -> None:
    """Before the first step, its own encoder gives the outputs of the online encoder."""
    method = compose_or_skip(subject).train()
    if not method.target.encodes or method.target.fixed:
        skip("it has no encoder of its own that follows the online one")
    views, _, _ = batch(method, 0)
    for view, key in _keys(method).items():
        require(
            far(method.embed(views[view]), key) < 1e-9,
            f"before the first step the keys of view {view} are not the online embeddings; "
            "copy the online encoder in bind",
        )


@check("once per step", "target", after=("keys",))
def once_per_step(subject: Subject) -> None:
    """It is updated once per optimizer step, even if the batch comes in two micro-batches."""
    states: list[dict[str, Tensor]] = []
    for micro in (1, 2):
        method = compose_or_skip(subject)
        outcome = train(method, sgd(method), range(3), micro)
        states.append({name: value for name, value in outcome.state.items() if name.startswith("target.")})
    differing_keys = _differing(states[0], states[1])
    require(
        not differing_keys,
        f"{', '.join(differing_keys[:3])} differ with two micro-batches per step; update in after_step",
    )


@check("fixed", "target", after=("keys", "frozen"))
def fixed_target(subject: Subject) -> None:
    """If it is ``fixed``, neither training nor training mode changes its keys, and no checkpoint holds it."""
    method = compose_or_skip(subject)
    if not method.target.fixed:
        skip("it may follow the online encoder (fixed = False)")
    entries = list(method.target.state_dict())
    require(
        not entries,
        f"its {', '.join(entries[:3])} would be in every checkpoint, though a fixed target is built again "
        f"from the recipe; hold the network in a FrozenNetwork {_PAGE}",
    )
    before = _keys(method.eval())
    require(
        same(before, _keys(method.train())),
        "in training mode it gives other keys; hold its network in a FrozenNetwork, which is always in "
        f"evaluation mode {_PAGE}",
    )
    train(method, sgd(method), range(3))
    require(
        same(before, _keys(method)),
        "it declares fixed = True, but its keys change while the online encoder trains; remove fixed, or "
        f"its updates in after_step {_PAGE}",
    )


@check("patches", "target", after=("keys",))
def patches(subject: Subject) -> None:
    """Asked for patches, it gives keys [b, N, D] of the whole grid, each of its own position."""
    method, (view, *_) = _patch_method(subject)
    keys = _patch_keys(method, [view])
    b, count = len(view.data), TINY_GRID[0] * TINY_GRID[1]
    require(
        keys.shape[:2] == (b, count),
        f"{quantity(b, 'view')} of {TINY_GRID[0]} x {TINY_GRID[1]} patches give keys {list(keys.shape)}, not "
        f"[{b}, {count}, D]; give all positions of the grid, row by row, and no prefix tokens {_PAGE}",
    )
    require(keys.isfinite().all(), "keys of patches are not finite")
    for position in (0, 1, count - 2):
        row, column = divmod(position, TINY_GRID[1])
        pixels = view.data.clone()
        pixels[:, :, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] *= 0.3
        differs = (_patch_keys(method, [View(pixels)]) != keys).flatten(2).any(2).any(0)  # [N]
        require(
            differs[position] or not differs.any(),
            f"keys {differs.nonzero().flatten().tolist()[:4]} change with the pixels of patch {position}, "
            f"but key {position} does not; give keys in the order of the grid, row by row, of the view "
            f"as it is {_PAGE}",
        )


@check("whole views", "target", after=("patches",))
def whole_views(subject: Subject) -> None:
    """Keys are of whole views: masks, which hide patches from the online encoder, do not change them."""
    method, views = _patch_method(subject)
    plain = _patch_keys(method, views)
    for seed in (1, 2):
        marks = marks_of(len(views[0].data), TINY_GRID, 5, seed=seed)
        views_with_masks = [View(view.data, marks) for view in views]
        require(
            same(plain, _patch_keys(method, views_with_masks)),
            f"its keys depend on the masks of its views; encode whole views, without keep or hidden {_PAGE}",
        )


def _patch_method(subject: Subject) -> tuple[Method, list[View]]:
    """A method that compares patches with the target in it, and two views; skips if it gives none."""
    try:
        method = compose_at("patch", subject.spec).train()
        views = [View(x) for x in batch(method, 0)[0]]
        keys = _patch_keys(method, views)
    except UsageError as error:
        skip(str(error))
    if keys.ndim == 2:
        skip(f"it gives keys of whole images only; override give for patches {_PAGE}")
    return method, views


def _patch_keys(method: Method, views: list[View]) -> Tensor:
    """Keys of the first view, [b, N, D], as a step asks for them."""
    by_view = dict(enumerate([*views, views[0]][:2]))
    with torch.no_grad(), fixed_seed(0):
        return method.keys(by_view, method.encode(by_view))[0].keys[0]


def _differing(a: dict[str, Any], b: dict[str, Any], limit: float = 1e-9) -> list[str]:
    """Names of tensors that differ by more than ``limit``."""
    return [name for name in {**a, **b} if name not in a or name not in b or far(a[name], b[name]) > limit]
