"""Device, precision and processes, through Accelerate."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor, nn

from contrastive.distributed import world_size
from contrastive.errors import UsageError, did_you_mean

M = TypeVar("M", bound=nn.Module)

#: How launchers tell a process how many there are: torchrun and Accelerate, then MPI's.
_LAUNCHED = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
#: What splits a model over processes; not tried on hardware yet.
_SPLITTING = {"FSDP": "FSDP", "DEEPSPEED": "DeepSpeed", "MEGATRON_LM": "Megatron-LM"}
#: How long a process may wait for another, which evaluates alone; one that has died is seen at once.
_PATIENCE = timedelta(days=7)


def join_processes() -> None:
    """Meet the other processes that a launcher has started with this one, if it has.

    Raises:
        UsageError: the launcher would train several separate copies, or one process instead of several,
            or splits the model over processes.
    """
    _refuse_launchers()
    launched = _launched()
    if launched in (None, 1):
        return
    cpu = not torch.cuda.is_available()
    if cpu:
        os.environ["ACCELERATE_USE_CPU"] = "1"  # else Accelerate takes each process for the only one
    state = PartialState(cpu=cpu, timeout=_PATIENCE)
    if state.num_processes != launched:
        raise UsageError(
            f"{launched} processes were launched, but Accelerate joins {state.num_processes}; each would "
            "train a run of its own. Say contrastive run RECIPE --processes N."
        )


def _launched() -> int | None:
    """How many processes a launcher says it started; None where none says so."""
    return next((int(os.environ[name]) for name in _LAUNCHED if name in os.environ), None)


def _refuse_launchers() -> None:
    env = os.environ
    for flag, name in _SPLITTING.items():
        if env.get(f"ACCELERATE_USE_{flag}", "false").lower() in ("1", "true"):
            raise UsageError(
                f"{name} has not been tried with this version and is refused; launch with plain data "
                "parallelism (accelerate launch --multi_gpu)."
            )
    counted = _launched() is not None
    if not counted and "ACCELERATE_DYNAMO_BACKEND" in env and "MASTER_PORT" in env:
        raise UsageError(
            "accelerate launch was asked for several processes and started one, as it does on CPUs; say "
            "contrastive run RECIPE --processes N."
        )
    if not counted and int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        raise UsageError(
            f"srun started {env['SLURM_STEP_NUM_TASKS']} processes that do not know of each other; start "
            "one a machine, and in it accelerate launch (docs/runs.md)."
        )


def refuse_processes(command: str) -> None:
    """Raise UsageError where a launcher started several processes for a command that one does alone."""
    if (_launched() or 1) > 1:
        raise UsageError(f"contrastive {command} runs in one process; start it without a launcher.")


def is_first() -> bool:
    """Whether this process is the one that talks and writes."""
    return PartialState().is_main_process


def placed(method: M, device: torch.device) -> M:
    """A method on its device, in channels-last; on several GPUs batch norm sees the batch of all of them.

    On CPUs torch has no such batch norm, and each process normalises by its own share of the batch.
    """
    if world_size() > 1 and device.type != "cpu":
        from timm.layers import convert_sync_batchnorm  # torch's own loses the activation in timm's layers

        method = convert_sync_batchnorm(method)
    return method.to(device).to(memory_format=torch.channels_last)


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


def no_tracker(name: str) -> str | None:
    """Why a tracker cannot be used, and what helps; None where it can."""
    if name in map(str, get_available_trackers()):
        return None
    known = sorted(map(str, LOGGER_TYPE_TO_CLASS))
    if name in known:
        return f"{name} is not installed: pip install {name}."
    return f"Accelerate knows no tracker '{name}', but {', '.join(known)}.{did_you_mean(name, known)}"


def make_accelerator(precision: str, folder: str, trackers: Sequence[str]) -> Accelerator:
    """The Accelerator of a run; it goes on without a tracker that :func:`no_tracker` tells of."""
    # Accelerate passes on the older of torch's two names for it.
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    AcceleratorState._reset_state()  # a second run in this Python process may ask for another precision
    return Accelerator(
        mixed_precision=resolve_precision(precision, PartialState().device),
        log_with=list(trackers) or None,
        project_dir=folder,
        # Else it takes the number from the surroundings, and divides every gradient by it.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        # Memories and averages are equal everywhere already, batch norm's running statistics are not read.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
