"""Masked image modelling as parts: MAE, SimMIM, data2vec, I-JEPA, and mixtures with other objectives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from contrastive import hookimpl
from contrastive_masked.decoders import Decoder, FeatureDecoder, Positional
from contrastive_masked.losses import L1, MSE, SmoothL1
from contrastive_masked.masks import MaskBlocks, MaskPatches, MaskTargets
from contrastive_masked.pixels import OwnPixels

contrastive_api = 2

Register = Callable[[str, Any], None]


@hookimpl
def register_augmentation(register: Register) -> None:
    for operation in (MaskPatches, MaskBlocks, MaskTargets):
        register(operation.name, operation)


@hookimpl
def register_head(register: Register) -> None:
    register("decoder", Decoder)
    register("positional", Positional)
    register("feature_decoder", FeatureDecoder)


@hookimpl
def register_target(register: Register) -> None:
    register("own_pixels", OwnPixels)


@hookimpl
def register_loss(register: Register) -> None:
    register("mse", MSE)
    register("l1", L1)
    register("smooth_l1", SmoothL1)
