"""Tensors of all processes. In one process every function here is the identity.

Backward passes sum over the processes: together with the mean that data parallelism takes of the
gradients, a loss of local rows against gathered keys, or one computed alike on every process, gets the
gradient of the whole batch and is never scaled by the number of processes.

Shape letters: W processes, b rows of each (the same on all), B = W b.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def gather(x: Tensor) -> Tensor:
    """x [b, ...] of every process, in the order of their ranks: [B, ...]. Gradients are summed back."""
    return x if world_size() == 1 else _Gather.apply(x)


def local(x: Tensor) -> Tensor:
    """This process's rows of a gathered tensor: [B, ...] -> [b, ...]; the inverse of :func:`gather`."""
    return x if world_size() == 1 else x.chunk(world_size())[rank()]


def broadcast(x: Tensor, source: int = 0) -> Tensor:
    """x as the process ``source`` has it, on every process; without a gradient."""
    if world_size() == 1:
        return x
    received = x.detach().clone()
    dist.broadcast(received, source)
    return received


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        pieces = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(pieces, x.contiguous())
        return torch.cat(pieces)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return local(total)
