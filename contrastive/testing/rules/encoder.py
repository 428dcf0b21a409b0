"""Checks of backbones and heads."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from contrastive.errors import UsageError
from contrastive.parts import Backbone, Head, Hiding
from contrastive.testing.equality import far, same, through_checkpoint
from contrastive.testing.framework import check, fail, require, skip
from contrastive.testing.materials import pixels
from contrastive.testing.patches import (
    GRID,
    HIDDEN,
    encode,
    encoder_input,
    head_marks,
    marks_of,
    token_vectors,
    tokens_of,
)
from contrastive.testing.subjects import Subject
from contrastive.testing.surroundings import fixed_seed
from contrastive.views import Tokens, View, influence

_ENCODERS = ("backbone", "head")
_BATCH = 6


#: Where messages send the author.
_PAGE = "(docs/plugins/patches.md, section 'Tokens')"
_HEADS = "(docs/plugins/patches.md, section 'Heads on tokens')"


def _width(part: Any) -> Any:
    return part.features if part.kind == "backbone" else part.out_features


def _run(part: nn.Module, x: Tensor, seed: int = 0) -> Tensor:
    """The output, with its random draws (dropout) from ``seed``."""
    with fixed_seed(seed):
        return encode(part, x)


@check("width", *_ENCODERS, after=("builds",))
def width(subject: Subject) -> None:
    """Its output is [b, width] as declared: ``features`` of a backbone, ``out_features`` of a head."""
    part = subject.part()
    for mode in (True, False):
        out = _run(part.train(mode), encoder_input(part, _BATCH))
        declared_width = _width(part)
        require(isinstance(declared_width, int), f"the declared width is {declared_width!r}, not an integer")
        fills = part.kind == "head" and part.fills
        expected = [_BATCH, *([HIDDEN] if fills else []), declared_width]
        require(
            isinstance(out, Tensor) and list(out.shape) == expected,
            f"{_BATCH} inputs give {list(out.shape) if isinstance(out, Tensor) else type(out).__name__}; "
            f"its declared width is {declared_width}, so {expected} was expected",
        )


@check("finite", *_ENCODERS, after=("width",))
def finite(subject: Subject) -> None:
    """Output and gradients are finite in float32 and, as training runs it, under bfloat16 autocast."""
    for precision in (torch.float32, torch.bfloat16):
        part = subject.part().train()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            out = _run(part, encoder_input(part, _BATCH))
        require(out.isfinite().all(), f"its output is not finite in {precision}")
        if out.requires_grad:
            out.float().square().mean().backward()
        grads = [
            name for name, p in part.named_parameters() if p.grad is not None and not p.grad.isfinite().all()
        ]
        require(not grads, f"in {precision} the gradient of {', '.join(grads[:3])} is not finite")


@check("gradients", *_ENCODERS, after=("finite",))
def gradients(subject: Subject) -> None:
    """The gradient reaches the input and every trainable parameter."""
    part = subject.part().train()
    x = encoder_input(part, _BATCH).requires_grad_()
    _run(part, x).square().sum().backward()
    if part.kind == "head" and part.pools:  # some of its parameters may be for hidden patches
        part.image(tokens_of(x, head_marks(_BATCH).visible)).square().sum().backward()
    require(
        x.grad is not None and x.grad.abs().sum() > 0,
        "no gradient reaches its input; do not detach in forward",
    )
    without_gradient = [name for name, p in part.named_parameters() if p.requires_grad and p.grad is None]
    require(
        not without_gradient,
        f"no gradient reaches {', '.join(without_gradient[:3])}: several processes would wait for it; "
        "remove unused modules, freeze them with requires_grad_(False), or declare what a head needs to use "
        "them (fills, pools)",
    )


@check("deterministic", *_ENCODERS, after=("width",))
def deterministic(subject: Subject) -> None:
    """Built and run twice with one seed, weights and outputs are equal bit for bit."""
    first, second = subject.part(seed=3), subject.part(seed=3)
    require(
        same(first.state_dict(), second.state_dict()),
        "built twice with one seed, its weights differ; draw them from torch's default generator",
    )
    x = encoder_input(first, _BATCH)
    require(
        torch.equal(_run(first.train(), x), _run(second.train(), x)),
        "two equal instances give different outputs with one seed; draw from torch's default generator",
    )


@check("rows", *_ENCODERS, after=("width", "deterministic"))
def rows(subject: Subject) -> None:
    """In evaluation every image is encoded on its own: the rest of the batch does not change it."""
    part = _with_moved_buffers(subject).eval()
    _require_own_rows(partial(encode, part), encoder_input(part, _BATCH))
    if part.kind == "head" and not (part.fills or part.pools):
        _require_own_rows(lambda x: part.whole(tokens_of(x), "patch"), token_vectors(_BATCH))


@torch.no_grad()
def _require_own_rows(encode: Callable[[Tensor], Tensor], x: Tensor) -> None:
    whole = encode(x)
    pieces = torch.cat([encode(piece) for piece in (x[:1], x[1:4], x[4:])])
    require(
        far(whole, pieces) < 1e-4,
        "in evaluation an image's output depends on the other images or on an earlier call; use running "
        "statistics and no dropout unless self.training, and keep nothing from a call",
    )


@check("state_dict", *_ENCODERS, after=("width", "deterministic"))
def state_dict(subject: Subject) -> None:
    """A fresh instance that loads its state_dict from a checkpoint gives the same outputs."""
    part = _with_moved_buffers(subject)
    fresh = subject.part(seed=9)
    fresh.load_state_dict(through_checkpoint(part.state_dict(), "its state_dict"))
    x = encoder_input(part, _BATCH)
    for mode in (False, True):
        require(
            torch.equal(_run(part.train(mode), x), _run(fresh.train(mode), x)),
            "an instance with its reloaded state_dict gives other outputs; "
            "keep state in parameters and buffers (register_buffer)",
        )


@check("copies", *_ENCODERS, after=("width", "deterministic"))
def copies(subject: Subject) -> None:
    """It can be copied (as a moving average does) and pickled, and the copy gives the same outputs."""
    part = _with_moved_buffers(subject).eval()
    x = encoder_input(part, _BATCH)
    for how, duplicate in (
        ("copy.deepcopy", copy.deepcopy),
        ("pickle", lambda p: pickle.loads(pickle.dumps(p))),
    ):
        try:
            other = duplicate(part)
        except Exception as error:
            fail(f"{how} raises {type(error).__name__}: {error}; keep no lambdas or open files")
        require(torch.equal(_run(part, x), _run(other, x)), f"{how} makes a copy with other outputs")
        common = {id(p) for p in part.parameters()} & {id(p) for p in other.parameters()}
        require(not common, f"{how} makes a copy that shares parameters with it")


@check("export", "backbone", after=("width",))
def export(subject: Subject) -> None:
    """export writes a folder that timm loads, or raises a UsageError that explains why timm cannot."""
    folder = subject.folder / "export"
    part = subject.part().eval()
    try:
        part.export(str(folder))
    except UsageError as error:
        skip(str(error))
    require((folder / "model.safetensors").is_file(), "export wrote no model.safetensors")
    import timm

    import contrastive.timm_models  # noqa: F401 - registers the small-stem architectures

    loaded_encoder = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    require(loaded_encoder.num_features == part.features, "timm loads an encoder of another width")


@check("tokens", "backbone", after=("width", "deterministic"))
def tokens(subject: Subject) -> None:
    """If it gives tokens, patches are those of the grid, prefix tokens are apart, and ``h`` is forward's."""
    part, view = subject.part().eval(), View(pixels(_BATCH))
    with torch.no_grad():
        view_tokens = _tokens(part, view)
        h = part(view.data)
    b, n, width = view_tokens.patches.shape
    rows, columns = view_tokens.grid
    require(
        (b, n) == (_BATCH, rows * columns),
        f"its grid of {rows} x {columns} has {rows * columns} patches, but tokens() gives {n} of them; class "
        f"and register tokens belong in prefix, not in patches {_PAGE}",
    )
    require(
        view_tokens.positions is None,
        "tokens() gives positions for a whole view; they are None if all patches are there, in order "
        f"{_PAGE}",
    )
    require(
        view_tokens.prefix.ndim == 3 and view_tokens.prefix.shape[::2] == (_BATCH, width),
        f"prefix is {list(view_tokens.prefix.shape)}; it must be [{_BATCH}, P, {width}], with P = 0 if there "
        f"are no such tokens {_PAGE}",
    )
    require(
        far(view_tokens.h, h) < 1e-4,
        f"h of tokens() is not what forward gives; pool the same tokens in both {_PAGE}",
    )


