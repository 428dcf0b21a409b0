"""Checks of losses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from contrastive.comparison import Comparison, tiles
from contrastive.errors import UsageError
from contrastive.parts import Loss
from contrastive.testing.equality import far, same, through_checkpoint
from contrastive.testing.framework import check, require, skip
from contrastive.testing.materials import classes, comparison_for, embeddings, entries, generator
from contrastive.testing.patches import patch_comparison, patch_vectors, takes_patches
from contrastive.testing.subjects import Subject
from contrastive.text import quantity
from contrastive.values import Progress

_IMAGES = 8
_LARGE = 514  # images, whose two views are compared in float32; see comparison.SMALL


def _value(loss: Any, views: list[Tensor], **inputs: Any) -> Tensor:
    return loss(comparison_for(loss, views, **inputs))


@check("finite", "loss", after=("builds",))
def finite(subject: Subject) -> None:
    """The loss is finite and at least float32; before the mean, it has one value per row or is a scalar."""
    for memories in ((), (entries(5),)):
        for dtype in (torch.float32, torch.float64):
            loss = subject.part().to(dtype)
            comparison = comparison_for(loss, embeddings(_IMAGES, dtype), memories=memories)
            rows = loss.compare(comparison)
            require(
                rows.ndim <= 1 and rows.numel(), f"compare returns {list(rows.shape)}; return [R] or a scalar"
            )
            require(
                rows.is_floating_point() and rows.dtype not in (torch.float16, torch.bfloat16),
                f"compare returns {rows.dtype}; return at least float32",
            )
            require(rows.isfinite().all(), "it is not finite on ordinary embeddings")


@check("differentiable", "loss", after=("finite",))
def differentiable(subject: Subject) -> None:
    """A gradient reaches the queries and each of its own parameters."""
    loss = subject.part()
    views = [view.requires_grad_() for view in embeddings(_IMAGES, torch.float32)]
    _value(loss, views).backward()
    for number, view in enumerate(views):
        require(
            view.grad is not None and view.grad.abs().sum() > 0,
            f"no gradient reaches the queries of view {number}; compare all of them, and do not detach them",
        )
    without_gradient = [name for name, p in loss.named_parameters() if p.requires_grad and p.grad is None]
    require(
        not without_gradient,
        f"no gradient reaches its parameter {', '.join(without_gradient)}; use it, or make it a buffer",
    )


@check("float64", "loss", after=("finite", "pure"))
def float64(subject: Subject) -> None:
    """float64 stays float64: it rounds nothing to fewer digits on the way.

    Over a step of 1e-6, a smooth loss is a straight line to within 1e-11 of its value. One that was rounded
    to float32 changes in steps of 1e-7.
    """
    loss = subject.part().double()
    views = embeddings(_IMAGES)
    rows = loss.compare(comparison_for(loss, views))
    require(rows.dtype == torch.float64, f"float64 embeddings give a {rows.dtype} loss; do not convert them")
    bends = []
    for seed in range(8):
        direction = [
            1e-6 * torch.randn(view.shape, generator=generator(seed), dtype=view.dtype) for view in views
        ]
        low, middle, high = (
            loss(comparison_for(loss, [v + s * d for v, d in zip(views, direction, strict=True)])).detach()
            for s in (-1, 0, 1)
        )
        bends.append(float((low - 2 * middle + high).abs() / middle.abs().clamp_min(1)))
    require(
        sorted(bends)[len(bends) // 2] < 5e-9,
        f"it rounds float64 to fewer digits (steps of {max(bends):.0e}); "
        "remove .float(), and create constants in the embeddings' dtype",
    )


@check("gradients", "loss", after=("differentiable", "float64", "pure"))
def gradients(subject: Subject) -> None:
    """Gradients of embeddings, keys and its own parameters equal finite differences in float64.

    Parameters of a loss that ``stops_gradient`` are left out: targets made with them are constants. So are
    embeddings of one with a ``partial_gradient``.
    """
    loss = subject.part().double()
    views = [view.requires_grad_() for view in embeddings(_IMAGES)]
    keys = None
    if "predictor" in loss.needs and "detached_keys" not in loss.needs:
        keys = [view.requires_grad_() for view in embeddings(_IMAGES, seed=20)]
    own = [] if loss.stops_gradient else [p for p in loss.parameters() if p.requires_grad]
    vectors = [] if loss.partial_gradient else [*views, *(keys or ())]
    inputs = [*vectors, *own]
    if not inputs:
        skip("it holds constant what it computes, so its gradient is not the slope of its value")
    for memories in ((), (entries(5),)):
        value = _value(loss, views, keys=keys, memories=memories)
        grads = torch.autograd.grad(value, inputs, materialize_grads=True)
        for index, (tensor, grad) in enumerate(zip(inputs, grads, strict=True)):
            for seed in range(3):
                direction = torch.randn(tensor.shape, generator=generator(seed), dtype=tensor.dtype)
                slope = float((grad * direction).sum())
                difference = _difference(loss, views, keys, memories, tensor, direction)
                is_query = index < len(views) and not loss.partial_gradient
                what = "an embedding" if is_query else "a key or one of its parameters"
                require(
                    abs(slope - difference) <= 1e-4 * max(abs(slope), abs(difference)) + 1e-6,
                    f"along {what} it changes by {difference:.6g}, but its gradient predicts {slope:.6g}; "
                    "check custom autograd functions, .detach() and no_grad",
                )


@torch.no_grad()
def _difference(
    loss: Any, views: Any, keys: Any, memories: Any, tensor: Tensor, direction: Tensor, h: float = 1e-6
) -> float:
    """The change of the loss along ``direction`` of one of its inputs, by central differences."""
    start = tensor.clone()
    values = []
    for sign in (1, -1):
        tensor.copy_(start + sign * h * direction)
        values.append(_value(loss, views, keys=keys, memories=memories))
    tensor.copy_(start)
    return float(values[0] - values[1]) / (2 * h)


@check("half precision", "loss", after=("finite",))
def half_precision(subject: Subject) -> None:
    """Value and gradient are finite for float16 and bfloat16 embeddings, including long ones and zeros."""
    for dtype in (torch.float16, torch.bfloat16):
        for images, length in ((_IMAGES, 1.0), (_IMAGES, 300.0), (_LARGE, 300.0)):
            loss = subject.part()
            views = [(view * length).to(dtype) for view in embeddings(images, torch.float32)]
            for view in views:
                view[0] = 0
                view.requires_grad_()
            value = _value(loss, views)
            which = f"{dtype} embeddings of length about {3 * length:.0f}"
            require(value.isfinite(), f"{images} {which} give a loss of {value.item()}; compute in float32")
            require(value.dtype == torch.float32, f"{which} give a {value.dtype} loss, not float32")
            if length > 1 and not loss.normalised:
                continue  # raw dot products of long vectors may have gradients beyond float16
            grads = torch.autograd.grad(value, views, allow_unused=True)
            require(
                all(grad is None or grad.isfinite().all() for grad in grads),
                f"the gradient of {images} {which} is not finite; guard divisions, roots and logarithms",
            )


@check("order", "loss", after=("finite", "float64"))
def order(subject: Subject) -> None:
    """The order of the images in the batch changes neither loss nor gradient."""
    loss = subject.part().double()
    permutation = torch.tensor([3, 0, 7, 5, 1, 6, 2, 4])
    images, labels = torch.arange(50, 50 + _IMAGES), classes(_IMAGES)
    for whole_views, whole_keys, what in _embeddings_and_patches(loss):
        results = []
        for rows in (torch.arange(_IMAGES), permutation):
            views = [view[rows].requires_grad_() for view in whole_views]
            keys = whole_keys and [key[rows] for key in whole_keys]
            value = _value(
                loss, views, keys=keys, images=images[rows], labels=labels[rows], memories=[entries(5)]
            )
            results.append((value.detach(), *torch.autograd.grad(value, views)))
        (plain, *grads), (shuffled_loss, *shuffled_grads) = results
        advice = (
            "use comparison.rows() and aligned(), not the position of a row (rows are in order of view, "
            "image, patch)"
        )
        require(
            far(plain, shuffled_loss) < 1e-9,
            f"in another order {what} of the same images give another loss; {advice}",
        )
        require(
            all(far(a[permutation], b) < 1e-9 for a, b in zip(grads, shuffled_grads, strict=True)),
            f"in another order {what} of the same images give another gradient; {advice}",
        )


def _embeddings_and_patches(
    loss: Loss, images: int = _IMAGES, dtype: torch.dtype = torch.float64
) -> Iterator[tuple[list[Tensor], list[Tensor] | None, str]]:
    """Views and, apart from them, keys: of images and, if the loss takes them, of patches."""
    apart = bool(loss.needs & {"predictor", "detached_keys"})
    views, keys = embeddings(images, dtype), embeddings(images, dtype, seed=20) if apart else None
    yield views, keys, "embeddings"
    views = [view.to(dtype) for view in patch_vectors(images, 4)]
    keys = keys and [key.to(dtype) for key in patch_vectors(images, 4, seed=20)]
    if takes_patches(loss):
        yield views, keys, "patches"


@check("scale", "loss", after=("finite", "float64"))
def scale(subject: Subject) -> None:
    """If it compares directions (``normalised``), the length of the embeddings changes nothing."""
    loss = subject.part().double()
    if not loss.normalised:
        skip("it compares embeddings as they are (normalised = False)")
    views = embeddings(_IMAGES)
    keys = embeddings(_IMAGES, seed=20)
    plain = _value(loss, views, keys=keys)
    longer = _value(loss, [7 * view for view in views], keys=[0.2 * key for key in keys])
    require(far(plain, longer) < 1e-9, "embeddings 7 times as long give another loss; set normalised = False")


@check("labels", "loss", after=("finite", "pure"))
def labels(subject: Subject) -> None:
    """It reads labels only if it declares that it needs them."""
    loss = subject.part().double()
    if "labels" in loss.needs:
        skip("it declares that it needs labels")
    comparison = comparison_for(loss, embeddings(_IMAGES))
    true_labels = classes(_IMAGES).repeat_interleave(comparison.queries.positions).repeat(2)
    other = replace(
        comparison,
        queries=replace(comparison.queries, label=true_labels),
        own_keys=replace(comparison.own_keys, label=true_labels),
    )
    require(
        torch.equal(loss(comparison), loss(other)),
        'it reads labels, which are unknown (-1) unless it declares needs = frozenset({"labels"})',
    )


@check("pure", "loss", after=("finite",))
def pure(subject: Subject) -> None:
    """compare changes no state and gives the same value when called again: state changes only in the hooks.

    A step that is skipped or repeated must leave nothing behind.
    """
    loss = subject.part().train()
    views = embeddings(_IMAGES, torch.float32)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    first = _value(loss, views)
    require(
        same(before, loss.state_dict()),
        "compare changes its state, so a batch is compared with itself; change state in after_batch",
    )
    again = _value(loss, views)
    require(
        torch.equal(first, again),
        "the same comparison gives another loss the second time; change state in after_batch, draw nothing",
    )


@check("state_dict", "loss", after=("pure",))
def state_dict(subject: Subject) -> None:
    """After some steps, a fresh instance that loads its state_dict gives the same loss."""
    loss = subject.part().train()
    for step in range(3):
        progress = Progress(step, 10)
        comparison = comparison_for(loss, embeddings(_IMAGES, torch.float32, seed=step), progress=progress)
        _take_step(loss, comparison, progress)
    fresh = subject.part(seed=9).train()
    fresh.load_state_dict(through_checkpoint(loss.state_dict(), "its state_dict"))
    views = embeddings(_IMAGES, torch.float32, seed=7)
    require(
        torch.equal(_value(loss, views), _value(fresh, views)),
        "with its reloaded state_dict it gives another loss; keep state in buffers (register_buffer)",
    )


@torch.no_grad()
def _take_step(loss: Any, comparison: Comparison, progress: Progress) -> None:
    loss.before_step(progress)
    loss.after_batch(comparison)
    loss.after_step(progress)


@check("deterministic", "loss", after=("finite",))
def deterministic(subject: Subject) -> None:
    """Built and called twice with one seed, it gives the same value and gradient, bit for bit."""
    results = []
    for _ in range(2):
        loss = subject.part(seed=4)
        views = [view.requires_grad_() for view in embeddings(64, torch.float32)]
        value = _value(loss, views)
        results.append([value.detach(), *torch.autograd.grad(value, views)])
    require(same(*results), "two equal instances give different values; draw from torch's default generator")


class _Largest(TorchDispatchMode):
    """Records the size of the largest tensor that any operation creates, in elements."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        for tensor in tree_flatten(outputs)[0]:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.elements = max(self.elements, min(tensor.numel(), storage))
        return outputs


