"""Separable linear operations on a batch of images, with weights per image.

Cropping, resizing with antialiasing, mirroring and blurring are all ``Y = R X C^T`` with a small
matrix for the rows and one for the columns, so each is two batched matrix products.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from contrastive.device import to_device

Interpolation = Literal["bilinear", "bicubic"]


def separable(pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply a linear map to the rows and one to the columns of each image.

    Args:
        pixels: float [b, C, H, W].
        rows: [b, h, H], the weights of the input rows in each output row.
        columns: [b, w, W], the weights of the input columns in each output column.

    Returns:
        [b, C, h, w]; each channel of the batch is one block of memory, the layout of colour operations.
    """
    planes = pixels.new_empty(pixels.shape[1], len(pixels), rows.shape[1], columns.shape[1])
    with torch.autocast(pixels.device.type, enabled=False):  # half precision would be visible in the pixels
        for plane, result in zip(pixels.unbind(1), planes, strict=True):
            torch.bmm(rows, torch.bmm(plane, columns.mT), out=result)
    return planes.transpose(0, 1)


def resize_weights(
    starts: np.ndarray,
    lengths: np.ndarray,
    taps: int,
    length: int,
    size: int,
    interpolation: Interpolation,
    mirror: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Weights that cut ``[start, start + length)`` out of a line and resize it with antialiasing.

    The filter is widened by the reduction factor and normalised within the cut, as in Pillow, torchvision
    and ``interpolate(antialias=True)``.

    Args:
        starts: float [b], first pixel of each cut.
        lengths: float [b], pixels of each cut, at least 1.
        taps: input pixels per output pixel, from :func:`_tap_count`.
        length: pixels of the input line.
        size: pixels of the output line.
        mirror: bool [b], whether the output runs backwards.

    Returns:
        The input pixels of each output pixel and their weights, which sum to 1: both float [b, size, taps].
    """
    radius, weigh = _FILTERS[interpolation]
    starts, lengths = starts[:, None], lengths[:, None]
    scale = lengths / size  # [b, 1], input pixels per output pixel
    width = np.maximum(scale, 1)
    output = np.arange(size, dtype=starts.dtype)
    output = np.where(mirror[:, None], size - 1 - output, output)
    centre = (output + 0.5) * scale  # [b, size], from the start of the cut
    first = np.floor(centre + starts - radius * width).clip(0, length - taps)
    source = first[:, :, None] + np.arange(taps, dtype=starts.dtype)  # [b, size, taps]
    inside = source - starts[:, None]
    distance = np.abs(inside + 0.5 - centre[:, :, None])
    distance /= width[:, None]
    weights = weigh(distance)
    weights *= inside >= 0
    weights *= inside < lengths[:, None]
    weights /= torch.from_numpy(weights).sum(-1, keepdim=True).numpy()  # numpy's order of the sum is another
    return source, weights


def _tap_count(longest: float, length: int, size: int, interpolation: Interpolation) -> int:
    """Pixels of a line of ``length`` that a filter reaches, for cuts of up to ``longest`` pixels."""
    return min(length, 2 * math.ceil(_FILTERS[interpolation][0] * max(longest / size, 1)) + 1)


def _triangle(distance: np.ndarray) -> np.ndarray:
    return np.maximum(1 - distance, 0)


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution with a = -1/2, as in Pillow and torch with antialiasing."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance < 1, near, far) * (distance < 2)


#: Radius and weight at a distance from the centre, in pixels.
_FILTERS = {"bilinear": (1, _triangle), "bicubic": (2, _cubic)}


def crop_and_resize(
    pixels: Tensor,
    boxes: np.ndarray,
    size: tuple[int, int],
    interpolation: Interpolation,
    mirror: np.ndarray | None = None,
) -> Tensor:
    """Cut a box out of each image, resize it with antialiasing and mirror some, in one resampling.

    Args:
        pixels: float [b, C, H, W] in [0, 1].
        boxes: int [b, 4], top, left, height and width in pixels.
        size: (h, w) of the output.
        mirror: bool [b], images to mirror left to right.

    Returns:
        [b, C, h, w] in [0, 1] (cubic overshoot is clipped), laid out as by :func:`separable`.
    """
    boxes = boxes.astype(np.float64 if pixels.dtype == torch.float64 else np.float32)
    upright = np.zeros(len(boxes), bool)
    sides: list[_Cuts] = []
    for axis, flags in enumerate((upright, upright if mirror is None else mirror)):
        lengths, length = boxes[:, 2 + axis], pixels.shape[2 + axis]
        taps = _tap_count(float(lengths.max()), length, size[axis], interpolation)
        sides.append(_Cuts(boxes[:, axis], lengths, flags, (taps, length, size[axis])))
    rows, columns = sides
    if rows.shape == columns.shape:  # both at once: half the calls
        starts, lengths, flags = (np.concatenate(pair) for pair in zip(rows[:3], columns[:3], strict=True))
        maps = _line_maps(_Cuts(starts, lengths, flags, rows.shape), interpolation, pixels).chunk(2)
    else:
        maps = tuple(_line_maps(side, interpolation, pixels) for side in sides)
    return separable(pixels, *maps).clamp_(0, 1)


class _Cuts(NamedTuple):
    """Cuts of n lines, along one axis."""

    starts: np.ndarray  # [n]
    lengths: np.ndarray  # [n]
    mirror: np.ndarray  # bool [n]
    shape: tuple[int, int, int]  # taps, length of a line, size of the result


def _line_maps(cuts: _Cuts, interpolation: Interpolation, pixels: Tensor) -> Tensor:
    """Matrices [n, size, length] that resize cuts of lines, on the device of the pixels."""
    starts, lengths, mirror, (taps, length, size) = cuts
    parts = resize_weights(starts, lengths, taps, length, size, interpolation, mirror)
    source, weights = to_device(np.stack(parts), pixels)  # one copy for both
    return weights.new_zeros(len(starts), size, length).scatter_(2, source.long(), weights)


def crop_one(
    image: Tensor, box: np.ndarray, size: tuple[int, int], interpolation: Interpolation, factor: int = 1
) -> Tensor:
    """What :func:`crop_and_resize` does, for one image on a CPU: the cost depends on its box only.

    Args:
        image: uint8 [C, H, W].
        box: int64 [4], top, left, height and width in the whole image.
        size: (h, w) of the output.
        factor: by which the sides of ``image`` are reduced; the edges of the box are rounded to its pixels.

    Returns:
        uint8 [C, h, w].
    """
    top, left_edge, height, width = box.tolist()
    top, bottom, left_edge, right = (
        (2 * edge + factor) // (2 * factor) for edge in (top, top + height, left_edge, left_edge + width)
    )
    part = image[None, :, top:bottom, left_edge:right]
    # For uint8, torchvision's resize calls the same routine.
    return functional.interpolate(part, size, mode=interpolation, antialias=True)[0].contiguous()


def gaussian(sigma: np.ndarray, radius: int) -> np.ndarray:
    """Taps of Gaussians of standard deviations ``sigma`` [b], in pixels: [b, 2 * radius + 1], sum 1 each.

    Taps below 1e-10 become zero: products with denormal numbers take a CPU ten times as long.
    """
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma[:, None]) ** 2)
    kernel /= kernel.sum(axis=1, keepdims=True)
    return np.where(kernel > 1e-10, kernel, 0)


def blur_weights(kernel: np.ndarray, length: int, pixels: Tensor) -> Tensor:
    """Weights of symmetric taps along a line that is extended by reflection, on the device of the pixels.

    Args:
        kernel: [b, 2 * radius + 1], radius less than ``length``.
        length: pixels of the line.

    Returns:
        [b, length, length]; each row has the sum of the kernel.
    """
    b, taps = kernel.shape
    offsets = np.arange(taps) - taps // 2
    source = np.arange(length)[:, None] + offsets  # [length, taps], before reflection
    source = length - 1 - np.abs(length - 1 - np.abs(source))
    flat = to_device(np.concatenate([kernel.ravel(), source.ravel()]), pixels)  # one copy for both
    weights, index = flat[: b * taps].view(b, 1, taps), flat[b * taps :].long().view(length, taps)
    shape = (b, length, taps)
    return flat.new_zeros(b, length, length).scatter_add_(2, index.expand(shape), weights.expand(shape))


#: Output pixels of a line per matrix product in :func:`blur_one`.
_BLOCK = 48


def blur_one(image: Tensor, kernel: np.ndarray, out: Tensor) -> None:
    """:func:`separable` with :func:`blur_weights` for one large image, skipping weights that are zero.

    A line is cut into blocks. Each is the product of a block of the weights with the slice of pixels that it
    reaches, so no pixel is copied.

    Args:
        image: [C, h, w], on a CPU.
        kernel: [2 * radius + 1], as for :func:`blur_weights`.
        out: [C, h, w], each channel one block of memory.
    """
    channels, height, width = image.shape
    rows = _blocks(kernel, height)
    columns = rows if width == height else _blocks(kernel, width)
    lines = image.reshape(-1, width)
    smooth = torch.empty_like(lines)
    with torch.autocast(image.device.type, enabled=False):
        for (start, weights), block in zip(columns, smooth.split(_BLOCK, dim=1), strict=True):
            torch.mm(lines.narrow(1, start, weights.shape[1]), weights.T, out=block)
        smooth = smooth.view(channels, height, width)
        for (start, weights), block in zip(rows, out.split(_BLOCK, dim=1), strict=True):
            window = smooth.narrow(1, start, weights.shape[1])
            torch.bmm(weights.expand(channels, -1, -1), window, out=block)


def _blocks(kernel: np.ndarray, length: int) -> list[tuple[int, Tensor]]:
    """For each block of a line, the first pixel that it reaches and its weights [block, pixels].

    All blocks have the same weights except at the ends, where taps beyond the line are folded back.
    """
    radius = len(kernel) // 2
    band = np.zeros((_BLOCK, _BLOCK + 2 * radius), np.float32)  # row i has the taps from column i on
    for row, line in enumerate(band):
        line[row : row + len(kernel)] = kernel
    blocks = []
    for start in range(0, length, _BLOCK):
        size = min(_BLOCK, length - start)
        weights = band[:size, : size + 2 * radius]
        before, after = max(radius - start, 0), max(start + size + radius - length, 0)
        if before:
            weights = _fold(weights, before)
        if after:
            weights = _fold(weights[:, ::-1], after)[:, ::-1]
        blocks.append((start - radius + before, torch.from_numpy(np.ascontiguousarray(weights))))
    return blocks


def _fold(weights: np.ndarray, count: int) -> np.ndarray:
    """Drop the first ``count`` columns and add them to the columns that mirror them."""
    inner = weights[:, count:].copy()
    inner[:, 1 : count + 1] += weights[:, count - 1 :: -1][:, :count]
    return inner
