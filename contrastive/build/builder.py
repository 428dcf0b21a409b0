"""Builds the objects of a resolved recipe. Parts are constructed only here, in a fixed order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, TypeVar

import torch

from contrastive.augmentations import Pipeline, sizes_over
from contrastive.build import evaluation_rules, patch_rules, rules
from contrastive.build.composition import Composition, Data, DataSets
from contrastive.build.crop_sizes import resolutions
from contrastive.build.memory_guard import MemoryGuard
from contrastive.build.objectives import ObjectiveBuilder, token_shape
from contrastive.build.reach import freeze, sampled_marks, trial_views, unused_parameters
from contrastive.convolutions import in_channels_last
from contrastive.distributed import world_size
from contrastive.errors import ContrastiveError, Mistake, PluginError, RecipeError, SizeError
from contrastive.evaluation import TimedProtocol, monitor_names
from contrastive.kinds import KINDS
from contrastive.parts import Backbone, Callback, Dataset, Head, Optimizer, Protocol
from contrastive.recipe import PartSpec, Recipe
from contrastive.rng import derive
from contrastive.training import Method
from contrastive.views import Marks

T = TypeVar("T")

#: The start of a part's error: a kind, a key or name, and an index.
_PREFIX = re.compile(r"(?:(\w+)[ .])?(\w+)(?:\[(\d+)\])?: (?=\S)")

#: The parts whose parameters the groups of an optimizer match.
_TRAINED = ("backbone", "head", "predictor", "target")


class Builder:
    """Builds the parts of one recipe and collects every mistake."""

    def __init__(self, recipe: Recipe, open_data_sets: DataSets | None = None):
        self.recipe, self.open_data_sets = recipe, [] if open_data_sets is None else open_data_sets
        self.mistakes: list[Mistake] = []

    def add_mistake(self, path: str, message: str, *partners: str) -> None:
        """Add a mistake at a dotted path of the recipe; ``partners`` as in :meth:`Recipe.mistake`."""
        self.mistakes.append(self.recipe.mistake(path, message, *partners))

    def check(self, *mistakes: Iterable[Mistake]) -> bool:
        """Add the mistakes that :mod:`contrastive.build.rules` yield; returns whether there are none."""
        violations = list(chain(*mistakes))
        self.mistakes += violations
        return not violations

    def raise_if_any(self) -> None:
        """Raise RecipeError with every mistake so far."""
        if self.mistakes:
            raise RecipeError(self.mistakes)

    def attempt(self, path: str, make: Callable[[], T], *partners: str) -> T | None:
        """The result of ``make``; None, and a mistake at ``path``, if a part rejects its parameters.

        ``partners`` as in :meth:`Recipe.mistake`.
        """
        try:
            with MemoryGuard():
                return make()
        except (PluginError, RecipeError):
            raise
        except SizeError as error:
            self.add_mistake(*self._location_of(path, str(error)), "augmentation", "dataset")
            return None
        except (ContrastiveError, ValueError, TypeError) as error:
            self.add_mistake(*self._location_of(path, str(error)), *partners)
            return None
        except Exception as error:  # third-party code may raise anything
            raise PluginError(f"{path}: the part failed with {type(error).__name__}: {error}") from error

    def _location_of(self, path: str, message: str) -> tuple[str, str]:
        """A part's error as a path and a message without the key or the name that the path states.

        Parts know the names of their parameters, not where a recipe has them: ``dataset.root: ...``,
        ``backbone options: ...``, ``head mlp: ...``, ``weights: ...``.
        """
        match = _PREFIX.match(message)
        if match is None:
            return path, message
        kind, word, index = match.groups()
        inner = ".".join(filter(None, (path, word, index)))
        node, depth = self.recipe.tree.at(inner.split("."))
        if depth == len(inner.split(".")) or message.startswith(f"{path}.{word}"):
            return inner, message[match.end() :]
        name = node.child("name") or node
        own_names = (path.split(".")[-1], name.value)
        return path, message[match.end() :] if word in own_names and kind in (None, *KINDS) else message

    def build_part(self, path: str, spec: PartSpec, **offers: Any) -> Any:
        """Build a part. Its initial weights depend only on the seed and its path in the recipe."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.recipe.train.seed, "weights", path))
            return self.attempt(path, lambda: spec.build(**offers))

    # -- data ---------------------------------------------------------------------------------------

    def data(self, training: bool = True) -> Data | None:
        """Open the data set and, for training, check the recipe against it."""
        data, shrink = self._open(), self.recipe.train.shrink
        if data is not None and shrink is not None:
            data = data.shrunk(shrink.short_side, shrink.quality)
        if data is not None and training:
            self.check(rules.training_data(self.recipe, data, world_size()))
        return data

    def _open(self) -> Data | None:
        for spec, data in self.open_data_sets:
            if spec == self.recipe.dataset:
                return data
        dataset: Dataset | None = self.attempt("dataset", self.recipe.dataset.build)
        if dataset is None:
            return None
        tables = self.attempt("dataset", lambda: {split: dataset.table(split) for split in dataset.splits()})
        if tables is None:
            return None
        train, validation, test = (tables.get(split) for split in ("train", "validation", "test"))
        if train is None or len(train) == 0:
            self.add_mistake("dataset", f"{self.recipe.dataset.name} has no training images.")
            return None
        fingerprint = self.attempt("dataset", dataset.fingerprint)
        if fingerprint is None:
            return None
        data = Data(dataset, train, test, fingerprint, validation)
        self.open_data_sets.append((self.recipe.dataset, data))
        return data

    # -- composition --------------------------------------------------------------------------------

    def pipelines(self) -> list[Pipeline]:
        epochs = self.recipe.train.epochs
        augmentation = self.recipe.augmentation
        pipelines = self.attempt("augmentation", lambda: augmentation.build(epochs=epochs).pipelines())
        return [] if pipelines is None else pipelines

    def view_sizes(self, pipelines: Sequence[Pipeline], data: Data | None) -> list[tuple[int, int]]:
        """(h, w) of every view; an empty list if one is too large, varies with the image, or is unknown."""
        image = data.train.size if data else None
        sizes = self.attempt(
            "augmentation", lambda: [pipeline.output_size(image) for pipeline in pipelines], "dataset"
        )
        fixed_sizes = [size for size in sizes or () if size is not None]
        if not sizes or (data is None and len(fixed_sizes) < len(sizes)):
            return []
        return fixed_sizes if self.check(rules.view_sizes(self.recipe, sizes, image)) else []

    def sizes_over_run(self, pipelines: Sequence[Pipeline], data: Data | None) -> list[list[tuple[int, int]]]:
        """(h, w) of every view in every epoch; an empty list if an operation cannot take a size."""
        image, epochs = data.train.size if data else None, self.recipe.train.epochs
        views = self.attempt("augmentation", lambda: [sizes_over(each, epochs, image) for each in pipelines])
        return [[size for size in sizes if size is not None] for sizes in views or ()]

    def image_size(self, sizes: Sequence[tuple[int, int]]) -> int | None:
        """Side of the images that an encoder takes, in training (its first view) and in evaluation."""
        if not sizes or not self.check(rules.square_view(self.recipe, sizes[0])):
            return None
        return sizes[0][0]

    def backbone(self, channels: int, image_size: int) -> Backbone | None:
        return self.build_part("backbone", self.recipe.backbone, in_channels=channels, image_size=image_size)

    def encoder(self, channels: int, image_size: int) -> tuple[Backbone | None, Head | None]:
        """Backbone, and the head that makes z, if any; None for one that rejects its parameters."""
        backbone = self.backbone(channels, image_size)
        head: Head | None = None
        if backbone is not None:
            aim = next((aim for aim in self.recipe.aims if aim.keys.level == "image"), None)
            if aim is not None:
                size = (image_size, image_size)
                pools = aim.head.pools
                width = token_shape(backbone, channels, size).width if pools else backbone.features
                head = self.build_part(aim.path("head"), aim.head, in_features=width)
        return backbone, head

    def protocols(self) -> list[TimedProtocol]:
        protocols = []
        for name, (spec, at) in self.recipe.evaluate.protocols.items():
            protocol: Protocol | None = self.attempt(f"evaluate.{name}", spec.build)
            if protocol is not None:
                protocols.append(TimedProtocol(name, spec.name, protocol, at))
        return protocols

    def callbacks(self) -> list[Callback | None]:
        """The callbacks in the recipe's order; None for one that rejects its parameters."""
        return [self.attempt(path, spec.build) for path, spec in self.recipe.parts_at("callbacks")]

    def compose(self, data: Data | None) -> Composition | None:
        """Every part of the recipe; None, and mistakes, if some of them cannot be built.

        Without data, images have three channels and the size that the augmentation produces.
        """
        pipelines = self.pipelines()
        sizes = self.view_sizes(pipelines, data)
        size = self.image_size(sizes)
        channels = data.train.channels if data else 3
        over_run = self.sizes_over_run(pipelines, data) if sizes else []
        method: Method | None = None
        if size and pipelines:
            backbone = self.backbone(channels, size)
            method = ObjectiveBuilder(self, backbone, channels, size, sizes).method()
        if method is not None and any(aim.reads_tokens for aim in self.recipe.aims):
            self._try_objectives(method, pipelines, sizes, channels)
        optimizer: Optimizer | None = self.attempt("optimizer", self.recipe.optimizer.build)
        protocols, callbacks = self.protocols(), self.callbacks()
        if method is not None and size is not None and over_run:
            method.evaluates_target = self.recipe.evaluate.encoder == "target"
            has_validation = evaluation_rules.has_validation(self.recipe, data, protocols)
            self.check(
                rules.encodable_views(
                    self.recipe, method.backbone, [*chain.from_iterable(over_run)], channels, size
                ),
                resolutions(self.recipe, method, over_run),
                rules.composition(self.recipe, method, has_validation, callbacks),
                evaluation_rules.encoder(self.recipe, method),
                evaluation_rules.callback_metrics(self.recipe, callbacks, protocols, monitor_names(method)),
                evaluation_rules.features(self.recipe, method, protocols, channels, size),
            )
            if optimizer is not None:
                self._fit_optimizer(optimizer, method)
        if method is None or optimizer is None or size is None:
            return None
        ready = [callback for callback in callbacks if callback is not None]
        return Composition(method, optimizer, pipelines, protocols, ready, sizes, size)

    def _try_objectives(
        self, method: Method, pipelines: Sequence[Pipeline], sizes: Sequence[tuple[int, int]], channels: int
    ) -> None:
        """Check that hidden pixels stay hidden, and freeze the parameters that no objective reaches."""
        views = self.attempt("augmentation", lambda: trial_views(pipelines, sizes, channels, method.grids))
        if views is None or not self.check(
            patch_rules.masks(self.recipe, method, views),
            patch_rules.row_counts(self.recipe, method, self._marks(method, pipelines, sizes)),
            patch_rules.hiding(self.recipe, method, views),
        ):
            return
        names = self.attempt("objectives", lambda: unused_parameters(method, views))
        if names:
            freeze(method, names)
            method.unused_parameters = tuple(names)

    def _marks(
        self, method: Method, pipelines: Sequence[Pipeline], sizes: Sequence[tuple[int, int]]
    ) -> dict[int, list[Marks]]:
        """Of each view whose grid is known, its marks in some epochs of the run."""
        train = self.recipe.train
        return {
            number: sampled_marks(pipelines[number], number, grid, sizes[number], train.seed, train.epochs)
            for number, grid in method.grids.items()
        }

    def _fit_optimizer(self, optimizer: Optimizer, method: Method) -> None:
        """Set the mode of the modules that the optimizer will freeze.

        Add a mistake if the optimizer rejects the method, as for a group that matches no parameter.
        """
        images = self.recipe.train.batch_size * self.recipe.train.accumulate

        def check() -> None:
            optimizer.check(method, images)
            method.freeze_modules(optimizer.frozen_parameters(method))

        self.attempt("optimizer", check, *_TRAINED)


