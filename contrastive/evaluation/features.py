"""What is evaluated, and the features that protocols read: of a backbone, of its tokens, or of a head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from contrastive.data import Reader
from contrastive.errors import UsageError
from contrastive.parts import Backbone, Head, ImageTable
from contrastive.training import Method, without_compilation
from contrastive.values import Feature
from contrastive.views import Tokens


def final_encoder(method: Method) -> tuple[Backbone, Head | None]:
    """The backbone that a run evaluates and exports, and the head that makes z; None if there is no such z.

    They are the online ones or, with ``evaluate: {encoder: target}``, the copies that a target has of them.
    Raises UsageError: it has none.
    """
    if not method.evaluates_target:
        return method.backbone, method.image_head
    objective = method.image_objective or method.objectives[0]
    copies = objective.target.copies(objective.name)
    if copies is None:
        raise UsageError(
            "the target has no encoder that follows the online one; use target: ema, or encoder: online."
        )
    return copies[0], method.image_head and copies[1]


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode, without gradients or compilation; afterwards every module has its former mode."""
    modes = [(m, m.training) for module in modules for m in module.modules()]
    for module in modules:
        module.eval()
    try:
        with torch.no_grad(), without_compilation():
            yield
    finally:
        for module, training in modes:
            module.training = training


def feature_batches(
    backbone: Backbone, reader: Reader, table: ImageTable, rows: np.ndarray
) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """Whole images of a table in batches, with the features h of a frozen backbone; those that do not decode
    are left out.

    Yields:
        (rows int64 [b], pixels float32 [b, C, s, s] in 0..1, h float32 [b, F]), all on the CPU.
    """

    def encode(pixels: Tensor) -> Tensor:
        with frozen(backbone):
            return backbone(pixels)

    for indices, pixels, features in reader.batches(encode, table, rows):
        yield indices, pixels, features.cpu()


def feature_of(backbone: Backbone, head: nn.Module | None, tokens: Tokens, feature: Feature) -> Tensor:
    """A feature that is made of tokens, or h: [b, width].

    Args:
        backbone: that gave the tokens.
        head: makes z of tokens; None if there is none.
        tokens: of whole images.
        feature: which one.

    Raises:
        UsageError: the backbone has no class token, or there is no head.
    """
    if feature == "h":
        return tokens.h
    if feature == "z":
        if head is None:
            raise UsageError("feature: z needs a head, and this encoder has none; set feature: h.")
        return cast(Head, head).image(tokens)
    patches = tokens.patches.mean(1)
    if feature == "patches":
        return patches
    if not backbone.has_class_token:
        raise UsageError(
            f"feature: {feature} needs a class token, and this backbone has none; set feature: patches."
        )
    first = tokens.prefix[:, 0]
    return first if feature == "class" else torch.cat([first, patches], 1)
