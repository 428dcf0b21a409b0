"""Device and precision, through Accelerate."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import GradientAccumulationPlugin

from contrastive.convolutions import in_channels_last
from contrastive.device import cpu_features
from contrastive.distributed import world_size
from contrastive.errors import UsageError, did_you_mean
from contrastive.parts import Target, ViewPipeline
from contrastive.training.method import Method

M = TypeVar("M", bound=Method)


def shares_statistics(target: Target, device: torch.device) -> bool:
    """Whether batch norm normalises by the images of all processes (SyncBN).

    On CPUs torch has no such batch norm, and a target may rule it out (:attr:`Target.own_statistics`): each
    process then normalises by its own share of the batch.
    """
    return world_size() > 1 and device.type != "cpu" and not target.own_statistics


def move_to_device(method: M, device: torch.device) -> M:
    """Move a method to its device, in channels-last; batch norm sees the batch of all processes if
    :func:`shares_statistics`."""
    if shares_statistics(method.target, device):
        from timm.layers import convert_sync_batchnorm  # torch's own loses the activation in timm's layers

        method = convert_sync_batchnorm(method)
    return in_channels_last(method, device)


def choose_kernels(pipelines: Sequence[ViewPipeline], image_size: tuple[int, int] | None) -> None:
    """Let cuDNN time its convolutions and keep the fastest, if every step has views of the same sizes.

    Args:
        pipelines: of the views.
        image_size: (H, W) of all images; None if they differ.
    """
    has_fixed_sizes = all(pipeline.output_size(image_size) is not None for pipeline in pipelines)
    torch.backends.cudnn.benchmark = has_fixed_sizes


def resolve_precision(precision: str, device: torch.device) -> str:
    """Accelerate's name for a recipe's precision: ``auto`` is bf16 if that is faster.

    Raises:
        UsageError: fp16 on a CPU. Accelerate would silently train in float32.
    """
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("train.precision: fp16 needs a GPU; use auto, bf16 or fp32 on a CPU.")
    if precision != "auto":
        return {"fp32": "no"}.get(precision, precision)
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    return "bf16" if device.type == "cpu" and _bf16_is_fast() else "no"


def _bf16_is_fast() -> bool:
    """Whether this CPU computes in bf16 faster than in float32.

    Intel's does so only in AMX tiles, which a virtual machine may hide: with AVX-512 a product takes about
    twice as long in bf16 as in float32. With AMD's AVX-512 it takes half as long.
    """
    features = cpu_features()
    return "amx_tile" in features or ("avx512_bf16" in features and not _is_intel())


def _is_intel() -> bool:
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def tracker_problem(name: str) -> str | None:
    """Why a tracker cannot be used, and what helps; None if it can be used."""
    if name in map(str, get_available_trackers()):
        return None
    names = sorted(map(str, LOGGER_TYPE_TO_CLASS))
    if name in names:
        return f"{name} is not installed: pip install {name}."
    return f"Accelerate has no tracker '{name}'; it has {', '.join(names)}.{did_you_mean(name, names)}"


def make_accelerator(precision: str, folder: str, trackers: Sequence[str]) -> Accelerator:
    """The Accelerator of a run. It leaves out a tracker for which :func:`tracker_problem` has a reason."""
    # Accelerate passes on the older of torch's two names for it.
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    AcceleratorState._reset_state()  # a second run in this Python process may ask for another precision
    return Accelerator(
        mixed_precision=resolve_precision(precision, PartialState().device),
        log_with=list(trackers) or None,
        project_dir=folder,
        # Otherwise it reads the number from an environment variable and divides every gradient by it.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        # Memories and averages are equal everywhere already; training does not read running statistics.
        # Gradients are views of the buckets that processes exchange, not a second copy of them.
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
        ],
    )
