"""Encoders from elsewhere: an export, a file of weights, a timm model, a repository of a hub.

Each becomes a recipe whose backbone it is and that is never trained, so that whatever works on the encoder of
a run works on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from contrastive.backbones import (
    Timm,
    declared_network,
    declared_transform,
    is_architecture,
    is_hub_name,
    is_weights_file,
    per_channel,
    pretrained_weights,
    record_of,
)
from contrastive.errors import UsageError
from contrastive.parts import ImageTransform, TimmTransform
from contrastive.recipe import Recipe, flatten, parse_tree, recipe_name, resolve, set_tree, write_yaml
from contrastive.registry import Registry
from contrastive.runs.folder import Overrides

#: What may be set for an encoder that is not trained: itself, and how it sees which data.
_OWN_KEYS = tuple(f"backbone.{key}" for key in ("model", "weights", "options", "mean", "std"))
_KEYS = (
    *_OWN_KEYS,
    *("name", "dataset", "evaluate", "augmentation.size"),
    *(f"train.{key}" for key in ("seed", "workers", "memory_limit", "cache", "shrink")),
)


@dataclass(frozen=True)
class StockEncoder:
    """An encoder that is not trained here.

    Attributes:
        text: what names it, as the user wrote it.
        backbone: keys of the default part, without mean and standard deviation.
        size: side in pixels of the images that it takes, unless another one is set.
        mean, std: of its inputs, per channel; None if it takes them as they are.
        record: timm's record of the network's checkpoint; None of an export, which declares its transform.
        channels: of the images that it was made for.
    """

    text: str
    backbone: Mapping[str, Any]
    size: int
    mean: Sequence[float] | None
    std: Sequence[float] | None
    record: Mapping[str, Any] | None = None
    channels: int = 3

    def network(self, channels: int | None = None) -> Timm:
        """The encoder itself, for images of some channels, by default its own."""
        channels = channels or self.channels
        params = self._part(channels)
        if "weights" in params:
            params["weights"] = Path(params["weights"])
        return Timm(channels, self.size, **params)

    def _part(self, channels: int) -> dict[str, Any]:
        statistics = {"mean": self.mean, "std": self.std}
        own = {key: per_channel(values, channels) for key, values in statistics.items() if values}
        return {**self.backbone, **own}

    def transform(self, size: int, channels: int) -> ImageTransform:
        """How images of some channels are resized and cropped for an input of ``size`` pixels."""
        if self.record is None:
            return declared_transform(self.backbone["weights"], size)
        mean = {} if self.mean is None else {"mean": tuple(per_channel(self.mean, channels))}
        return TimmTransform.of(size, {**self.record, **mean})

    def recipe(self, overrides: Overrides, registry: Registry, channels: int = 3) -> Recipe:
        """A recipe with this backbone, for images of some channels.

        Args:
            overrides: as for ``--set``.
            registry: resolves it.

        Raises UsageError if no data set is set, or a key that only training reads.
        """
        tree = {
            "name": recipe_name(self.text, "encoder"),
            "backbone": self._part(channels),
            "augmentation": {"size": self.size},
        }
        _require_effect(self.text, overrides)
        return resolve(parse_tree(write_yaml(tree), self.text, overrides), registry)


def untrained(recipe: Recipe) -> Recipe:
    """The recipe of a stock encoder with random weights in its place."""
    params = {**recipe.backbone.params, "weights": None, "pretrained": False}
    if is_hub_name(params["model"]):
        weights = pretrained_weights(params["model"], True)
        params |= {
            "model": weights.architecture,
            "options": {**weights.arguments, **params["options"]},
        }
    return replace(recipe, backbone=replace(recipe.backbone, params=params))


def stock_at(path: Path, overrides: Overrides) -> StockEncoder | None:
    """The encoder of an exported folder or a file of weights; None if the path is neither."""
    if path.is_dir():
        network = declared_network(path)
        if network is None or not (path / "model.safetensors").is_file():
            return None
        backbone = {
            "stem": "standard",
            "model": network.architecture,
            "weights": str(path),
            "options": network.options,
        }
        size, channels = network.image_size or 224, network.channels or 3
        return StockEncoder(str(path), backbone, size, network.mean, network.std, channels=channels)
    if not is_weights_file(path):
        return None
    model = set_tree(overrides).get("backbone", {}).get("model")
    if model is None:
        raise UsageError(
            f"the weights in {path} come without the name of their network; add "
            "--set backbone.model=NAME, its timm architecture."
        )
    record = record_of(model)
    return StockEncoder(
        str(path),
        {"stem": "standard", "model": model, "weights": str(path)},
        _size(model, record),
        record.get("mean"),
        record.get("std"),
        record,
        _channels(record),
    )


def is_stock_name(text: str) -> bool:
    """Whether a text is the name of a timm model, perhaps with a tag, or of a hub's repository."""
    return is_hub_name(text) or is_architecture(text.partition(".")[0])


def stock_named(text: str) -> StockEncoder | None:
    """The encoder of a timm model or a hub's repository; None if it is the name of neither.

    Raises UsageError if timm has no such weights, or the repository cannot be read.
    """
    if not is_stock_name(text):
        return None
    model, _, tag = (text, "", "") if is_hub_name(text) else text.partition(".")
    weights = pretrained_weights(model, tag or True)
    record, backbone = weights.record, {"stem": "standard", "model": model, "pretrained": weights.tag or True}
    size, channels = _size(text, record), _channels(record)
    return StockEncoder(text, backbone, size, record["mean"], record["std"], record, channels)


def _size(text: str, record: Mapping[str, Any]) -> int:
    """Side of the square images that a checkpoint takes."""
    _, height, width = record.get("input_size") or (3, 224, 224)
    if height != width:
        raise UsageError(f"{text} takes images of {height} x {width} pixels; only square ones are supported.")
    return int(height)


def _channels(record: Mapping[str, Any]) -> int:
    """Channels of the images that a checkpoint takes."""
    return int((record.get("input_size") or (3,))[0])


def require_own_keys(text: str, overrides: Overrides) -> None:
    """Raise UsageError if overrides set anything but the encoder itself."""
    _refuse_idle(text, set_tree(overrides), _OWN_KEYS)


def _require_effect(text: str, overrides: Overrides) -> None:
    """Raise UsageError unless overrides name a data set, and nothing that only training reads."""
    tree = set_tree(overrides)
    if "dataset" not in tree:
        raise UsageError(
            f"{text} has no data set of its own; name one, such as "
            "--set 'dataset={name: image_folder, root: DIR}'."
        )
    _refuse_idle(text, tree, _KEYS)


def _refuse_idle(text: str, tree: Mapping[str, Any], keys: Sequence[str]) -> None:
    own = tuple(f"{key}." for key in keys)
    if idle := [key for key in (flatten(tree) if tree else ()) if not f"{key}.".startswith(own)]:
        raise UsageError(f"--set {', '.join(idle)}: {text} is not trained, so this has no effect; remove it.")
