"""Which parameters are decayed: every trainable parameter is in exactly one group."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import nn

from contrastive.errors import UsageError

_NORMS = (
    nn.modules.batchnorm._NormBase,  # batch and instance norms
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


class Groups(NamedTuple):
    """Trainable parameters by whether weight decay and layer-wise adaptation are meant for them."""

    weights: list[nn.Parameter]
    norms_and_biases: list[nn.Parameter]


def split_parameters(model: nn.Module) -> Groups:
    """The trainable parameters of ``model``, in its order, each once.

    Norms and biases are: all parameters of normalisation layers, biases, every other vector or
    scalar (layer scales, a learnt temperature), and what a module inside ``model`` names in
    ``no_weight_decay()`` (timm's position embeddings and class tokens; names count from that module
    and may hold wildcards). Raises UsageError where nothing is trainable.
    """
    spared = _spared(model)
    groups = Groups([], [])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            excluded = name in spared or parameter.ndim <= 1 or name.rpartition(".")[2] == "bias"
            (groups.norms_and_biases if excluded else groups.weights).append(parameter)
    if not any(groups):
        raise UsageError("Nothing to train: every parameter of the model is frozen.")
    return groups


def _spared(model: nn.Module) -> set[str]:
    """Full names of the parameters that modules themselves keep from decay."""
    names: set[str] = set()
    for prefix, module in model.named_modules():
        own = [name for name, _ in module.named_parameters()]
        patterns = module.no_weight_decay() if hasattr(module, "no_weight_decay") else ()
        inside = {name for name in own for pattern in patterns if fnmatchcase(name, pattern)}
        if isinstance(module, _NORMS):
            inside.update(own)
        names.update(f"{prefix}.{name}" if prefix else name for name in inside)
    return names