def compose(recipe: Recipe, data: Data) -> Composition:
    """Build every part anew for a data set that is open. Raises RecipeError with all mistakes at once."""
    builder = Builder(recipe)
    composition = builder.compose(data)
    builder.raise_if_any()
    assert composition is not None  # or there were mistakes
    return composition


def untrained_of(
    recipe: Recipe, data: Data, parts: Composition, device: torch.device, open_branches: bool = False
) -> tuple[Backbone, Head | None]:
    """Backbone and head of a composition as before the first step, rebuilt from the seed.

    The head is what makes z; None if all objectives compare patches. With ``open_branches``, a backbone that
    starts without weights has residual branches that do something: a normalisation that starts at zero starts
    at one, as with timm's option ``zero_init_last=false``. Otherwise an untrained ResNet is only a few 1 x 1
    convolutions.
    """
    backbone, head = Builder(recipe).encoder(data.train.channels, parts.image_size)
    assert backbone is not None  # it has been built before
    if open_branches and not starts_from_weights(recipe):
        for module in backbone.modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, torch.Tensor) and weight.dim() == 1 and not weight.any():
                torch.nn.init.ones_(weight)
    return in_channels_last(backbone, device), None if head is None else head.to(device)


def starts_from_weights(recipe: Recipe) -> bool:
    """Whether the backbone starts from weights of a file or a hub, so that it is not random."""
    return any(recipe.backbone.params.get(key) for key in ("weights", "pretrained"))


def build(
    recipe: Recipe,
    *,
    training: bool = True,
    open_data_sets: DataSets | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> tuple[Data, Composition]:
    """Open the data and build every part. Raises RecipeError with all mistakes at once.

    Without ``training``, the data may be smaller than a batch or lack labels to train on, and trackers may be
    missing. One in ``open_data_sets`` is not opened again, and a newly opened one is added. ``announce`` is
    called with a few words at the beginning of each phase.
    """
    builder = Builder(recipe, open_data_sets)
    announce("opening the data set")
    data = builder.data(training)
    if training:
        builder.check(rules.trackers(recipe))
    announce("building the model")
    composition = builder.compose(data)
    builder.raise_if_any()
    assert data is not None
    assert composition is not None  # or there were mistakes
    return data, composition
