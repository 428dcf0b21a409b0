"""The precision that ``train.precision`` means on a device, for a network."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from contrastive.device import cpu_features
from contrastive.errors import UsageError

#: Width of the narrowest transformer that AMX trains at least as fast in bf16 as in float32. Below it, casts
#: and the many small operators between the products cost more than bf16 saves.
_AMX_LEAST_WIDTH = 128


def resolve_precision(precision: str, device: torch.device, narrow: bool = False) -> str:
    """Accelerate's name for a recipe's precision: ``auto`` is bf16 if that is faster.

    A fixed rule, never a timing, so that two runs on a machine compute the same (docs/performance.md).

    Args:
        narrow: whether the network :func:`is_narrow_transformer`.

    Raises:
        UsageError: fp16 on a CPU. Accelerate would silently train in float32.
    """
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("train.precision: fp16 needs a GPU; use auto, bf16 or fp32 on a CPU.")
    if precision != "auto":
        return {"fp32": "no"}.get(precision, precision)
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    return "bf16" if device.type == "cpu" and _bf16_is_faster(narrow) else "no"


def recipe_name(precision: str) -> str:
    """A recipe's name for Accelerate's precision."""
    return {"no": "fp32"}.get(precision, precision)


def is_narrow_transformer(network: nn.Module) -> bool:
    """Whether a network computes narrow matrix products, and no convolutions but those of its patches.

    Windows that do not overlap are one matrix product; those that do make a convolutional network.
    """
    layers = list(network.modules())
    widths = [layer.in_features for layer in layers if isinstance(layer, nn.Linear)]
    is_convolutional = any(
        taps > step
        for layer in layers
        if isinstance(layer, nn.Conv2d)
        for taps, step in zip(layer.kernel_size, layer.stride, strict=True)
    )
    return not is_convolutional and min(widths, default=_AMX_LEAST_WIDTH) < _AMX_LEAST_WIDTH


def _bf16_is_faster(narrow: bool) -> bool:
    """Whether this CPU trains faster in bf16 than in float32.

    Intel's does so only in AMX tiles, which a virtual machine may hide: with AVX-512 a product takes about
    twice as long in bf16 as in float32. With AMD's AVX-512 it takes half as long.
    """
    features = cpu_features()
    if "amx_tile" in features:
        return not narrow
    return "avx512_bf16" in features and not _is_intel()


def _is_intel() -> bool:
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
