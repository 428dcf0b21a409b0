"""What a built network gives for an image of the run's size."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from contrastive.errors import UsageError


def feature_width(net: nn.Module, name: str, in_channels: int, image_size: int) -> int:
    """F of ``net``: float [1, C, S, S] -> [1, F], found by one forward in eval mode.

    Draws nothing and leaves no trace in ``net``. Raises UsageError where the network cannot take
    such an image, or does not give one vector an image.
    """
    training = net.training
    parameter = next(net.parameters())
    image = torch.zeros(
        1, in_channels, image_size, image_size, device=parameter.device, dtype=parameter.dtype
    )
    try:
        with torch.no_grad():
            features = net.eval()(image)
    except Exception as error:  # a stranger's code, on a size or with options it was not made for
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UsageError(
            f"{name} cannot take images of {in_channels} x {image_size} x {image_size}: {reason}"
            " Choose another image size or model."
        ) from error
    finally:
        net.train(training)
    if not isinstance(features, torch.Tensor) or features.ndim != 2:
        output = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        raise UsageError(f"{name} gives {output} for one image, not one vector: take a pooled classifier.")
    return features.shape[1]


def flops(net: nn.Module, in_channels: int, image_size: int) -> int:
    """Floating-point operations of one image's forward pass through ``net``, as it stands.

    A multiply and an add are two. Counted are convolutions, matrix products and attention.
    """
    device = next((parameter.device for parameter in net.parameters()), None)
    image = torch.zeros(1, in_channels, image_size, image_size, device=device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(image)
    return int(counter.get_total_flops())