def _largest(subject: Subject, images: int) -> dict[str, int]:
    """The size of the largest tensor that the loss of images makes and, if it takes them, that of patches."""
    largest = {}
    for views, keys, what in _embeddings_and_patches(subject.part(), images, torch.float32):
        with _Largest() as recorder:
            _value(subject.part(), [view.requires_grad_() for view in views], keys=keys).backward()
        largest[what] = recorder.elements
    return largest


def _growth(small: dict[str, int], large: dict[str, int]) -> float:
    return max(large[what] / max(1, small[what]) for what in small)


@check("memory", "loss", after=("finite",))
def memory(subject: Subject) -> None:
    """Its largest tensor, in forward and backward, grows with the batch and not with its square."""
    with mock.patch.object(tiles, "TILE_ELEMENTS", 2**12):  # so that a small batch fills more than one tile
        if _growth(_largest(subject, 64), _largest(subject, 128)) < 2.2:
            return
    small, large = (_largest(subject, images) for images in (800, 1600))
    growth, millions = _growth(small, large), max(large.values()) / 1e6
    require(
        growth < 2.2,
        f"twice the batch makes its largest tensor {growth:.1f} times as large "
        f"({millions:.1f} million elements of 1600 images); use comparison.rows()",
    )


# -- patches ----------------------------------------------------------------------------------------------

