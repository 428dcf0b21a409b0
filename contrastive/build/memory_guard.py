"""Refuses tensors that do not fit into memory, before they are allocated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from contrastive.errors import UsageError

#: The largest side of a view, in pixels.
MAX_SIDE = 2048
_LARGE = 16 * 2**20  # bytes: for tensors from this size on, the size of results is computed first
#: Memory for computing a tensor, in multiples of its size: convolutions reorder, batch norm keeps its input.
_WORKSPACE = 4


class MemoryGuard(TorchDispatchMode):
    """A context in which a tensor on the CPU that does not fit into the free memory raises UsageError.

    Linux grants more memory than there is, and kills the process that uses it, so there is no failed
    allocation to catch. For every operation that creates a tensor from nothing or from large tensors, the
    meta device therefore computes the size of the result first.
    """

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
        devices = {tensor.device.type for tensor in tensors} or {
            torch.device(kwargs.get("device") or "cpu").type
        }
        if devices == {"cpu"} and _allocates(func) and (not tensors or max(map(_bytes, tensors)) >= _LARGE):
            size = _result_bytes(func, args, kwargs, bool(tensors))
            _check(size, _WORKSPACE * size if tensors else size)
        try:
            return func(*args, **kwargs)
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):
                raise
            raise _memory_error(str(error).rpartition("tried to allocate ")[2].partition(".")[0]) from None


def _allocates(func: Any) -> bool:
    return not (func._schema.is_mutable or func.is_view)


def _result_bytes(func: Any, args: Sequence[Any], kwargs: dict[str, Any], from_tensors: bool) -> float:
    """Bytes of an operation's results; 0 if the meta device cannot compute them."""
    if not from_tensors:
        if not any(argument.name == "device" for argument in func._schema.arguments):
            return 0
        kwargs = {**kwargs, "device": "meta"}
    try:
        results = func(*tree_map(_meta, args), **tree_map(_meta, kwargs))
    except RuntimeError as error:  # no meta kernel, or more bytes than an integer holds
        return float("inf") if "overflow" in str(error) else 0
    return sum(_bytes(value) for value in tree_flatten(results)[0] if isinstance(value, torch.Tensor))


def _meta(value: Any) -> Any:
    on_cpu = isinstance(value, torch.Tensor) and value.device.type == "cpu"
    return (
        torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
        if on_cpu
        else value
    )


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _check(size: float, demand: float) -> None:
    if demand >= _LARGE and demand > psutil.virtual_memory().available:
        raise _memory_error(
            f"{size / 2**30:,.1f} GiB" if size < float("inf") else "more bytes than can be counted"
        )


def _memory_error(size: str) -> UsageError:
    free = psutil.virtual_memory().available / 2**30
    return UsageError(
        f"a tensor of {size} does not fit in the {free:.1f} GiB of free memory; reduce its size."
    )
