"""What a recipe must satisfy once its data and parts exist.

Every rule is pure: it yields mistakes, each at its line of the recipe, and changes neither the recipe nor a
part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from contrastive.build.composition import Data
from contrastive.build.memory_guard import MAX_SIDE, MemoryGuard
from contrastive.errors import Mistake
from contrastive.evaluation.evaluation import TimedProtocol, frozen
from contrastive.kinds import MONITORS
from contrastive.parts import NEEDS, Backbone, Callback, Head, Part
from contrastive.recipe import PartSpec, Recipe
from contrastive.training.accelerator import tracker_problem
from contrastive.training.method import Method

Size = tuple[int, int]  # (h, w) in pixels

#: Needs whose lack lets the embedding collapse: a study may want to see it.
_COLLAPSES = ("negatives", "predictor", "detached_keys")


# -- before anything is built -----------------------------------------------------------------------------


def trackers(recipe: Recipe) -> Iterator[Mistake]:
    """Every tracker is one that Accelerate knows and that is installed."""
    for name in recipe.train.trackers:
        if reason := tracker_problem(name):
            yield recipe.mistake("train.trackers", reason)


def training_data(recipe: Recipe, data: Data, processes: int) -> Iterator[Mistake]:
    """The data fills a step, a batch divides among the processes, and labels exist if positives need them."""
    images, batch = len(data.train), recipe.train.batch_size
    if batch * recipe.train.accumulate > images:
        yield recipe.mistake(
            "train.batch_size",
            f"a step takes {batch * recipe.train.accumulate} images but the data set has {images}; "
            f"lower train.batch_size to {images} or less.",
        )
    if mistake := recipe.unshared(processes):
        yield mistake
    if recipe.positives == "label" and not data.labelled:
        yield recipe.mistake("positives", "positives: label needs labels, and this data set has none.")


# -- views ------------------------------------------------------------------------------------------------


def view_sizes(recipe: Recipe, sizes: Sequence[Size | None], image: Size | None) -> Iterator[Mistake]:
    """Every view has one size for all images, and no view is too large.

    Args:
        recipe: whose augmentation makes the views.
        sizes: of the views; None for a view whose size varies.
        image: size of the data set's images, or None if it varies.
    """
    fixed = [size for size in sizes if size is not None]
    if len(fixed) < len(sizes):
        what = "the images differ in size; start" if image is None else "the views differ in size; end"
        yield recipe.mistake(
            "augmentation", f"{what} the augmentation with random_resized_crop, or use simclr."
        )
        return
    side = max(map(max, fixed), default=0)
    if side > MAX_SIDE:
        yield recipe.mistake(
            "augmentation", f"views of {side} pixels a side are too large; at most {MAX_SIDE}."
        )


def square_view(recipe: Recipe, size: Size) -> Iterator[Mistake]:
    """The first view is square: it has the size of the images that evaluation and export use."""
    height, width = size
    if height != width:
        yield recipe.mistake(
            "augmentation",
            f"views of {height} x {width} pixels are not square, as evaluation and export need them; "
            "start the augmentation with random_resized_crop, or use simclr.",
        )


def view_indices(recipe: Recipe, views: int) -> Iterator[Mistake]:
    """Each side of ``views`` names views that the augmentation makes, each once."""
    for side in ("online", "target"):
        indices = getattr(recipe.views, side)
        if indices == "all":
            continue
        for view in sorted({view for view in indices if view >= views}):
            last = f"0 to {views - 1}" if views > 1 else "0 alone"
            yield recipe.mistake(f"views.{side}", f"there is no view {view}; the augmentation makes {last}.")
        if len(set(indices)) < len(indices):
            yield recipe.mistake(f"views.{side}", f"names a view twice; say {sorted(set(indices))}.")


def encodable_views(
    recipe: Recipe, backbone: Backbone, sizes: Sequence[Size], channels: int, image_size: int
) -> Iterator[Mistake]:
    """The backbone, built for images of ``image_size``, takes views of every size.

    Each size is tried on a black image, in evaluation mode, which moves no statistics of batch norm.
    """
    for height, width in sorted(set(sizes) - {(image_size, image_size)}):
        try:
            with frozen(backbone), MemoryGuard():
                backbone(torch.zeros(1, channels, height, width))
        except Exception as error:  # a stranger's code, on a size it was not made for
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            yield recipe.mistake(
                "augmentation",
                f"{recipe.backbone.name} takes images of {image_size} x {image_size} pixels, but "
                f"not views of {height} x {width}: {reason} Give all views one size, or take a "
                "backbone without one: a ResNet, or a timm transformer with options: "
                "{dynamic_img_size: true}.",
            )


# -- parts among each other -------------------------------------------------------------------------------


def predictor_width(recipe: Recipe, head: Head, predictor: Head | None) -> Iterator[Mistake]:
    """The predictor's vectors are as wide as the keys."""
    if predictor is not None and predictor.out_features != head.out_features:
        yield recipe.mistake(
            "predictor",
            f"makes vectors of {predictor.out_features}, and the keys it is to predict have "
            f"{head.out_features}; let both end in the same width.",
        )


