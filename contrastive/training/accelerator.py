"""Device, processes and trackers, through Accelerate."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TypeVar

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import GradientAccumulationPlugin

from contrastive.convolutions import in_channels_last
from contrastive.distributed import world_size
from contrastive.errors import did_you_mean
from contrastive.parts import Target, ViewPipeline
from contrastive.training.method import Method
from contrastive.training.precision import resolve_precision

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


def tracker_problem(name: str) -> str | None:
    """Why a tracker cannot be used, and what helps; None if it can be used."""
    if name in map(str, get_available_trackers()):
        return None
    names = sorted(map(str, LOGGER_TYPE_TO_CLASS))
    if name in names:
        return f"{name} is not installed: pip install {name}."
    return f"Accelerate has no tracker '{name}'; it has {', '.join(names)}.{did_you_mean(name, names)}"


def make_accelerator(
    precision: str, folder: str, trackers: Sequence[str], narrow: bool = False
) -> Accelerator:
    """The Accelerator of a run. It leaves out a tracker for which :func:`tracker_problem` has a reason.

    ``precision`` and ``narrow`` as of :func:`resolve_precision`.
    """
    # Accelerate passes on the older of torch's two names for it.
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    AcceleratorState._reset_state()  # a second run in this Python process may ask for another precision
    return Accelerator(
        mixed_precision=resolve_precision(precision, PartialState().device, narrow),
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
