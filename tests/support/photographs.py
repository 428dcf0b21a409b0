"""Encoded photographs, generated, and how much two images differ."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from PIL import Image


def photograph(height: int, width: int, form: str = "JPEG", noise: float = 8, **options: Any) -> bytes:
    """A smooth picture with noise, as from a camera."""
    rng = np.random.default_rng(height * width)
    patches = Image.fromarray(rng.integers(0, 256, (height // 50 + 2, width // 50 + 2, 3), dtype=np.uint8))
    smooth = np.asarray(patches.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    pixels = (smooth + rng.normal(0, noise, smooth.shape)).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean absolute difference, of 255."""
    return float((a.float() - b.float()).abs().mean())
