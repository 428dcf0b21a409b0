"""Sizes that no machine has: what would not fit into memory is refused before it is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from contrastive.errors import UsageError

#: Pixels a view may have on a side.
MAX_SIDE = 2048
_LARGE = 16 * 2**20  # bytes of a tensor from which on the results of operations on it are foreseen
#: What computing a tensor takes, in sizes of it: convolutions reorder theirs, batch norm keeps its input.
_WORKSPACE = 4


class MemoryGuard(TorchDispatchMode):
    """Within it, a tensor on the CPU that would not fit into the memory that is free raises UsageError.

    Linux grants more memory than there is, and ends the process once it is touched: no allocation
    fails that could be caught. So of each operation that makes a tensor from nothing, or from large
    ones, the size of the result is asked on the meta device first.
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
        if (
            devices == {"cpu"}
            and _makes_memory(func)
            and (not tensors or max(map(_bytes, tensors)) >= _LARGE)
        ):
            foreseen = _foreseen(func, args, kwargs, bool(tensors))
            _check(foreseen, _WORKSPACE * foreseen if tensors else foreseen)
        try:
            return func(*args, **kwargs)
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):
                raise
            raise _refused(str(error).rpartition("tried to allocate ")[2].partition(".")[0]) from None


def _makes_memory(func: Any) -> bool:
    return not (func._schema.is_mutable or func.is_view)


def _foreseen(func: Any, args: Sequence[Any], kwargs: dict[str, Any], from_tensors: bool) -> float:
    """Bytes of an operation's results; 0 where the meta device cannot tell."""
    if not from_tensors:
        if not any(argument.name == "device" for argument in func._schema.arguments):
            return 0
        kwargs = {**kwargs, "device": "meta"}
    try:
        made = func(*tree_map(_meta, args), **tree_map(_meta, kwargs))
    except RuntimeError as error:  # what has no meta kernel, or more bytes than an integer holds
        return float("inf") if "overflow" in str(error) else 0
    return sum(_bytes(value) for value in tree_flatten(made)[0] if isinstance(value, torch.Tensor))


def _meta(value: Any) -> Any:
    on_cpu = isinstance(value, torch.Tensor) and value.device.type == "cpu"
    return (
        torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
        if on_cpu
        else value
    )


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _check(size: float, needed: float) -> None:
    if needed >= _LARGE and needed > psutil.virtual_memory().available:
        raise _refused(
            f"{size / 2**30:,.1f} GiB" if size < float("inf") else "more bytes than can be counted"
        )


def _refused(size: str) -> UsageError:
    free = psutil.virtual_memory().available / 2**30
    return UsageError(
        f"a tensor of {size} is too much for the {free:.1f} GiB of memory that are free; make it smaller."
    )
