"""Checks of targets: who encodes the keys."""

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
from contrastive.training.method import Method


def compose_or_skip(subject: Subject, seed: int = 0) -> Method:
    """The tiny method with the part in it; skips where the part says that one process is not enough."""
    try:
        return compose(subject.spec, seed)
    except UsageError as error:
        skip(str(error))


def _keys(method: Method, view_numbers: tuple[int, ...] = (0, 1), number: int = 0) -> dict[int, Tensor]:
    """Keys of the views asked for, where the online encoder has seen view 0 alone."""
    views, _, _ = batch(method, number)
    online = {0: method.embed(views[0])}
    with fixed_seed(number):
        return method.target({view: views[view] for view in view_numbers}, online, method.embed)


@check("keys", "target", after=("builds",))
def keys(subject: Subject) -> None:
    """It gives finite keys [b, D] of the views it is asked for, seen by the online encoder or not."""
    method = compose_or_skip(subject).train()
    b = len(batch(method, 0)[1])
    for view_numbers in ((0, 1), (1,), (0,)):
        target_keys = _keys(method, view_numbers)
        _require_views(target_keys, view_numbers, "it gives")
        substitutes = method.target.substitute(target_keys)
        _require_views(substitutes, view_numbers, "substitute gives")
        for view, key in [*target_keys.items(), *substitutes.items()]:
            require(
                key.shape == (b, IN_FEATURES),
                f"keys of view {view} are {list(key.shape)}, not [{b}, {IN_FEATURES}]",
            )
            require(key.isfinite().all(), f"keys of view {view} are not finite")


def _require_views(keys: object, view_numbers: tuple[int, ...], what: str) -> None:
    require(
        isinstance(keys, dict) and set(keys) == set(view_numbers),
        f"asked for views {list(view_numbers)} {what} {sorted(keys) if isinstance(keys, dict) else keys!r}",
    )


@check("detached", "target", after=("keys",))
def detached(subject: Subject) -> None:
    """What it declares of the gradient is true: keys carry none where ``detached``, and one where not."""
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
                f"the keys of view {view} carry no gradient; say detached = True",
            )


@check("frozen", "target", after=("keys",))
def frozen(subject: Subject) -> None:
    """Of a detached target no parameter is trainable, so that none is in the optimizer."""
    method = compose_or_skip(subject)
    if not method.target.detached:
        skip("its keys carry a gradient")
    optimized_ids = {id(p) for group in SGDPart().build(method, 8).param_groups for p in group["params"]}
    inside = [name for name, p in method.target.named_parameters() if id(p) in optimized_ids]
    require(
        not inside,
        f"the optimizer would train its {', '.join(inside[:3])}, by weight decay alone; "
        "call requires_grad_(False) on what it copies in bind",
    )
    online = {id(p) for part in (method.backbone, method.head) for p in part.parameters()}
    own = [name for name, p in method.target.named_parameters() if id(p) in online]
    require(
        not own, f"its {own[:1]} are the online encoder's own parameters; keep that in a list, or copy it"
    )


@check("starts equal", "target", after=("keys",))
def starts_equal(subject: Subject) -> None:
    """Before the first step, an encoder of its own gives what the online encoder gives."""
    method = compose_or_skip(subject).train()
    if not method.target.encodes:
        skip("it has no encoder of its own")
    views, _, _ = batch(method, 0)
    for view, key in _keys(method).items():
        require(
            far(method.embed(views[view]), key) < 1e-9,
            f"before the first step the keys of view {view} are not the online embeddings; copy it in bind",
        )


@check("once a step", "target", after=("keys",))
def once_a_step(subject: Subject) -> None:
    """It is updated once an optimizer step: a batch that comes in two micro-batches leaves it the same."""
    states: list[dict[str, Tensor]] = []
    for micro in (1, 2):
        method = compose_or_skip(subject)
        outcome = train(method, sgd(method), range(3), micro)
        states.append({name: value for name, value in outcome.state.items() if name.startswith("target.")})
    differing = _differing(states[0], states[1])
    require(
        not differing,
        f"with two micro-batches a step {', '.join(differing[:3])} end elsewhere; update in after_step",
    )


def _differing(a: dict[str, Any], b: dict[str, Any], limit: float = 1e-9) -> list[str]:
    """Names of tensors that are not equal to ``limit``."""
    return [name for name in {**a, **b} if name not in a or name not in b or far(a[name], b[name]) > limit]
