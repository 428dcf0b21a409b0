"""Copies between host and device, the peak memory of a process, and the features of its CPU."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

_FEATURES = ("avx2", "avx512", "avx512_bf16", "amx_tile")
#: How many of them oneDNN uses at most, by its limit.
_FEATURES_UP_TO = {
    **dict.fromkeys(("SSE41", "AVX"), 0),
    **dict.fromkeys(("AVX2", "AVX2_VNNI", "AVX2_VNNI_2"), 1),
    **dict.fromkeys(("AVX512_CORE", "AVX512_CORE_VNNI"), 2),
    **dict.fromkeys(("AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX10_1_512"), 3),
}


def to_host(values: Tensor) -> Callable[[], list[float]]:
    """Start to copy numbers [n] to the host; calling the result waits only for that copy and returns them.

    A plain ``tolist`` one step later would also wait for the step that the GPU has started since.
    """
    if not values.is_cuda:
        return values.tolist
    host = values.to("cpu", non_blocking=True)  # into pinned memory
    copy_event = torch.cuda.Event()
    copy_event.record()

    def read() -> list[float]:
        copy_event.synchronize()
        return host.tolist()

    return read


def peak_memory_mib(device: torch.device) -> float:
    """Peak memory in MiB: allocated on the GPU, or used by this process on a CPU."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss counts bytes on macOS, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def to_device(values: np.ndarray, pixels: Tensor) -> Tensor:
    """Parameters on the device of the pixels: floats in their precision, other types unchanged."""
    if values.dtype.kind == "f" and pixels.dtype == torch.float32:
        values = values.astype(np.float32, copy=False)  # by numpy: a call of torch less
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    if tensor.is_floating_point():
        tensor = tensor.to(pixels.dtype)
    return send(tensor, pixels.device)


def best_device() -> torch.device:
    """Where a process computes unless it is told otherwise: a GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor of the host on a device; a GPU keeps working meanwhile."""
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    # From pageable memory, every copy would wait for the device's whole queue.
    return tensor.pin_memory().to(device, non_blocking=True)


def cpu_features() -> list[str]:
    """Extensions of this CPU that decide how torch computes and rounds, the latest last; none if not x86.

    As far as ``ONEDNN_MAX_CPU_ISA`` allows them, if it is set.
    """
    limit = _FEATURES_UP_TO.get(os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper(), len(_FEATURES))
    return [name for name in _FEATURES[:limit] if getattr(torch.cpu, f"_is_{name}_supported", bool)()]
