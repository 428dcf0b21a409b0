"""Separable linear operations on a batch of images, with weights per image.

Cropping, resizing with antialiasing, mirroring and blurring are all ``Y = R X C^T`` with a small
matrix for the rows and one for the columns, so each is two batched matrix products.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

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
    b, channels, height, _ = pixels.shape
    narrow = pixels.new_empty(b, height, columns.shape[1])
    planes = pixels.new_empty(channels, b, rows.shape[1], columns.shape[1])
    with torch.autocast(pixels.device.type, enabled=False):  # half precision would be visible in the pixels
        for plane, result in zip(pixels.unbind(1), planes, strict=True):
            torch.bmm(plane, columns.mT, out=narrow)
            torch.bmm(rows, narrow, out=result)
    return planes.transpose(0, 1)


def resize_weights(
    starts: Tensor,
    lengths: Tensor,
    longest: int,
    length: int,
    size: int,
    interpolation: Interpolation,
    mirror: Tensor | None = None,
) -> Tensor:
    """Weights that cut ``[start, start + length)`` out of a line and resize it with antialiasing.

    The filter is widened by the reduction factor and normalised within the cut, as in Pillow, torchvision
    and ``interpolate(antialias=True)``.

    Args:
        starts: float [b], first pixel of each cut.
        lengths: float [b], pixels of each cut, at least 1.
        longest: the largest of ``lengths``, passed so that nothing waits for the device.
        length: pixels of the input line.
        size: pixels of the output line.
        mirror: bool [b], whether the output runs backwards.

    Returns:
        float [b, size, length]; each row sums to 1.
    """
    radius, weigh = _FILTERS[interpolation]
    taps = min(length, 2 * math.ceil(radius * max(longest / size, 1)) + 1)  # pixels that a filter reaches
    starts, lengths = starts[:, None], lengths[:, None]
    scale = lengths / size  # [b, 1], input pixels per output pixel
    width = scale.clamp(min=1)
    output = torch.arange(size, device=starts.device, dtype=starts.dtype).expand(len(starts), size)
    if mirror is not None:
        output = torch.where(mirror[:, None], size - 1 - output, output)
    centre = (output + 0.5) * scale  # [b, size], from the start of the cut
    first = (centre + starts - radius * width).floor_().clamp_(0, length - taps)
    source = first[:, :, None] + torch.arange(taps, device=starts.device)  # [b, size, taps]
    inside = source - starts[:, None]
    distance = (inside + 0.5 - centre[:, :, None]).abs_().div_(width[:, None])
    weights = weigh(distance).mul_(inside >= 0).mul_(inside < lengths[:, None])
    weights.div_(weights.sum(-1, keepdim=True))
    return weights.new_zeros(len(starts), size, length).scatter_(2, source.long(), weights)


def _triangle(distance: Tensor) -> Tensor:
    return distance.neg_().add_(1).clamp_(min=0)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution with a = -1/2, as in Pillow and torch with antialiasing."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, far).mul_(distance < 2)


#: Radius and weight at a distance from the centre, in pixels.
_FILTERS = {"bilinear": (1, _triangle), "bicubic": (2, _cubic)}


def crop_and_resize(
    pixels: Tensor,
    boxes: Tensor,
    largest: tuple[int, int],
    size: tuple[int, int],
    interpolation: Interpolation,
    mirror: Tensor | None = None,
) -> Tensor:
    """Cut a box out of each image, resize it with antialiasing and mirror some, in one resampling.

    Args:
        pixels: float [b, C, H, W] in [0, 1].
        boxes: float [b, 4], top, left, height and width in pixels.
        largest: the largest height and width of the boxes.
        size: (h, w) of the output.
        mirror: bool [b], images to mirror left to right.

    Returns:
        [b, C, h, w] in [0, 1] (cubic overshoot is clipped), laid out as by :func:`separable`.
    """
    top, left_edge, height, width = boxes.to(pixels.dtype).unbind(1)
    rows = resize_weights(top, height, largest[0], pixels.shape[2], size[0], interpolation)
    columns = resize_weights(left_edge, width, largest[1], pixels.shape[3], size[1], interpolation, mirror)
    return separable(pixels, rows, columns).clamp_(0, 1)


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


def blur_weights(kernel: Tensor, length: int) -> Tensor:
    """Weights of symmetric taps along a line that is extended by reflection.

    Args:
        kernel: [b, 2 * radius + 1], radius less than ``length``.
        length: pixels of the line.

    Returns:
        [b, length, length]; each row has the sum of the kernel.
    """
    radius = kernel.shape[1] // 2
    taps = torch.arange(-radius, radius + 1, device=kernel.device)
    source = torch.arange(length, device=kernel.device)[:, None] + taps  # [length, k], before reflection
    source = (length - 1 - (length - 1 - source.abs()).abs()).expand(len(kernel), -1, -1)
    weights = kernel.new_zeros(len(kernel), length, length)
    return weights.scatter_add_(2, source, kernel[:, None, :].expand(-1, length, -1))


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
