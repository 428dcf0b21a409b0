"""Checks of backbones and heads."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import torch
from torch import Tensor, nn

from contrastive.testing.equality import far, same, through_checkpoint
from contrastive.testing.framework import check, fail, require, skip
from contrastive.testing.materials import generator, pixels
from contrastive.testing.subjects import IN_FEATURES, Subject
from contrastive.testing.surroundings import fixed_seed

_ENCODERS = ("backbone", "head")
_BATCH = 6


def _input(kind: str, b: int = _BATCH) -> Tensor:
    return pixels(b) if kind == "backbone" else torch.randn(b, IN_FEATURES, generator=generator(5))


def _width(part: Any) -> Any:
    return part.features if part.kind == "backbone" else part.out_features


def _run(part: nn.Module, x: Tensor, seed: int = 0) -> Tensor:
    """The output, with its random draws (dropout) from ``seed``."""
    with fixed_seed(seed):
        return part(x)


@check("width", *_ENCODERS, after=("builds",))
def width(subject: Subject) -> None:
    """Its output is [b, width] as declared: ``features`` of a backbone, ``out_features`` of a head."""
    part = subject.part()
    for mode in (True, False):
        out = _run(part.train(mode), _input(subject.kind))
        declared_width = _width(part)
        require(isinstance(declared_width, int), f"the declared width is {declared_width!r}, not an integer")
        require(
            isinstance(out, Tensor) and out.shape == (_BATCH, declared_width),
            f"{_BATCH} inputs give {list(out.shape) if isinstance(out, Tensor) else type(out).__name__}; "
            f"its declared width is {declared_width}, so [{_BATCH}, {declared_width}] was expected",
        )


@check("finite", *_ENCODERS, after=("width",))
def finite(subject: Subject) -> None:
    """Output and gradients are finite in float32 and, as training runs it, under bfloat16 autocast."""
    for precision in (torch.float32, torch.bfloat16):
        part = subject.part().train()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            out = _run(part, _input(subject.kind))
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
    x = _input(subject.kind).requires_grad_()
    _run(part, x).square().sum().backward()
    require(
        x.grad is not None and x.grad.abs().sum() > 0,
        "no gradient reaches its input; do not detach in forward",
    )
    without_gradient = [name for name, p in part.named_parameters() if p.requires_grad and p.grad is None]
    require(
        not without_gradient,
        f"no gradient reaches {', '.join(without_gradient[:3])}: several processes would wait for it; "
        "remove unused modules, or freeze them with requires_grad_(False)",
    )


@check("deterministic", *_ENCODERS, after=("width",))
def deterministic(subject: Subject) -> None:
    """Built and run twice with one seed, weights and outputs are equal bit for bit."""
    first, second = subject.part(seed=3), subject.part(seed=3)
    require(
        same(first.state_dict(), second.state_dict()),
        "built twice with one seed, its weights differ; draw them from torch's default generator",
    )
    x = _input(subject.kind)
    require(
        torch.equal(_run(first.train(), x), _run(second.train(), x)),
        "two equal instances give different outputs with one seed; draw from torch's default generator",
    )


@check("rows", *_ENCODERS, after=("width", "deterministic"))
def rows(subject: Subject) -> None:
    """In evaluation every row is encoded on its own: the rest of the batch does not change it."""
    part = _with_moved_buffers(subject).eval()
    x = _input(subject.kind)
    with torch.no_grad():
        whole = part(x)
        pieces = torch.cat([part(x[:1]), part(x[1:4]), part(x[4:])])
    require(
        far(whole, pieces) < 1e-4,
        "in evaluation a row's output depends on the other rows; use running statistics unless self.training",
    )


@check("state_dict", *_ENCODERS, after=("width", "deterministic"))
def state_dict(subject: Subject) -> None:
    """A fresh instance that loads its state_dict from a checkpoint gives the same outputs."""
    part = _with_moved_buffers(subject)
    fresh = subject.part(seed=9)
    fresh.load_state_dict(through_checkpoint(part.state_dict(), "its state_dict"))
    x = _input(subject.kind)
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
    x = _input(subject.kind)
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
    from contrastive.errors import UsageError

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


def _with_moved_buffers(subject: Subject) -> Any:
    """An instance whose buffers have left their initial values, after two passes in training."""
    part = subject.part().train()
    with torch.no_grad():
        for seed in (1, 2):
            _run(part, _input(subject.kind) + 0.1 * seed, seed)
    return part