def composition(
    recipe: Recipe, method: Method, capabilities: Mapping[str, bool], callbacks: Sequence[Callback | None]
) -> Iterator[Mistake]:
    """The parts work together, and each has what it declares that it needs.

    Args:
        recipe: that names the parts.
        method: its parts, composed.
        capabilities: see :func:`capabilities_of`.
        callbacks: in the recipe's order; None for one that refused its parameters.
    """
    yield from _pairs(recipe, method)
    yield from _negatives(recipe, method)
    yield from _normalisation(recipe, method)
    for path, spec, part in _parts(recipe, method, callbacks):
        yield from _needs(recipe, path, spec, part, capabilities)


def capabilities_of(
    recipe: Recipe, method: Method, data: Data | None, protocols: Sequence[TimedProtocol]
) -> dict[str, bool]:
    """Which of all that a part may need (:data:`contrastive.parts.NEEDS`) a composition has."""
    evaluated = recipe.evaluate.every > 0 and any(entry.at == "every" for entry in protocols)
    return {
        "negatives": bool(method.offers) or any(source.memory() is not None for source in method.sources),
        "labels": recipe.positives == "label",
        "predictor": recipe.predictor is not None,
        "detached_keys": method.target.detached,
        "single_positive": recipe.positives == "image"
        and all(sum(o == view for o, _ in method.pairs) <= 1 for view in method.online_views),
        "validation": evaluated and (data is None or data.labelled),
        "processes": True,  # who trains has them, or refuses: other commands take any run in one
    }


def callback_metrics(
    recipe: Recipe, callbacks: Sequence[Callback | None], protocols: Sequence[TimedProtocol]
) -> Iterator[Mistake]:
    """Callbacks read only metrics that evaluations during training give."""
    prefixes = [f"{entry.name}_" for entry in protocols if entry.at == "every"]
    for (path, spec), callback in zip(recipe.parts_at("callbacks"), callbacks, strict=True):
        for metric in callback.reads if callback is not None else ():
            if metric not in MONITORS and not metric.startswith(tuple(prefixes)):
                available = ", ".join([*(f"{prefix}*" for prefix in prefixes), *MONITORS])
                yield recipe.mistake(
                    path,
                    f"{spec.name} reads '{metric}', which evaluations during training do not give; they "
                    f"give {available}. Name one of these, or say at: every of its protocol.",
                )


def _pairs(recipe: Recipe, method: Method) -> Iterator[Mistake]:
    if not method.pairs:
        yield recipe.mistake(
            "views",
            "no online view is paired with another target view, so nothing is compared; say for example "
            "views: {online: [0], target: [1]}, of an augmentation that makes two views.",
        )
    paired = {online for online, _ in method.pairs}
    alone = [view for view in method.online_views if view not in paired]
    if paired and alone:
        yield recipe.mistake(
            "views.online",
            f"view {alone[0]} has no other target view to be compared with, and would be encoded for "
            f"nothing; say online: {sorted(paired)}.",
        )


def _negatives(recipe: Recipe, method: Method) -> Iterator[Mistake]:
    alone = [
        spec.name
        for spec, source in zip(recipe.negatives, method.sources, strict=True)
        if source.stands_alone
    ]
    if alone and len(recipe.negatives) > 1:
        yield recipe.mistake(
            "negatives", f"{alone[0]} cannot stand beside other negatives; leave it, or them, out."
        )


def _normalisation(recipe: Recipe, method: Method) -> Iterator[Mistake]:
    if len({loss.normalised for loss in method.loss_parts}) > 1:
        kinds = {
            spec.name: "directions" if loss.normalised else "raw vectors"
            for spec, loss in zip(recipe.loss_parts, method.loss_parts, strict=True)
        }
        listed = ", ".join(f"{name} compares {what}" for name, what in kinds.items())
        yield recipe.mistake("loss", f"losses that are added must agree on what they compare: {listed}.")


def _parts(
    recipe: Recipe, method: Method, callbacks: Sequence[Callback | None]
) -> Iterator[tuple[str, PartSpec, Part]]:
    """The parts whose needs are checked: the path at which the recipe names each, how, and the part."""
    yield "backbone", recipe.backbone, method.backbone
    yield "head", recipe.head, method.head
    yield "target", recipe.target, method.target
    if recipe.predictor is not None and method.predictor is not None:
        yield "predictor", recipe.predictor, method.predictor
    several: dict[str, Sequence[Part | None]] = {
        "negatives": method.sources,
        "loss": method.loss_parts,
        "callbacks": callbacks,
    }
    for key, parts in several.items():
        for (path, spec), part in zip(recipe.parts_at(key), parts, strict=True):
            if part is not None:
                yield path, spec, part


def _needs(
    recipe: Recipe, path: str, spec: PartSpec, part: Part, capabilities: Mapping[str, bool]
) -> Iterator[Mistake]:
    for need in sorted(_needs_of(part)):
        if need not in NEEDS:
            raise spec.entry.broken(f"needs '{need}', which no recipe can give ({', '.join(NEEDS)})")
        if not capabilities[need] and not (need in _COLLAPSES and "collapse" in recipe.allow):
            study = ", or allow: [collapse] for a study of it" if need in _COLLAPSES else ""
            yield recipe.mistake(path, f"{spec.name} {NEEDS[need]}{study}.")


def _needs_of(part: Part) -> set[str]:
    """What a part declares that it needs, and what the parts within it do."""
    inside = part.modules() if isinstance(part, nn.Module) else [part]
    return {need for each in inside if isinstance(each, Part) for need in each.needs}
