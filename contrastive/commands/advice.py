"""Which methods to try on a data set: what is known of it, the table of results, and recipes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from contrastive.recipe import (
    FAMILIES,
    MeasuredResult,
    Recipe,
    load_recipe,
    method_entries,
    method_facts,
    shipped_methods,
)
from contrastive.registry import Registry
from contrastive.text import percent, quantity

#: The share of images with labels from which they are worth training on.
LABELLED = 0.1
#: Device -> the largest side of a view in pixels, in less than an hour, and in more.
_SIDES = {"cpu": (32, 64), "cuda": (96, 224), "mps": (64, 96)}
#: Side in pixels of the recipes' views, and of the patches of their transformers, eight on a side.
_SIDE, _PATCH = 32, 4
#: Parameters of an augmentation in pixels of its view.
_PIXEL_KEYS = ("size", "pixels")
#: The fewest batches of an epoch.
_BATCHES = 4


@dataclass(frozen=True)
class EqualTime:
    """A table of docs/results.md in which every method had equal time, on 10,000 images of CIFAR-10.

    Attributes:
        section: its heading.
        minutes: of each run, on two CPU cores.
        network: of all its runs.
        suffix: of the recipes: ``cifar10/METHOD-cpu``.
    """

    section: str
    minutes: float
    network: str
    suffix: str

    def standings(self) -> list[tuple[str, MeasuredResult]]:
        """The shipped methods in it with their results, the best linear accuracy first."""
        own = [
            (name, result)
            for name in shipped_methods()
            for result in method_facts(name).results
            if result.section == self.section and result.linear is not None
        ]
        return sorted(own, key=lambda entry: -_accuracy(entry[1]))


#: Of small ResNets, and of small vision transformers.
RESNETS = (EqualTime("Three methods on a part of CIFAR-10 at an equal budget", 3.3, "ResNet-10", "cpu"),)
TRANSFORMERS = (
    EqualTime(
        "Contrastive, masked, or both: a small vision transformer at equal time",
        3,
        "vision transformer",
        "vit-cpu",
    ),
)


@dataclass(frozen=True)
class Situation:
    """What the advice depends on.

    Attributes:
        dataset: as a recipe names it, in plain values.
        images: to train on.
        side: of the images in pixels: the median of their shorter sides.
        channels: 1 or 3.
        labelled: share of the images that have a label.
        mean, std: of the pixels, per channel, in [0, 1].
        device: ``cpu``, ``cuda`` or ``mps``.
        minutes: of a run.
    """

    dataset: Mapping[str, Any]
    images: int
    side: int
    channels: int
    labelled: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: str
    minutes: float

    @property
    def view_side(self) -> int:
        """Of the views in pixels: at most the images', and what the device can train in the time."""
        side = min(self.side, _SIDES[self.device][self.minutes >= 60])
        unit = 2 * _PATCH if side > _SIDE else _PATCH
        return max(2 * _PATCH, side // unit * unit)

    @property
    def patch(self) -> int:
        """Side in pixels of a transformer's patches; sizes of views are multiples of it."""
        return max(_PATCH, self.view_side // (_SIDE // _PATCH))


@dataclass(frozen=True)
class Advice:
    """A method to try.

    Attributes:
        method: its name.
        reason: why, a sentence.
        recipe: the recipe that the advised one extends.
        changes: its other keys, in plain values.
    """

    method: str
    reason: str
    recipe: str
    changes: Mapping[str, Any]

    def tree(self) -> dict[str, Any]:
        """The advised recipe."""
        return {"extends": self.recipe, "name": self.method, **self.changes}


def advise(situation: Situation, registry: Registry) -> list[Advice]:
    """Three methods to try, the first one first.

    The best of the table at equal time whose runs are closest in length; the best of another family; and
    SupCon if there are labels, else the best small vision transformer.
    """
    present = {plugin.name for plugin in registry.plugins}

    def standings(tables: tuple[EqualTime, ...]) -> tuple[EqualTime, list[tuple[str, MeasuredResult]]]:
        table = min(tables, key=lambda each: abs(math.log(situation.minutes / each.minutes)))
        own = table.standings()
        return table, [entry for entry in own if present.issuperset(method_facts(entry[0]).plugins)]

    table, ranking = standings(RESNETS)
    first, result = ranking[0]
    choices = [(first, table.suffix, f"{_rank(ranking, result, table)}.")]
    family = method_entries()[first].family
    for name, result in ranking[1:]:
        own = method_entries()[name].family
        if own != family:
            reason = f"The best there of another family, {own} ({FAMILIES[own]}): {result.linear} %."
            choices.append((name, table.suffix, reason))
            break
    if situation.labelled >= LABELLED:
        share = percent(situation.labelled)
        reason = (
            f"{share} of the images have a label, and it takes images of one label for views of one another."
        )
        choices.append(("supcon", table.suffix, reason))
    else:
        table, ranking = standings(TRANSFORMERS)
        name, result = ranking[0]
        choices.append((name, table.suffix, f"{_rank(ranking, result, table)}."))
    return [_advice(situation, registry, *choice) for choice in choices]


def _rank(ranking: list[tuple[str, MeasuredResult]], result: MeasuredResult, table: EqualTime) -> str:
    return (
        f"The best linear accuracy of {quantity(len(ranking), 'method')} with a small {table.network} at "
        f"equal time: {result.linear} % (docs/results.md, {table.section})"
    )


def _accuracy(result: MeasuredResult) -> float:
    """In percent, without its interval."""
    match = re.match(r"[\d.]+", result.linear or "")
    return float(match[0]) if match else 0.0


def _advice(situation: Situation, registry: Registry, method: str, suffix: str, reason: str) -> Advice:
    name = f"cifar10/{method}-{suffix}"
    recipe = load_recipe(name, (), registry)
    changes = {
        "dataset": dict(situation.dataset),
        **dict(_network(recipe, situation)),
        "train": {"minutes": situation.minutes, "batch_size": _batch(recipe, situation)},
    }
    return Advice(method, reason, name, changes)


def _network(recipe: Recipe, situation: Situation) -> Iterator[tuple[str, Any]]:
    """Views, patches and statistics of pixels that differ from the recipe's."""
    side = situation.view_side
    if side != _SIDE:
        yield "augmentation", rescale(recipe.augmentation.dump(), side / _SIDE, situation.patch)
    backbone = recipe.backbone.dump()
    changes: dict[str, Any] = {}
    if backbone.get("mean") is not None:
        changes |= {"mean": list(situation.mean), "std": list(situation.std)}
    if situation.patch != _PATCH and "patch_size" in (backbone.get("options") or {}):
        changes["options"] = {"patch_size": situation.patch}
    if changes:
        yield "backbone", changes


def rescale(augmentation: Any, factor: float, unit: int) -> Any:
    """An augmentation as plain values with its sizes in pixels times a factor, in multiples of a unit."""
    if isinstance(augmentation, list):
        return [rescale(each, factor, unit) for each in augmentation]
    if not isinstance(augmentation, Mapping):
        return augmentation
    return {
        key: _times(value, factor, unit) if key in _PIXEL_KEYS else rescale(value, factor, unit)
        for key, value in augmentation.items()
    }


def _times(value: Any, factor: float, unit: int) -> Any:
    """A number of pixels, several of them, or a schedule of one, times a factor."""
    if isinstance(value, list):
        return [_times(each, factor, unit) for each in value]
    if isinstance(value, Mapping):
        return {key: _times(each, factor, unit) for key, each in value.items()}
    return max(1, round(value * factor / unit)) * unit if isinstance(value, int) else value


def _batch(recipe: Recipe, situation: Situation) -> int:
    """The recipe's batch, or the largest power of two of which an epoch has a few."""
    most = max(2, situation.images // _BATCHES)
    return min(recipe.train.batch_size, 2 ** int(math.log2(most)))
