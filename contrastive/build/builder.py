"""From a resolved recipe to objects: the only place that constructs parts, in a fixed order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from contrastive.augmentations.pipeline import Pipeline
from contrastive.build.composition import Composition, Data, Opened
from contrastive.build.memory_guard import MAX_SIDE, MemoryGuard
from contrastive.distributed import world_size
from contrastive.errors import ContrastiveError, Mistake, PluginError, RecipeError
from contrastive.evaluation.evaluation import Scheduled
from contrastive.kinds import MONITORS
from contrastive.parts import NEEDS, Backbone, Callback, Dataset, Head, Part, Protocol
from contrastive.recipe import PartSpec, Recipe
from contrastive.rng import derive
from contrastive.training.accelerator import no_tracker
from contrastive.training.method import Method

T = TypeVar("T")


class Builder:
    """Builds the parts of one recipe and collects every mistake on the way."""

    def __init__(self, recipe: Recipe, opened: Opened | None = None):
        self.recipe, self.opened = recipe, [] if opened is None else opened
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
            with MemoryGuard():
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
        data = self._open()
        if data is not None and training:
            self._check_data(data)
        return data

    def _open(self) -> Data | None:
        for spec, data in self.opened:
            if spec == self.recipe.dataset:
                return data
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
        self.opened.append((self.recipe.dataset, data))
        return data

    def _check_data(self, data: Data) -> None:
        images, batch = len(data.train), self.recipe.train.batch_size
        if batch * self.recipe.train.accumulate > images:
            self.refuse(
                "train.batch_size",
                f"a step takes {batch * self.recipe.train.accumulate} images but the data set has {images}; "
                f"lower train.batch_size to {images} or less.",
            )
        if told := self.recipe.unshared(world_size()):
            self.mistakes.append(told)
        if self.recipe.positives == "label" and not data.labelled:
            self.refuse("positives", "positives: label needs labels, and this data set has none.")

    # -- composition --------------------------------------------------------------------------------

    def pipelines(self) -> list[Pipeline]:
        augmentation = self.attempt("augmentation", self.recipe.augmentation.build)
        return [] if augmentation is None else augmentation.pipelines()

    def view_sizes(self, pipelines: Sequence[Pipeline], data: Data | None) -> list[tuple[int, int]]:
        """(h, w) of every view; none of them where one is too large, or varies from image to image."""
        given = data.train.size if data else None
        sizes = self.attempt("augmentation", lambda: [pipeline.output_size(given) for pipeline in pipelines])
        fixed = [size for size in sizes or () if size is not None]
        if not sizes or (data is None and len(fixed) < len(sizes)):
            return []
        if len(fixed) < len(sizes):
            what = "the images differ in size; start" if given is None else "the views differ in size; end"
            self.refuse("augmentation", f"{what} the augmentation with random_resized_crop, or use simclr.")
            return []
        side = max(map(max, fixed))
        if side > MAX_SIDE:
            self.refuse("augmentation", f"views of {side} pixels a side are too large; at most {MAX_SIDE}.")
            return []
        return fixed

    def image_size(self, sizes: Sequence[tuple[int, int]]) -> int | None:
        """Side of the images an encoder sees, in training (its first view) as in evaluation."""
        if not sizes:
            return None
        height, width = sizes[0]
        if height != width:
            self.refuse(
                "augmentation",
                f"views of {height} x {width} pixels are not square, as evaluation and export need them; "
                "start the augmentation with random_resized_crop, or use simclr.",
            )
            return None
        return height

    def backbone(self, channels: int, image_size: int) -> Backbone | None:
        return self.seeded("backbone", self.recipe.backbone, in_channels=channels, image_size=image_size)

    def encoder(self, channels: int, image_size: int) -> tuple[Backbone | None, Head | None]:
        """Backbone and head; None where one refused."""
        backbone = self.backbone(channels, image_size)
        head: Head | None = None
        if backbone is not None:
            head = self.seeded("head", self.recipe.head, in_features=backbone.features)
        return backbone, head

    def method(self, channels: int, image_size: int, views: int) -> Method | None:
        """The method, or None where any of its parts refused."""
        recipe = self.recipe
        backbone, head = self.encoder(channels, image_size)
        predictor = None
        if head is not None and recipe.predictor is not None:
            predictor = self.seeded("predictor", recipe.predictor, in_features=head.out_features)
        offers = {"in_features": 1 if head is None else head.out_features}  # D
        target = self.seeded("target", recipe.target, **offers)
        negatives = [
            self.seeded(path, spec, **offers) for path, spec in _paths("negatives", recipe.negatives)
        ]
        losses = [self.seeded(path, spec, **offers) for path, spec in _paths("loss", recipe.loss_parts)]
        if backbone is None or head is None or any(part is None for part in (target, *negatives, *losses)):
            return None
        before = len(self.mistakes)
        online_views, target_views = self._views("online", views), self._views("target", views)
        self._check_width(head, predictor)
        if len(self.mistakes) > before:
            return None
        return self.attempt(
            "target",
            lambda: Method(
                backbone,
                head,
                predictor,
                target,
                negatives,
                [(weight, loss) for (weight, _), loss in zip(recipe.losses, losses, strict=True)],
                online_views,
                target_views,
                recipe.views.batch_norm == "joint",
            ),
        )

    def _views(self, side: str, views: int) -> tuple[int, ...]:
        asked = getattr(self.recipe.views, side)
        if asked == "all":
            return tuple(range(views))
        for view in sorted({view for view in asked if view >= views}):
            last = f"0 to {views - 1}" if views > 1 else "0 alone"
            self.refuse(f"views.{side}", f"there is no view {view}; the augmentation makes {last}.")
        if len(set(asked)) < len(asked):
            self.refuse(f"views.{side}", f"names a view twice; say {sorted(set(asked))}.")
        return tuple(dict.fromkeys(asked))

    def check_view_sizes(
        self, backbone: Backbone, sizes: Sequence[tuple[int, int]], channels: int, image_size: int
    ) -> None:
        """Refuse views of a size that the backbone, built for those of ``image_size``, cannot take."""
        for height, width in sorted(set(sizes) - {(image_size, image_size)}):
            backbone.eval()
            try:
                with torch.no_grad(), MemoryGuard():
                    backbone(torch.zeros(1, channels, height, width))
            except Exception as error:  # a stranger's code, on a size it was not made for
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
                self.refuse(
                    "augmentation",
                    f"{self.recipe.backbone.name} takes images of {image_size} x {image_size} pixels, but "
                    f"not views of {height} x {width}: {reason} Give all views one size, or take a "
                    "backbone without one: a ResNet, or a timm transformer with options: "
                    "{dynamic_img_size: true}.",
                )
            finally:
                backbone.train()

    def _check_width(self, head: Head, predictor: Head | None) -> None:
        if predictor is not None and predictor.out_features != head.out_features:
            self.refuse(
                "predictor",
                f"makes vectors of {predictor.out_features}, and the keys it is to predict have "
                f"{head.out_features}; let both end in the same width.",
            )

    def check_composition(
        self, method: Method, given: Mapping[str, bool], callbacks: Sequence[Callback]
    ) -> None:
        """Refuse what cannot work together, from what parts declare they need and what there is."""
        self._check_pairs(method)
        self._check_candidates()
        self._check_normalised(method)
        for path, spec, part in self._declaring(method, callbacks):
            self._check_needs(path, spec, part, given)

    def check_reads(self, callbacks: Sequence[Callback], protocols: Sequence[Scheduled]) -> None:
        """Refuse callbacks that act on figures that no evaluation during training gives."""
        due = [f"{entry.name}_" for entry in protocols if entry.at == "every"]
        specs = _paths("callbacks", self.recipe.callbacks, True)
        for (path, spec), callback in zip(specs, callbacks, strict=False):
            for figure in callback.reads:
                if figure not in MONITORS and not figure.startswith(tuple(due)):
                    given = ", ".join([*(f"{name}*" for name in due), *MONITORS])
                    self.refuse(
                        path,
                        f"{spec.name} reads '{figure}', which evaluations during training do not give; they "
                        f"give {given}. Name one of these, or say at: every of its protocol.",
                    )

    def _check_pairs(self, method: Method) -> None:
        if not method.pairs:
            self.refuse(
                "views",
                "no online view is paired with another target view, so nothing is compared; say for example "
                "views: {online: [0], target: [1]}, of an augmentation that makes two views.",
            )
        paired = {online for online, _ in method.pairs}
        alone = [view for view in method.online_views if view not in paired]
        if paired and alone:
            self.refuse(
                "views.online",
                f"view {alone[0]} has no other target view to be compared with, and would be encoded for "
                f"nothing; say online: {sorted(paired)}.",
            )

    def _check_candidates(self) -> None:
        names = [spec.name for spec in self.recipe.negatives]
        if "none" in names and len(names) > 1:
            self.refuse("negatives", "none cannot stand beside other negatives; leave it, or them, out.")

    def _check_normalised(self, method: Method) -> None:
        if len({loss.normalised for loss in method.loss_parts}) > 1:
            kinds = {
                spec.name: "directions" if loss.normalised else "raw vectors"
                for spec, loss in zip(self.recipe.loss_parts, method.loss_parts, strict=True)
            }
            told = ", ".join(f"{name} compares {what}" for name, what in kinds.items())
            self.refuse("loss", f"losses that are added must agree on what they compare: {told}.")

    def _declaring(self, method: Method, callbacks: Sequence[Callback]) -> list[tuple[str, PartSpec, Part]]:
        """The parts whose needs are checked: where the recipe names each, how, and the part."""
        recipe = self.recipe
        named: list[tuple[str, PartSpec, Part]] = [
            ("backbone", recipe.backbone, method.backbone),
            ("head", recipe.head, method.head),
            ("target", recipe.target, method.target),
            *_named("negatives", recipe.negatives, method.sources),
            *_named("loss", recipe.loss_parts, method.loss_parts),
            *_named("callbacks", recipe.callbacks, callbacks),
        ]
        if recipe.predictor is not None and method.predictor is not None:
            named.append(("predictor", recipe.predictor, method.predictor))
        return named

    def _check_needs(self, path: str, spec: PartSpec, part: Part, given: Mapping[str, bool]) -> None:
        for need in sorted(_needs(part)):
            if need not in NEEDS:
                raise spec.entry.broken(f"needs '{need}', which no recipe can give ({', '.join(NEEDS)})")
            if not given[need] and not (need in _COLLAPSES and "collapse" in self.recipe.allow):
                study = ", or allow: [collapse] for a study of it" if need in _COLLAPSES else ""
                self.refuse(path, f"{spec.name} {NEEDS[need]}{study}.")

    def given(self, method: Method, data: Data | None, protocols: Sequence[Scheduled]) -> dict[str, bool]:
        """What the composition gives of all that a part may need (:data:`contrastive.parts.NEEDS`)."""
        recipe = self.recipe
        followed = recipe.evaluate.every > 0 and any(entry.at == "every" for entry in protocols)
        return {
            "negatives": bool(method.offers) or any(source.memory() is not None for source in method.sources),
            "labels": recipe.positives == "label",
            "predictor": recipe.predictor is not None,
            "detached_keys": method.target.detached,
            "single_positive": recipe.positives == "image"
            and all(sum(o == view for o, _ in method.pairs) <= 1 for view in method.online_views),
            "validation": followed and (data is None or data.labelled),
            "processes": True,  # who trains gives them, or refuses: other commands take any run in one
        }

    def protocols(self) -> list[Scheduled]:
        built = []
        for name, (spec, at) in self.recipe.evaluate.protocols.items():
            protocol: Protocol | None = self.attempt(f"evaluate.{name}", spec.build)
            if protocol is not None:
                built.append(Scheduled(name, spec.name, protocol, at))
        return built

    def callbacks(self) -> list[Callback]:
        built = [
            self.attempt(path, spec.build) for path, spec in _paths("callbacks", self.recipe.callbacks, True)
        ]
        return [callback for callback in built if callback is not None]

    def compose(self, data: Data | None) -> Composition | None:
        """Every part of the recipe; None, beside the mistakes noted, where not all of them could be built.

        Without data, images have three channels and the size the augmentation gives them.
        """
        pipelines = self.pipelines()
        sizes = self.view_sizes(pipelines, data)
        size = self.image_size(sizes)
        channels = data.train.channels if data else 3
        method = self.method(channels, size, len(pipelines)) if size and pipelines else None
        optimizer = self.attempt("optimizer", self.recipe.optimizer.build)
        protocols, callbacks = self.protocols(), self.callbacks()
        if method is not None and size is not None:
            self.check_view_sizes(method.backbone, sizes, channels, size)
            self.check_composition(method, self.given(method, data, protocols), callbacks)
            self.check_reads(callbacks, protocols)
            if optimizer is not None:  # its groups name parameters of this method
                images = self.recipe.train.batch_size * self.recipe.train.accumulate
                self.attempt("optimizer", lambda: optimizer.build(method, images))
        if method is None or optimizer is None or size is None:
            return None
        return Composition(method, optimizer, pipelines, protocols, callbacks, sizes, size)


#: Needs whose lack lets the embedding collapse: a study may want to see it.
_COLLAPSES = ("negatives", "predictor", "detached_keys")


def _needs(part: Part) -> set[str]:
    """What a part declares that it needs, and what the parts within it do."""
    inside = part.modules() if isinstance(part, nn.Module) else [part]
    return {need for each in inside if isinstance(each, Part) for need in each.needs}


def _paths(key: str, specs: Sequence[PartSpec], numbered: bool = False) -> list[tuple[str, PartSpec]]:
    """Where a recipe writes each of them: ``loss``, or ``loss.0`` and so on where there are several."""
    return [(f"{key}.{i}" if numbered or len(specs) > 1 else key, spec) for i, spec in enumerate(specs)]


def _named(key: str, specs: Sequence[PartSpec], parts: Sequence[Part]) -> list[tuple[str, PartSpec, Part]]:
    located = _paths(key, specs, key == "callbacks")
    return [(path, spec, part) for (path, spec), part in zip(located, parts, strict=False)]


def untrained_of(
    recipe: Recipe, data: Data, parts: Composition, device: torch.device
) -> tuple[Backbone, Head]:
    """Backbone and head of what :func:`build` gave as before their first step, rebuilt from the seed."""
    backbone, head = Builder(recipe).encoder(data.train.channels, parts.image_size)
    assert backbone is not None  # they have been built before
    assert head is not None
    return backbone.to(device).to(memory_format=torch.channels_last), head.to(device)


def build(recipe: Recipe, *, training: bool = True, opened: Opened | None = None) -> tuple[Data, Composition]:
    """Open the data and build every part. Raises RecipeError with all mistakes at once.

    Without ``training`` the data may be too few for a batch, or have no labels to train on, and trackers may
    not be there. What stands in ``opened`` is not opened again, and what is opened is added to it.
    """
    builder = Builder(recipe, opened)
    data = builder.data(training)
    for told in filter(None, map(no_tracker, recipe.train.trackers if training else ())):
        builder.refuse("train.trackers", told)
    composition = builder.compose(data)
    builder.raise_mistakes()
    assert data is not None
    assert composition is not None  # or there were mistakes
    return data, composition
