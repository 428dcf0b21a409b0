"""Rules about evaluations: what is evaluated, what protocols read, and who acts on metrics.

They are as those of :mod:`contrastive.build.rules`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from contrastive.build.composition import Data
from contrastive.build.memory_guard import MemoryGuard
from contrastive.errors import Mistake, UsageError
from contrastive.evaluation import TimedProtocol, feature_of, final_encoder, frozen, periodic_obstacle
from contrastive.kinds import MONITORS
from contrastive.parts import Callback
from contrastive.recipe import Recipe
from contrastive.training import Method
from contrastive.values import TOKEN_FEATURES
from contrastive.views import View


def has_validation(recipe: Recipe, data: Data | None, protocols: Sequence[TimedProtocol]) -> bool:
    """Whether evaluations during training report metrics of protocols."""
    periodic_protocols = [entry.protocol for entry in protocols if entry.at == "every"]
    if data is not None:
        periodic_protocols = [
            protocol for protocol in periodic_protocols if periodic_obstacle(protocol, data.division) is None
        ]
    return recipe.evaluate.every > 0 and bool(periodic_protocols)


def encoder(recipe: Recipe, method: Method) -> Iterator[Mistake]:
    """The encoder that is to be evaluated and exported exists."""
    try:
        final_encoder(method)
    except UsageError as error:
        yield recipe.mistake("evaluate.encoder", str(error), "target")


def features(
    recipe: Recipe, method: Method, protocols: Sequence[TimedProtocol], channels: int, image_size: int
) -> Iterator[Mistake]:
    """The encoder has the features that protocols read; those of tokens are tried on a black image."""
    for entry in protocols:
        feature = entry.protocol.feature
        path, partner = f"evaluate.{entry.name}.feature", "backbone"
        if feature == "z" and method.image_head is None:
            yield recipe.mistake(
                path,
                "no objective compares whole images, so no head makes z; set feature: patches, or h.",
                "objectives",
            )
        if feature not in TOKEN_FEATURES:
            continue
        try:
            with frozen(method.backbone), MemoryGuard():
                tokens = method.backbone.tokens(View(torch.zeros(1, channels, image_size, image_size)))
                feature_of(method.backbone, None, tokens, feature)
        except UsageError as error:
            yield recipe.mistake(path, str(error), partner)


def callback_metrics(
    recipe: Recipe,
    callbacks: Sequence[Callback | None],
    protocols: Sequence[TimedProtocol],
    monitors: Sequence[str] = MONITORS,
) -> Iterator[Mistake]:
    """Callbacks read only what evaluations during training report: monitors, and metrics of protocols."""
    prefixes = [f"{entry.name}_" for entry in protocols if entry.at == "every"]
    for (path, spec), callback in zip(recipe.parts_at("callbacks"), callbacks, strict=True):
        for metric in callback.reads if callback is not None else ():
            if metric not in monitors and not metric.startswith(tuple(prefixes)):
                available = ", ".join([*(f"{prefix}*" for prefix in prefixes), *monitors])
                yield recipe.mistake(
                    path,
                    f"{spec.name} reads '{metric}', which evaluations during training do not report; they "
                    f"report {available}. Name one of these, or set at: every for its protocol.",
                    "evaluate",
                )
