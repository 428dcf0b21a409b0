"""Device and precision, through Accelerate."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from torch import Tensor

from contrastive.errors import UsageError


def resolve_precision(precision: str, device: torch.device) -> str:
    """Accelerate's name for a recipe's precision: ``auto`` is bf16 where that is faster.

    Raises:
        UsageError: fp16 on a CPU, where Accelerate would silently train in float32.
    """
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("train.precision: fp16 needs a GPU; say auto, bf16 or fp32 on a CPU.")
    if precision != "auto":
        return {"fp32": "no"}.get(precision, precision)
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    return "bf16" if device.type == "cpu" and _bf16_is_fast() else "no"


def _bf16_is_fast() -> bool:
    """Whether this CPU computes in bf16 faster than in float32.

    Intel's does so in AMX tiles alone, which a virtual machine may hide: its AVX-512 takes about twice as
    long for a product in bf16 as in float32. AMD's takes half.
    """
    amx, avx = (getattr(torch.cpu, f"_is_{unit}_supported", bool)() for unit in ("amx_tile", "avx512_bf16"))
    return amx or (avx and not _made_by_intel())


def _made_by_intel() -> bool:
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def to_host(values: Tensor) -> Callable[[], list[float]]:
    """Begin to copy numbers [n] to the host; calling the result waits for that copy alone and gives them.

    A plain ``tolist`` a step later would wait for the step that a GPU has been given since, too.
    """
    if not values.is_cuda:
        return values.tolist
    host = values.to("cpu", non_blocking=True)  # into pinned memory
    arrived = torch.cuda.Event()
    arrived.record()

    def read() -> list[float]:
        arrived.synchronize()
        return host.tolist()

    return read


def make_accelerator(precision: str, folder: str, trackers: Sequence[str]) -> Accelerator:
    """The Accelerator of a run.

    Raises:
        UsageError: several processes were launched, or a tracker is not available.
    """
    state = PartialState()
    # A launcher may have started several processes that Accelerate takes for one each (torchrun on a CPU).
    if max(state.num_processes, int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise UsageError(
            "This version trains in one process; start it without torchrun or accelerate launch."
        )
    available = {str(tracker) for tracker in get_available_trackers()}
    for tracker in trackers:
        if tracker not in available:  # Accelerate would go on without it
            raise UsageError(
                f"train.trackers: '{tracker}' is not installed or not known to Accelerate; available: "
                f"{', '.join(sorted(available)) or 'none'}. Try pip install '{tracker}'."
            )
    AcceleratorState._reset_state()  # a second run in this Python process may ask for another precision
    return Accelerator(
        mixed_precision=resolve_precision(precision, state.device),
        log_with=list(trackers) or None,
        project_dir=folder,
    )
