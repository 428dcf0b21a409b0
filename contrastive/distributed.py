"""Tensors and decisions that processes share. In one process every function here is the identity.

Backward passes sum over the processes. Data parallelism then averages the gradients, so a loss of local rows
against gathered keys, or one that every process computes identically, gets the gradient of the whole batch
and is never scaled by the number of processes.

Shape letters: W processes, b rows per process (the same on all), B = W b.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from contrastive.errors import ContrastiveError
from contrastive.rendezvous import meet, new_group, waiting_group

T = TypeVar("T")


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The index of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def gather(x: Tensor) -> Tensor:
    """x [b, ...] of every process, in the order of their ranks: [B, ...]. Gradients are summed back."""
    return x if world_size() == 1 else _Gather.apply(x)


def local(x: Tensor) -> Tensor:
    """This process's rows of a gathered tensor: [B, ...] -> [b, ...]; the inverse of :func:`gather`."""
    return x if world_size() == 1 else x.chunk(world_size())[rank()]


def broadcast(x: Tensor, source: int = 0) -> Tensor:
    """The x of process ``source``, on every process; without a gradient."""
    if world_size() == 1:
        return x
    received_copy = x.detach().clone()
    dist.broadcast(received_copy, source)
    return received_copy


def mean(x: Tensor) -> Tensor:
    """x averaged over the processes, as data parallelism averages gradients; so are the gradients of x."""
    return x if world_size() == 1 else _Mean.apply(x)


# -- decisions ----------------------------------------------------------------------------------------


def on_first(call: Callable[[], T]) -> T:
    """The result of ``call``, which only process 0 makes, on every process; all wait for it, however long it
    takes, as long as process 0 is alive.

    If it raises an error there that a user can fix, every process raises that error.
    """
    if world_size() == 1:
        return call()
    outcome: list[Any] = [None, None]

    def work() -> None:
        try:
            outcome[0] = call()
        except ContrastiveError as error:
            outcome[1] = error

    meet(work if rank() == 0 else None)
    dist.broadcast_object_list(outcome, 0, group=waiting_group())
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def on_each(call: Callable[[], T]) -> T:
    """The result of this process's ``call``; all wait until each has made its own, however long it takes."""
    if world_size() == 1:
        return call()
    results: list[T] = []
    meet(lambda: results.append(call()))
    return results[0]


def union(mapping: Mapping[Any, T]) -> dict[Any, T]:
    """The entries of every process's mapping; the last process wins if several have a key."""
    if world_size() == 1:
        return dict(mapping)
    each: list[Any] = [None] * world_size()
    dist.all_gather_object(each, dict(mapping))
    return {key: value for one in each for key, value in one.items()}


def explain_lost_connection(error: RuntimeError, minutes: float) -> ContrastiveError | None:
    """The error to report if a collective failed because another process exited or hangs; None if it did not.

    Args:
        minutes: how long a collective may take, ``train.timeout``.
    """
    message = str(error)
    if world_size() == 1 or not (
        isinstance(error, dist.DistError) or "gloo" in message or "by peer" in message
    ):
        return None
    if re.search(r"time[d ]*out", message, re.IGNORECASE):
        return ContrastiveError(
            f"process {rank()} of {world_size()} waited {minutes:g} min (train.timeout) for another process, "
            "which hangs or has lost its network connection. The same command continues from the last "
            "checkpoint; if steps take that long, raise train.timeout."
        )
    return ContrastiveError(
        f"process {rank()} of {world_size()} lost its connection to another process, which has exited."
    )


class Vote:
    """Whether any process was asked to stop; all processes get the same answer.

    Every call starts a vote and returns the outcome of the previous one, so that no process waits for
    another and no device for its host. All processes must call it equally often. Hosts vote over gloo.

    Args:
        interrupted: whether this process was asked to stop.
    """

    def __init__(self, interrupted: Callable[[], bool]):
        self._interrupted = interrupted
        self._group: Any = new_group() if world_size() > 1 else None
        self._running: tuple[Any, Tensor] | None = None

    @property
    def is_immediate(self) -> bool:
        """Whether a call returns its own outcome: there is one process."""
        return self._group is None

    def __call__(self) -> bool:
        if self.is_immediate:
            return self._interrupted()
        before, votes = self._running, torch.tensor(int(self._interrupted()))
        self._running = dist.all_reduce(votes, group=self._group, async_op=True), votes
        if before is None:
            return False
        before[0].wait()
        return bool(before[1])


def check_equal(parts: Mapping[str, nn.Module]) -> None:
    """Check that every process holds the same weights and state, bit for bit.

    Running statistics of batch norm are left out: each process has its own, training never reads them,
    and evaluation and checkpoints use those of process 0.

    Raises:
        ContrastiveError: some parts differ; the message names them.
    """
    if world_size() == 1:
        return
    each: list[Any] = [None] * world_size()
    dist.all_gather_object(each, {path: _digest(part) for path, part in parts.items()})
    differing = [path for path in parts if any(one[path] != each[0][path] for one in each)]
    if differing:
        raise ContrastiveError(
            f"the processes no longer agree on {', '.join(differing)}: a part drew random "
            "numbers or kept state of its own. No checkpoint was written. Train in one process, or report it "
            "to the author of the part."
        )


def _digest(part: nn.Module) -> str:
    """SHA-256 of a module's parameters and buffers, without batch norm's running statistics."""
    own = {
        id(buffer)
        for module in part.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for buffer in module.buffers(recurse=False)
    }
    digest = hashlib.sha256()
    for tensor in (*part.parameters(), *part.buffers()):
        if id(tensor) not in own:
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        everyone = x.new_empty((world_size(), *x.shape))  # [W, b, ...]
        dist.all_gather(list(everyone), x.contiguous())
        return everyone.flatten(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return local(total)


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total / world_size()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Mean.forward(ctx, gradient)


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return PartialState().is_main_process
