"""Width of the features and cost of a network, measured on one image."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from contrastive.errors import SizeError, UsageError

#: What helps if a network cannot take images of a size.
OTHER_SIZE = "Choose another image size or model."


def feature_width(
    net: nn.Module, name: str, in_channels: int, image_size: int, remedy: str = OTHER_SIZE
) -> int:
    """F of ``net``: float [1, C, S, S] -> [1, F], measured by one forward pass in eval mode.

    Draws no random numbers and leaves ``net`` unchanged. Raises SizeError, with this ``remedy``, if the
    network cannot take such an image, and UsageError if it does not return one vector per image.
    """
    training = net.training
    parameter = next(net.parameters())
    image = torch.zeros(
        1, in_channels, image_size, image_size, device=parameter.device, dtype=parameter.dtype
    )
    try:
        with torch.no_grad():
            features = net.eval()(image)
    except Exception as error:  # third-party code, perhaps with a size or options it does not support
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise SizeError(
            f"{name} cannot take images of {in_channels} x {image_size} x {image_size}: {reason} {remedy}"
        ) from error
    finally:
        net.train(training)
    if not isinstance(features, torch.Tensor) or features.ndim != 2:
        output = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        raise UsageError(f"{name} returns {output} for one image, not one vector; use a pooled classifier.")
    return features.shape[1]


def flops(net: nn.Module, in_channels: int, image_size: int) -> int:
    """Floating-point operations of one image's forward pass through ``net``, in its current mode.

    A multiply and an add count as two. Only convolutions, matrix products and attention count.
    """
    device = next((parameter.device for parameter in net.parameters()), None)
    image = torch.zeros(1, in_channels, image_size, image_size, device=device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(image)
    return int(counter.get_total_flops())
