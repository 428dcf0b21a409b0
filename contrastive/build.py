"""From a resolved recipe to objects: the only place that constructs parts, in a fixed order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from contrastive.augmentations.pipeline import Pipeline
from contrastive.errors import ContrastiveError, Mistake, PluginError, RecipeError
from contrastive.evaluate import Scheduled
from contrastive.method import Method
from contrastive.parts import Backbone, Callback, Dataset, Head, ImageTable, Loss, Optimizer, Protocol
from contrastive.recipe import PartSpec, Recipe
from contrastive.rng import derive

T = TypeVar("T")


@dataclass(frozen=True)
class Data:
    """The opened data set: names, labels and sizes are known, no image is decoded."""

    dataset: Dataset
    train: ImageTable
    test: ImageTable | None
    fingerprint: str

    @property
    def labelled(self) -> bool:
        return self.train.labels is not None and bool((self.train.labels >= 0).any())


@dataclass(frozen=True)
class Composition:
    """Everything a recipe names, built and checked against each other."""

    method: Method
    optimizer: Optimizer
    pipelines: list[Pipeline]
    protocols: list[Scheduled]
    callbacks: list[Callback]
    image_size: int


class Builder:
    """Builds the parts of one recipe and collects every mistake on the way."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.mistakes: list[Mistake] = []

    def refuse(self, path: str, message: str) -> None:
        """Note a mistake at a dotted path of the recipe."""
        self.mistakes.append(self.recipe.mistake(path, message))

    def raise_mistakes(self) -> None:
        if self.mistakes:
            raise RecipeError(self.mistakes)

    def attempt(self, path: str, make: Callable[[], T]) -> T | None:
        """What ``make`` gives, or None and a mistake at ``path`` where a part refuses its parameters."""
        try:
            return make()
        except (PluginError, RecipeError):
            raise
        except (ContrastiveError, ValueError, TypeError) as error:
            self.refuse(path, str(error))
            return None
        except Exception as error:  # a part may raise whatever its author left in
            raise PluginError(f"{path}: the part failed with {type(error).__name__}: {error}") from error

    def seeded(self, path: str, spec: PartSpec, **offers: Any) -> Any:
        """Build a part whose initial weights depend on (seed, path of the part) alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.recipe.train.seed, "weights", path))
            return self.attempt(path, lambda: spec.build(**offers))

    # -- data ---------------------------------------------------------------------------------------

    def data(self, training: bool = True) -> Data | None:
        """Open the data set and, for training, check the recipe against it."""
        dataset: Dataset | None = self.attempt("dataset", self.recipe.dataset.build)
        if dataset is None:
            return None
        tables = self.attempt("dataset", lambda: (dataset.table("train"), dataset.table("test")))
        if tables is None:
            return None
        train, test = tables
        if train is None or len(train) == 0:
            self.refuse("dataset", f"{self.recipe.dataset.name} has no training images.")
            return None
        fingerprint = self.attempt("dataset", dataset.fingerprint)
        if fingerprint is None:
            return None
        data = Data(dataset, train, test, fingerprint)
        if not training:
            return data
        images, batch = len(train), self.recipe.train.batch_size
        if batch * self.recipe.train.accumulate > images:
            self.refuse(
                "train.batch_size",
                f"a step takes {batch * self.recipe.train.accumulate} images but the data set has {images}; "
                f"lower train.batch_size to {images} or less.",
            )
        if self.recipe.positives == "label" and not data.labelled:
            self.refuse("positives", "positives: label needs labels, and this data set has none.")
        return data

    # -- composition --------------------------------------------------------------------------------

    def pipelines(self) -> list[Pipeline]:
        augmentation = self.attempt("augmentation", self.recipe.augmentation.build)
        return [] if augmentation is None else augmentation.pipelines()

    def image_size(self, pipelines: Sequence[Pipeline], train: ImageTable | None) -> int | None:
        """Side of the images an encoder sees, in training as in evaluation."""
        size = pipelines[0].size if pipelines else None
        size = size or (train.size if train is not None else None)
        if size is None:
            self.refuse(
                "augmentation",
                "the images differ in size; start the augmentation with random_resized_crop, or use simclr.",
            )
            return None
        if size[0] != size[1]:
            self.refuse(
                "augmentation",
                f"views of {size[0]} x {size[1]} pixels are not square, as evaluation and export need them; "
                "start the augmentation with random_resized_crop, or use simclr.",
            )
            return None
        return size[0]

    def backbone(self, channels: int, image_size: int) -> Backbone | None:
        return self.seeded("backbone", self.recipe.backbone, in_channels=channels, image_size=image_size)

    def method(self, channels: int, image_size: int, views: int) -> Method | None:
        """The method, or None where any of its parts refused."""
        recipe = self.recipe
        backbone = self.backbone(channels, image_size)
        head: Head | None = None
        if backbone is not None:
            head = self.seeded("head", recipe.head, in_features=backbone.features)
        predictor = None
        if head is not None and recipe.predictor is not None:
            predictor = self.seeded("predictor", recipe.predictor, in_features=head.out_features)
        target = self.seeded("target", recipe.target)
        negatives = [self.seeded("negatives", spec) for spec in recipe.negatives]
        losses = [(weight, self.seeded("loss", spec)) for weight, spec in recipe.losses]
        others = [target, *negatives, *(loss for _, loss in losses)]
        if backbone is None or head is None or any(part is None for part in others):
            return None
        method = Method(
            backbone,
            head,
            predictor,
            target,
            negatives,
            losses,
            self._views("online", views),
            self._views("target", views),
            recipe.views.batch_norm == "joint",
        )
        self._check_composition(method, [loss for _, loss in losses])
        return method

    def _views(self, side: str, views: int) -> tuple[int, ...]:
        asked = getattr(self.recipe.views, side)
        if asked == "all":
            return tuple(range(views))
        for view in asked:
            if view >= views:
                self.refuse(f"views.{side}", f"there is no view {view}; the augmentation makes {views}.")
        return tuple(asked)

    def _check_composition(self, method: Method, losses: Sequence[Loss]) -> None:
        """Refuse what cannot work together, from what the losses declare they need."""
        recipe = self.recipe
        if not method.pairs:
            self.refuse("views", "no online view is paired with another target view, so nothing is compared.")
        if len({loss.normalised for loss in losses}) > 1:
            self.refuse("loss", "losses that are added must agree on normalised input.")
        given = {
            "negatives": bool(method.offers),
            "labels": recipe.positives == "label",
            "predictor": recipe.predictor is not None,
            "detached_keys": method.target.detached,
            "single_positive": recipe.positives == "image" and len(method.target_views) <= 2,
        }
        for (_, spec), loss in zip(recipe.losses, losses, strict=True):
            for need in sorted(loss.needs):
                if not given[need] and not (need == "negatives" and "collapse" in recipe.allow):
                    self.refuse("loss", f"{spec.name} {_WITHOUT[need]}")

    def protocols(self) -> list[Scheduled]:
        built = []
        for name, (spec, at) in self.recipe.evaluate.protocols.items():
            protocol: Protocol | None = self.attempt(f"evaluate.{name}", spec.build)
            if protocol is not None:
                built.append(Scheduled(name, protocol, at or protocol.at))
        return built

    def compose(self, data: Data) -> Composition:
        """Every part of the recipe for this data. Raises RecipeError with all mistakes."""
        pipelines = self.pipelines()
        size = self.image_size(pipelines, data.train)
        method = self.method(data.train.channels, size, len(pipelines)) if size and pipelines else None
        optimizer = self.attempt("optimizer", self.recipe.optimizer.build)
        protocols = self.protocols()
        callbacks = [self.attempt("callbacks", spec.build) for spec in self.recipe.callbacks]
        self.raise_mistakes()
        assert method is not None
        assert optimizer is not None
        assert size is not None
        return Composition(method, optimizer, pipelines, protocols, [c for c in callbacks if c], size)

    def compose_without_data(self) -> None:
        """Check what can be checked where the data is absent, beside the mistake already noted."""
        pipelines = self.pipelines()
        self.protocols()
        self.attempt("optimizer", self.recipe.optimizer.build)
        size = pipelines[0].size if pipelines else None
        if size is not None:
            self.method(3, size[0], len(pipelines))


_WITHOUT = {
    "negatives": "collapses without negatives, and none are offered; say negatives: in_batch, "
    "or allow: [collapse] for a study of it.",
    "labels": "needs labels; say positives: label.",
    "predictor": "needs a predictor; say for example predictor: {name: mlp}.",
    "detached_keys": "needs keys without gradient; name a target other than shared.",
    "single_positive": "needs exactly one positive a row; say positives: image and use two views.",
}


def build(recipe: Recipe, *, training: bool = True) -> tuple[Data, Composition]:
    """Open the data and build every part. Raises RecipeError with all mistakes at once.

    Without ``training`` the data may be too few for a batch, or have no labels to train on.
    """
    builder = Builder(recipe)
    data = builder.data(training)
    if data is None:
        builder.compose_without_data()
        raise RecipeError(builder.mistakes)
    return data, builder.compose(data)
