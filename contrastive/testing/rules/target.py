"""Checks of targets, which encode the keys."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from contrastive.errors import UsageError
from contrastive.optimizers import SGDPart
from contrastive.testing.composition import batch, compose, sgd, train
from contrastive.testing.equality import far
from contrastive.testing.framework import check, require, skip
from contrastive.testing.subjects import IN_FEATURES, Subject
from contrastive.testing.surroundings import fixed_seed
from contrastive.training import Method


def compose_or_skip(subject: Subject, seed: int = 0) -> Method:
    """The tiny method with the part in it; skips if the part needs more than one process."""
    try:
        return compose(subject.spec, seed)
    except UsageError as error:
        skip(str(error))


def _keys(method: Method, view_numbers: tuple[int, ...] = (0, 1), number: int = 0) -> dict[int, Tensor]:
    """Keys of the requested views, when the online encoder has seen view 0 alone."""
    views, _, _ = batch(method, number)
    online = {0: method.embed(views[0])}
    with fixed_seed(number):
        return method.target({view: views[view] for view in view_numbers}, online, method.embed)


@check("keys", "target", after=("builds",))
def keys(subject: Subject) -> None:
    """It returns finite keys [b, D] of the requested views, seen by the online encoder or not."""
    method = compose_or_skip(subject).train()
    b = len(batch(method, 0)[1])
    for view_numbers in ((0, 1), (1,), (0,)):
        target_keys = _keys(method, view_numbers)
        _require_views(target_keys, view_numbers, "it returns")
        substitutes = method.target.substitute(target_keys)
        _require_views(substitutes, view_numbers, "substitute returns")
        for view, key in [*target_keys.items(), *substitutes.items()]:
            require(
                key.shape == (b, IN_FEATURES),
                f"keys of view {view} are {list(key.shape)}, not [{b}, {IN_FEATURES}]",
            )
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
    if not method.target.encodes:
        skip("it has no encoder of its own")
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


def _differing(a: dict[str, Any], b: dict[str, Any], limit: float = 1e-9) -> list[str]:
    """Names of tensors that differ by more than ``limit``."""
    return [name for name in {**a, **b} if name not in a or name not in b or far(a[name], b[name]) > limit]