_PAGE = "(docs/plugins/patches.md, section 'Losses of patches')"


@check("own keys", "loss", after=("finite", "float64", "pure"))
def own_patches(subject: Subject) -> None:
    """Of patches, a query is compared with the key that it matches, wherever that is in its image."""
    loss = subject.part().double()
    queries, keys = patch_vectors(3, 5), patch_vectors(3, 5, seed=1)
    positions = torch.tensor([2, 0, 4, 1, 3])
    plain = _of_patches(loss, queries, keys, torch.arange(5).expand(3, -1))
    elsewhere = [key[:, positions.argsort()] for key in keys]  # key i is now at positions[i]
    require(
        far(plain, _of_patches(loss, queries, elsewhere, positions.expand(3, -1))) < 1e-9,
        "it compares a query with a key that is not its own: keys of patches at other positions, with "
        "matches to that effect, give another loss. Read pairs from comparison.aligned(), or use "
        f"comparison.rows() {_PAGE}",
    )


@check("unmatched", "loss", after=("own keys",))
def unmatched_keys(subject: Subject) -> None:
    """Of patches, keys of a query's image that match no query change nothing: they are in no statistics."""
    loss = subject.part().double()
    queries, keys = patch_vectors(1, 4), patch_vectors(1, 9, seed=1)
    matches = torch.tensor([[7, 2, 0, 5]])
    rest = torch.tensor([position for position in range(9) if position not in matches])
    plain = _of_patches(loss, queries, keys, matches)
    others = [key.clone() for key in keys]
    for key in others:
        key[:, rest] = 3 * key[:, rest].flip(2)
    require(
        far(plain, _of_patches(loss, queries, others, matches)) < 1e-9,
        "keys of patches that match no query change the loss, so it compares, or takes statistics of, "
        "patches that its objective does not select (visible ones, if it compares the hidden ones). Take the "
        f"vectors of comparison.aligned() rather than comparison.keys {_PAGE}",
    )


def _of_patches(loss: Any, queries: list[Tensor], keys: list[Tensor], matches: Tensor) -> Tensor:
    """The loss of patches; skips if it compares whole images only."""
    comparison = patch_comparison(loss, queries, keys, matches)
    try:
        rows = loss.compare(comparison)
    except UsageError as error:
        skip(str(error))
    count = len(comparison.queries.z)
    require(
        rows.ndim <= 1 and rows.isfinite().all(),
        f"compare returns {list(rows.shape)} for {quantity(count, 'row')} of patches, or is not finite; "
        f"return [{count}] or a scalar {_PAGE}",
    )
    return loss(comparison).detach()