@check("hides", "backbone", after=("tokens",))
def hides(subject: Subject) -> None:
    """No hidden pixel reaches what it gives: with each way to hide that it declares, its gradient is zero."""
    part = subject.part().eval()
    if not part.hides:
        skip("it hides no patches (hides is empty)")
    if "replace" in part.hides:
        part.allow_replacing()
    for way in sorted(part.hides):
        _require_hidden(part, way)
        _require_kept(part, way)


def _require_hidden(part: Backbone, way: Hiding) -> None:
    """Only pixels of visible patches have a gradient, and all of those do."""
    data = pixels(2).requires_grad_()
    grid = part.tokens(View(data)).grid
    count = grid[0] * grid[1]
    marks = marks_of(2, grid, count // 2)
    assert marks.mask is not None
    assert marks.visible is not None
    view_tokens = part.tokens(View(data), *((marks.visible, None) if way == "drop" else (None, marks.mask)))
    if way == "drop":
        require(
            view_tokens.positions is not None and torch.equal(view_tokens.positions, marks.visible),
            f"with keep, tokens() must give the positions that it kept, as keep lists them {_PAGE}",
        )
    of_patches = influence(data, view_tokens)  # [b, N]
    leaks = int((of_patches[marks.mask] > 0).sum())
    require(
        leaks == 0,
        f"hides declares '{way}', but pixels of {leaks} of the {2 * (count // 2)} hidden patches have a "
        "gradient: a network would see what it is to predict. Hide patches before any layer mixes them, or "
        f"remove '{way}' from hides {_PAGE}",
    )
    require(
        (of_patches[~marks.mask] > 0).all(),
        f"with '{way}', some visible patches have no gradient: it hides other patches than it is given. "
        f"keep lists visible patches, and hidden marks the others with True {_PAGE}",
    )


@torch.no_grad()
def _require_kept(part: Backbone, way: Hiding) -> None:
    """With nothing hidden, its tokens are those of the whole view."""
    view = View(pixels(2))
    whole = part.tokens(view)
    everywhere = whole.everywhere()
    none = torch.zeros(everywhere.shape, dtype=torch.bool)
    view_tokens = part.tokens(view, *((everywhere, None) if way == "drop" else (None, none)))
    require(
        far(view_tokens.patches, whole.patches) < 1e-4,
        f"with '{way}' and nothing hidden, it gives other tokens than without; add position embeddings "
        f"before patches are left out {_PAGE}",
    )
    if way == "drop":
        _require_positions(part, View(torch.full_like(view.data, 0.5)))


def _require_positions(part: Backbone, view: View) -> None:
    """Of equal patches, tokens depend on where they are, if they do in a whole view."""
    whole = part.tokens(view)
    half = whole.count // 2
    first, last = (
        part.tokens(view, keep).patches
        for keep in (whole.everywhere()[:, :half], whole.everywhere()[:, -half:])
    )
    require(
        far(whole.patches[:, :1].expand_as(whole.patches), whole.patches) < 1e-6 or far(first, last) > 1e-6,
        "with 'drop', equal patches at other positions give the same tokens, so positions are counted among "
        f"the patches that it keeps; add the embeddings of their positions in the grid first {_PAGE}",
    )


def _tokens(part: Backbone, view: View) -> Tokens:
    """The tokens of a view; skips if the backbone gives none."""
    try:
        return part.tokens(view)
    except UsageError as error:
        skip(str(error))


# -- heads on tokens --------------------------------------------------------------------------------------


@check("positions", "head", after=("width", "deterministic"))
def positions(subject: Subject) -> None:
    """at gives [b, n, D] for positions [b, n], [b, M, n, D] for blocks of them, in their order."""
    part = subject.part().eval()
    if part.pools:
        skip("it pools tokens, for whole images")
    marks = head_marks(_BATCH)
    assert marks.visible is not None
    assert marks.hidden is not None
    view_tokens = tokens_of(token_vectors(_BATCH), marks.visible)
    places = marks.hidden if part.fills else marks.visible  # [b, k]
    with torch.no_grad():
        out = part.at(view_tokens, places)
        backwards = part.at(view_tokens, places.flip(1))
        blocks = part.at(view_tokens, places.unflatten(1, (2, -1)))
    k = places.shape[1]
    for what, vectors, expected in (
        ("[b, n]", out, [_BATCH, k, part.out_features]),
        ("[b, M, n]", blocks, [_BATCH, 2, k // 2, part.out_features]),
    ):
        require(
            list(vectors.shape) == expected,
            f"at gives {list(vectors.shape)} for positions {what}, not {expected}; flatten the blocks with "
            f"positions.flatten(1), and restore them with unflatten(1, positions.shape[1:]) {_HEADS}",
        )
    require(
        far(backwards.flip(1), out) < 1e-4,
        "at gives other vectors if the same positions are asked for in another order; answer each position "
        f"in its place {_HEADS}",
    )
    if not part.fills:
        require(
            far(blocks.flatten(1, 2), out) < 1e-4,
            f"at gives other vectors if positions come in blocks {_HEADS}",
        )


@check("fills", "head", after=("positions",))
def fills(subject: Subject) -> None:
    """If it fills, its predictions depend on the tokens given and on positions, and on no earlier call."""
    part = subject.part().train()
    if not part.fills:
        skip("it gives only positions whose patches it was given (fills = False)")
    marks = head_marks(_BATCH)
    assert marks.visible is not None
    assert marks.hidden is not None
    x = token_vectors(_BATCH)
    view_tokens = tokens_of(x, marks.visible)
    out = _at(part, view_tokens, marks.hidden)
    require(
        far(out[:, :1].expand_as(out), out) > 1e-7,
        "it predicts the same at every hidden position; add an embedding of positions to its tokens "
        f"{_HEADS}",
    )
    elsewhere = Tokens(
        view_tokens.h, view_tokens.prefix, view_tokens.patches, marks.hidden, GRID
    )  # the same, at other places
    require(
        far(_at(part, elsewhere, marks.hidden), _at(part, view_tokens, marks.hidden)) > 1e-7,
        "its predictions do not depend on where the patches are that it was given; read tokens.positions "
        f"{_HEADS}",
    )
    _at(part, tokens_of(x), marks.hidden)  # a pass of whole views, such as another objective's
    require(
        far(_at(part, view_tokens, marks.hidden), out) == 0,
        "after a pass of whole views it gives other predictions of the same visible patches, so it has seen "
        f"what it is to predict; keep nothing from one call to the next {_HEADS}",
    )


def _at(part: Any, view_tokens: Tokens, places: Tensor) -> Tensor:
    """Predictions, with random draws of their own."""
    with torch.no_grad(), fixed_seed(0):
        return part.at(view_tokens, places)


@check("pools", "head", after=("width", "deterministic"))
def pools(subject: Subject) -> None:
    """Its declaration ``pools`` is true: image reads tokens other than ``h`` if, and only if, it is set."""
    part = subject.part().eval()
    if part.fills:
        require(
            part.pools or type(part).image is Head.image,
            f"it overrides image, but a run gives it h alone; declare pools = True {_HEADS}",
        )
        skip("it predicts patches")
    x, other = token_vectors(_BATCH), token_vectors(_BATCH, seed=6)
    other[:, 0] = x[:, 0]  # the same h
    with torch.no_grad():
        differs = far(part.image(tokens_of(x)), part.image(tokens_of(other))) > 1e-7
    require(
        part.pools or not differs,
        "image reads patches or prefix tokens, but a run gives it h alone unless it declares pools = True "
        f"{_HEADS}",
    )
    require(
        differs or not part.pools,
        f"pools is True, but image reads no tokens other than h; remove it, which saves making them {_HEADS}",
    )


def _with_moved_buffers(subject: Subject) -> Any:
    """An instance whose buffers have left their initial values, after two passes in training."""
    part = subject.part().train()
    with torch.no_grad():
        for seed in (1, 2):
            _run(part, encoder_input(part, _BATCH) + 0.1 * seed, seed)
    return part
