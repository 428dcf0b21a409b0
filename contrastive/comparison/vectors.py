"""Directions and dot products of rows, in float64 without keeping float64 copies of whole batches.

Shape letters: R rows, m vectors of a row's own, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Elements converted to float64 at a time.
_CHUNK = 2**17


def wide(reference: Tensor) -> torch.dtype:
    """The dtype of a row's statistics: float64, so that 1/temperature does not amplify rounding."""
    return torch.float32 if reference.device.type == "mps" else torch.float64


def direction(z: Tensor, dtype: torch.dtype) -> Tensor:
    """z / |z| [R, D], exact to the last bit of ``dtype``; a zero vector stays zero and gets no gradient.

    The gradient, up to 1 / |z|, is finite in the dtype of z: no row counts as shorter than its ``tiny``.

    Args:
        z: [R, D].
        dtype: of the result.
    """
    return _Direction.apply(z, dtype, max(1e-12, torch.finfo(z.dtype).tiny))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The dot product of each row of a [R, D] with the same row of b: [R], in :func:`wide`'s dtype."""
    return _Dot.apply(a, b)


def dots(a: Tensor, b: Tensor) -> Tensor:
    """Dot products of each row of a [R, D] with vectors of its own, b [R, m, D], without gradient: [R, m]."""
    return _Dots.apply(a, b)


class _Direction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, dtype: torch.dtype, least: float) -> Tensor:
        unit = torch.empty_like(z, dtype=dtype)
        norm = z.new_empty((len(z), 1), dtype=wide(z))
        for rows in _chunks(z):
            part = z[rows].to(norm.dtype)
            norm[rows] = torch.linalg.vector_norm(part, dim=1, keepdim=True)
            unit[rows] = part / norm[rows].clamp_min(least)
        ctx.least, ctx.z_dtype = least, z.dtype
        ctx.save_for_backward(unit, norm)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        unit, norm = ctx.saved_tensors
        of_z = torch.empty_like(unit, dtype=ctx.z_dtype)
        for rows in _chunks(unit):
            u, g, length = unit[rows].to(norm.dtype), gradient[rows].to(norm.dtype), norm[rows]
            along = torch.where(length < ctx.least, 0, (u * g).sum(1, keepdim=True))  # clamped at the least
            across = torch.addcmul(g, u, along, value=-1) / length.clamp_min(ctx.least)
            of_z[rows] = torch.where(length > 0, across, 0)
        return of_z, None, None


class _Dot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        products = a.new_empty(len(a), dtype=wide(a))
        for rows in _chunks(a):
            products[rows] = (a[rows].to(products.dtype) * b[rows]).sum(1)
        ctx.save_for_backward(a, b)
        return products

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        return tuple(
            gradient[:, None].to(own) * other if needs_gradient else None
            for own, other, needs_gradient in zip((a, b), (b, a), ctx.needs_input_grad, strict=True)
        )


class _Dots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(b)
        with full_precision(a):
            return torch.bmm(b, a[:, :, None])[:, :, 0].to(wide(a))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (b,) = ctx.saved_tensors
        with full_precision(b):
            return torch.bmm(gradient[:, None].to(b), b)[:, 0], None


def _chunks(rows: Tensor) -> Iterator[slice]:
    height = max(1, _CHUNK // max(1, rows.shape[1]))
    for start in range(0, len(rows), height):
        yield slice(start, min(len(rows), start + height))


@contextmanager
def full_precision(reference: Tensor) -> Iterator[None]:
    """Products in the dtype of their inputs: no autocast, no TF32 or bfloat16 inside float32 products.

    An error of 1e-4 in a score would be one of 1e-2 in its logit at temperature 0.01.
    """
    backends = [b.matmul for b in (torch.backends.cuda, torch.backends.mkldnn) if _has_precision(b)]
    before = [backend.fp32_precision for backend in backends]
    setting = None if backends else torch.get_float32_matmul_precision()  # before torch 2.9, one for all
    with torch.autocast(reference.device.type, enabled=False):
        try:
            for backend in backends:
                backend.fp32_precision = "ieee"
            if setting is not None:
                torch.set_float32_matmul_precision("highest")
            yield
        finally:
            for backend, precision in zip(backends, before, strict=True):
                backend.fp32_precision = precision
            if setting is not None:
                torch.set_float32_matmul_precision(setting)


def _has_precision(backend: Any) -> bool:
    return hasattr(getattr(backend, "matmul", None), "fp32_precision")  # since torch 2.9
