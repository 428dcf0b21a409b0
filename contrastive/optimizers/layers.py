"""Layer-wise decay of the learning rate: layers near the input of a pretrained network change less.

Source: Clark et al. 2020, "ELECTRA", as BEiT (Bao et al. 2022) and MAE (He et al. 2022) tune with it.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from contrastive.errors import UsageError


def layer_scales(model: nn.Module, decay: float) -> Mapping[nn.Parameter, float]:
    """The factor of the peak rate for each parameter of a network with layers: ``decay`` to the power of the
    number of layers above it. Other parameters, such as a head's, are not in the result.

    The layers of a timm network are those of timm: the embedding of the input, and each block. The factor of
    the last block, and of what follows it, is 1. Averages and frozen networks are left out.

    Raises UsageError if no trainable network in ``model`` names its layers.
    """
    from timm.models import group_parameters

    scales: dict[nn.Parameter, float] = {}
    for network in model.modules():
        matcher = getattr(network, "group_matcher", None)
        if matcher is None or not any(parameter.requires_grad for parameter in network.parameters()):
            continue
        layers: dict[str, int] = group_parameters(network, matcher(coarse=False), reverse=True)
        top, parameters = max(layers.values()), dict(network.named_parameters())
        for name, layer in layers.items():
            if name in parameters:
                scales[parameters[name]] = decay ** (top - layer)
    if not scales:
        raise UsageError(
            "optimizer.layer_decay: the backbone does not name its layers, as timm's networks do; remove it."
        )
    return scales
