"""Loading of exported backbones."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from contrastive.backbones.declaration import declares_other_transform
from contrastive.errors import UsageError


def load_backbone(folder: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """The encoder that ``export`` wrote, in eval mode: float [b, C, H, W] -> features h [b, F].

    Its ``pretrained_cfg`` holds ``input_size``, ``mean`` and ``std``: subtract the mean from inputs in [0, 1]
    and divide by the standard deviation (0 and 1 unless the backbone was trained with others).

    ``timm.data.create_transform(**timm.data.resolve_model_data_config(encoder))`` resizes and crops images as
    the run's evaluation did. Exports of earlier versions declare another transform; loading one warns.

    Args:
        folder: holds config.json and model.safetensors; no pickle is ever read.
        device: the device of the encoder.

    Raises UsageError if the folder is not an exported backbone.
    """
    folder = Path(folder).resolve()
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise UsageError(f"{folder} is not an exported backbone: it has no {name}.")

    import timm

    import contrastive.timm_models  # noqa: F401 - registers the small-stem architectures

    try:
        net = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except Exception as error:  # timm trusts config.json; a wrong one may raise anything
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UsageError(f"{folder} is not an exported backbone that timm can load: {reason}") from error
    if declares_other_transform(folder):
        warnings.warn(
            f"{folder} was exported by an earlier version: timm's transform for it (bicubic, whole image) is "
            "not the one of its evaluation (bilinear). Export the run again with `contrastive export`.",
            stacklevel=2,
        )
    return net.eval().to(device)
