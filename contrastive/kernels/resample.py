"""Separable linear operations on a batch of images, each image with weights of its own.

Cropping, resizing with antialiasing, mirroring and blurring are all ``Y = R X C^T`` with a small
matrix for the rows and one for the columns; so each is two batched matrix products.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Interpolation = Literal["bilinear", "bicubic"]


def separable(pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply a linear map to the rows and one to the columns of each image.

    Args:
        pixels: float [b, C, H, W].
        rows: [b, h, H], the weights of the input rows in each output row.
        columns: [b, w, W], the weights of the input columns in each output column.

    Returns:
        [b, C, h, w].
    """
    b, channels, height, width = pixels.shape
    h, w = rows.shape[1], columns.shape[1]
    with torch.autocast(pixels.device.type, enabled=False):  # half precision would show in the pixels
        narrow = torch.bmm(columns, pixels.reshape(b, channels * height, width).mT)  # [b, w, C*H]
        small = torch.bmm(narrow.view(b, w * channels, height), rows.mT)  # [b, w*C, h]
    return small.view(b, w, channels, h).permute(0, 2, 3, 1).contiguous()


def resize_weights(
    starts: Tensor,
    lengths: Tensor,
    length: int,
    size: int,
    interpolation: Interpolation,
    mirrored: Tensor | None = None,
) -> Tensor:
    """Weights that cut ``[start, start + length)`` out of a line and resize it with antialiasing.

    The filter is widened by the factor of reduction and normalised within the cut, as Pillow,
    torchvision and ``interpolate(antialias=True)`` do.

    Args:
        starts: float [b], first pixel of each cut.
        lengths: float [b], pixels of each cut, at least 1.
        length: pixels of the input line.
        size: pixels of the output line.
        mirrored: bool [b], whose output runs backwards.

    Returns:
        float [b, size, length]; each row sums to 1.
    """
    scale = (lengths / size)[:, None, None]  # [b, 1, 1], input pixels an output pixel
    output = torch.arange(size, device=starts.device, dtype=starts.dtype).expand(len(starts), size)
    if mirrored is not None:
        output = torch.where(mirrored[:, None], size - 1 - output, output)
    centre = (output[:, :, None] + 0.5) * scale  # [b, size, 1], from the start of the cut
    place = torch.arange(length, device=starts.device, dtype=starts.dtype) - starts[:, None]  # [b, length]
    inside = (place >= 0) & (place < lengths[:, None])
    distance = (place[:, None, :] + 0.5 - centre).abs_().div_(scale.clamp(min=1))  # [b, size, length]
    weights = _FILTERS[interpolation](distance).mul_(inside[:, None, :])
    return weights.div_(weights.sum(-1, keepdim=True))


def _triangle(distance: Tensor) -> Tensor:
    return distance.neg_().add_(1).clamp_(min=0)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution with a = -1/2, Pillow's and torch's choice where antialiasing is on."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, far).mul_(distance < 2)


_FILTERS = {"bilinear": _triangle, "bicubic": _cubic}


def crop_and_resize(
    pixels: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    interpolation: Interpolation,
    mirrored: Tensor | None = None,
) -> Tensor:
    """Cut a box out of each image, resize it with antialiasing and mirror some, in one resampling.

    Args:
        pixels: float [b, C, H, W] in [0, 1].
        boxes: float [b, 4], top, left, height and width in pixels.
        size: (h, w) of the output.
        mirrored: bool [b], images that are mirrored left to right.

    Returns:
        [b, C, h, w] in [0, 1] (cubic overshoot is cut off).
    """
    top, left, height, width = boxes.to(pixels.dtype).unbind(1)
    rows = resize_weights(top, height, pixels.shape[2], size[0], interpolation)
    columns = resize_weights(left, width, pixels.shape[3], size[1], interpolation, mirrored)
    return separable(pixels, rows, columns).clamp_(0, 1)


def blur_weights(sigma: Tensor, radius: int, length: int) -> Tensor:
    """A Gaussian of ``2 * radius + 1`` taps along a line that is continued by reflection.

    Args:
        sigma: [b], standard deviations in pixels, above 0.
        radius: less than ``length``.
        length: pixels of the line.

    Returns:
        [b, length, length]; each row sums to 1.
    """
    taps = torch.arange(-radius, radius + 1, device=sigma.device)  # [k]
    kernel = torch.softmax(-0.5 * (taps / sigma[:, None]) ** 2, dim=1)  # [b, k]
    source = torch.arange(length, device=sigma.device)[:, None] + taps  # [length, k], before reflection
    source = (length - 1 - (length - 1 - source.abs()).abs()).expand(len(sigma), -1, -1)
    weights = kernel.new_zeros(len(sigma), length, length)
    return weights.scatter_add_(2, source, kernel[:, None, :].expand(-1, length, -1))
