"""The precision that ``train.precision`` means on a device, for a network."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from contrastive.device import cpu_features
from contrastive.errors import UsageError

#: Side in pixels of the smallest images whose convolutions AMX computes faster in bf16 than in float32. Below
#: it, maps have few pixels, for which oneDNN's bf16 gradients are many times slower than their products.
_AMX_LEAST_SIDE = 96


def resolve_precision(precision: str, device: torch.device, few_pixels: bool = False) -> str:
    """Accelerate's name for a recipe's precision: ``auto`` is bf16 if that is faster.

    A fixed rule, never a timing, so that two runs on a machine compute the same (docs/performance.md).

    Args:
        few_pixels: whether the network :func:`convolves_few_pixels`.

    Raises:
        UsageError: fp16 on a CPU. Accelerate would silently train in float32.
    """
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("train.precision: fp16 needs a GPU; use auto, bf16 or fp32 on a CPU.")
    if precision != "auto":
        return {"fp32": "no"}.get(precision, precision)
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    return "bf16" if device.type == "cpu" and _bf16_is_faster(few_pixels) else "no"


def recipe_name(precision: str) -> str:
    """A recipe's name for Accelerate's precision."""
    return {"no": "fp32"}.get(precision, precision)


def convolves_few_pixels(network: nn.Module, size: int) -> bool:
    """Whether a network has convolutions on maps of few pixels.

    The patches of a transformer do not count: windows that do not overlap are one matrix product.

    Args:
        size: side in pixels of the images.
    """
    layers = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    overlaps = (
        taps > step for layer in layers for taps, step in zip(layer.kernel_size, layer.stride, strict=True)
    )
    return size < _AMX_LEAST_SIDE and any(overlaps)


def _bf16_is_faster(few_pixels: bool) -> bool:
    """Whether this CPU trains faster in bf16 than in float32.

    Intel's does so only in AMX tiles, which a virtual machine may hide: with AVX-512 a product takes about
    twice as long in bf16 as in float32. With AMD's AVX-512 it takes half as long.
    """
    features = cpu_features()
    if "amx_tile" in features:
        return not few_pixels
    return "avx512_bf16" in features and not _is_intel()


def _is_intel() -> bool:
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
