"""Initial weights from disk: read without running any code in the file, and matched by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from contrastive.errors import UsageError

_MOST_COMPLAINTS = 3


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict at ``path``, on the CPU.

    Args:
        path: a folder with model.safetensors (what ``export`` and timm write), a .safetensors file,
            or a .pt or .pth file; the latter is read with ``weights_only=True`` and may hold the
            state dict under ``state_dict`` or ``model``.

    Raises UsageError if there is no such file or it does not hold a state dict.
    """
    path = Path(os.path.expanduser(path))
    is_folder = os.path.isdir(path)
    file = path / "model.safetensors" if is_folder else path
    if not os.path.isfile(file):
        where = f"{path} has no model.safetensors" if is_folder else f"{path} does not exist"
        raise UsageError(f"weights: {where}. Give an exported folder, a .safetensors, .pt or .pth file.")
    if file.suffix not in (".safetensors", ".pt", ".pth"):
        raise UsageError(f"weights: {file} is neither a .safetensors nor a .pt or .pth file.")
    try:
        state = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # torch's unpickler may raise almost any type
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UsageError(f"weights: {file} cannot be read as plain tensors: {reason}") from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) and _is_plain(value)
        for name, value in state.items()
    ):
        raise UsageError(f"weights: {file} does not hold a state dict (names with dense tensors).")
    return dict(state)


def _is_plain(value: Tensor) -> bool:
    """Whether the tensor holds its numbers one by one: sparse, quantised and meta tensors do not."""
    return value.layout is torch.strided and not value.is_quantized and not value.is_meta


def load_weights(net: nn.Module, path: Path, ignore: tuple[str, ...] = ()) -> None:
    """Load ``path`` into ``net``; raises UsageError if weights do not match, and names them.

    Args:
        net: the network; unchanged if anything does not match.
        path: see :func:`read_weights`.
        ignore: modules whose weights are skipped (the classifiers that ``net`` lacks).
    """
    left_out = tuple(f"{module}." for module in ignore)
    state = {name: value for name, value in read_weights(path).items() if not name.startswith(left_out)}
    if complaints := mismatch(net, state):
        raise UsageError(
            f"weights: {path} does not fit the model: it {complaints}."
            " Set the model, stem, options and input channels these weights were trained with."
        )
    net.load_state_dict(state)


def mismatch(net: nn.Module, state: Mapping[str, Tensor]) -> str:
    """What in ``state`` does not fit ``net``: "lacks fc.bias; it has ..."; empty if everything fits."""
    own = net.state_dict()
    complaints = [
        *(f"lacks {name}" for name in own if name not in state),
        *(f"has {name}, which the model lacks" for name in state if name not in own),
        *(
            f"has {name} {list(state[name].shape)}, the model {list(own[name].shape)}"
            for name in own
            if name in state and own[name].shape != state[name].shape
        ),
    ]
    more = f"; and {len(complaints) - _MOST_COMPLAINTS} more" if len(complaints) > _MOST_COMPLAINTS else ""
    return f"{'; it '.join(complaints[:_MOST_COMPLAINTS])}{more}"
