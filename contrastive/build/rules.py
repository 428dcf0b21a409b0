"""Rules that a recipe must obey once its data and parts exist.

Every rule is pure: it yields mistakes, each at its line of the recipe, and changes neither the recipe nor any
part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from contrastive.build.composition import Data
from contrastive.build.memory_guard import MAX_SIDE, MemoryGuard
from contrastive.errors import Mistake
from contrastive.evaluation import frozen
from contrastive.parts import NEEDS, Backbone, Callback, Head, Part
from contrastive.recipe import ObjectiveSpec, PartSpec, Recipe
from contrastive.text import quantity
from contrastive.training import Method, Objective, tracker_problem

Size = tuple[int, int]  # (h, w) in pixels

#: Needs without which the embedding collapses, which a study may want to see.
_COLLAPSES = ("negatives", "predictor", "detached_keys")

#: The keys of a recipe that decide whether a need is met.
_MET_BY = {
    "negatives": ("negatives.name",),
    "memories": ("negatives.name",),
    "labels": ("positives",),
    "predictor": ("predictor.name",),
    "detached_keys": ("target.name",),
    "single_positive": ("positives", "views", "augmentation"),
    "validation": ("evaluate", "dataset"),
}


# -- before anything is built -----------------------------------------------------------------------------


def trackers(recipe: Recipe) -> Iterator[Mistake]:
    """Accelerate knows every tracker, and it is installed."""
    for name in recipe.train.trackers:
        if reason := tracker_problem(name):
            yield recipe.mistake("train.trackers", reason)


def training_data(recipe: Recipe, data: Data, processes: int) -> Iterator[Mistake]:
    """The data fills a step, batches split evenly among processes, and positives have labels if needed."""
    images, accumulate = len(data.train), recipe.train.accumulate
    step_images = recipe.train.batch_size * accumulate
    if step_images > images:
        yield recipe.mistake(
            "train.batch_size",
            f"a step needs {quantity(step_images, 'image')} but the data set has {images:,}; "
            f"{_fewer_images(recipe, images, processes)}.",
            "train.accumulate",
            "dataset",
        )
    if mistake := recipe.uneven_batch(processes):
        yield mistake
    if recipe.reads_labels and not len(data.division.fit_rows):
        problem = "all its labels are of the held-out tenth" if data.labelled else "this data set has none"
        hint = f" ({data.label_hint})" if data.label_hint else ""
        yield recipe.mistake("positives", f"label needs labels, but {problem}{hint}; use image.", "dataset")


def _fewer_images(recipe: Recipe, images: int, processes: int) -> str:
    """How a step can do with ``images`` images."""
    accumulate = recipe.train.accumulate
    largest = images // accumulate // processes * processes
    option = f"--set train.batch_size={largest}"
    remedies = [f"lower it to {largest} or less ({option})"] if largest >= 2 else []
    if accumulate > 1:
        largest = images // recipe.train.batch_size
        remedies.append(
            f"lower train.accumulate to {largest} or less"
            if largest
            else "lower both it and train.accumulate"
        )
    return ", or ".join(remedies) or "add images"


# -- views ------------------------------------------------------------------------------------------------


def view_sizes(recipe: Recipe, sizes: Sequence[Size | None], image: Size | None) -> Iterator[Mistake]:
    """Every view has one size for all images, and no view is too large.

    Args:
        recipe: the recipe of the augmentation.
        sizes: sizes of the views; None for a view whose size varies.
        image: size of the images of the data set, or None if it varies.
    """
    fixed_sizes = [size for size in sizes if size is not None]
    if len(fixed_sizes) < len(sizes):
        what = "the images differ in size; start" if image is None else "the views differ in size; end"
        yield recipe.mistake("augmentation", f"{what} with random_resized_crop, or use simclr.", "dataset")
        return
    side, shrink = max(map(max, fixed_sizes), default=0), recipe.train.shrink
    if shrink is not None and shrink.short_side < side:
        yield recipe.mistake(
            "train.shrink.short_side",
            f"images shrunk to {quantity(shrink.short_side, 'pixel')} would be enlarged again to views of "
            f"{side:,}; raise it to {side} or more.",
            "augmentation",
        )
    if side > MAX_SIDE:
        yield recipe.mistake(
            "augmentation", f"a side of a view has {side:,} pixels; the limit is {MAX_SIDE:,}.", "dataset"
        )


def square_view(recipe: Recipe, size: Size) -> Iterator[Mistake]:
    """The first view is square: it has the size of the images that evaluation and export use."""
    height, width = size
    if height != width:
        yield recipe.mistake(
            "augmentation",
            f"views of {height} x {width} pixels are not square, as evaluation and export require; "
            "end with random_resized_crop, or use simclr.",
            "dataset",
        )


def view_indices(recipe: Recipe, aim: ObjectiveSpec, views: int) -> Iterator[Mistake]:
    """``online`` and ``target`` of ``views`` name views that the augmentation produces, each once."""
    for side in ("online", "target"):
        indices = getattr(aim.views, side)
        path = f"{aim.views_path}.{side}"
        if indices == "all":
            continue
        for view in sorted({view for view in indices if view >= views}):
            last = f"views 0 to {views - 1}" if views > 1 else "only view 0"
            yield recipe.mistake(
                path,
                f"there is no view {view}; the augmentation produces {last}.",
                "augmentation",
            )
        if len(set(indices)) < len(indices):
            yield recipe.mistake(path, f"names a view twice; use {sorted(set(indices))}.")


def encodable_views(
    recipe: Recipe, backbone: Backbone, sizes: Sequence[Size], channels: int, image_size: int
) -> Iterator[Mistake]:
    """The backbone, built for images of ``image_size``, takes views of every size.

    Each size is tried with a black image in evaluation mode, which leaves the statistics of batch norm alone.
    """
    for height, width in sorted(set(sizes) - {(image_size, image_size)}):
        try:
            with frozen(backbone), MemoryGuard():
                backbone(torch.zeros(1, channels, height, width))
        except Exception as error:  # third-party code, with a size it may not support
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            yield recipe.mistake(
                "augmentation",
                f"{recipe.backbone.name} takes images of {image_size} x {image_size} pixels, but "
                f"not views of {height} x {width}: {reason} Give all views the same size, or use a "
                "backbone without a fixed size: a ResNet, or a timm transformer with options: "
                "{dynamic_img_size: true}.",
                "backbone",
            )


# -- parts together ----------------------------------------------------------------------------------------


def key_width(
    recipe: Recipe, aim: ObjectiveSpec, head: Head, predictor: Head | None, keys: int
) -> Iterator[Mistake]:
    """Queries are as wide as the keys: those of the head, unless the target decides their width."""
    if predictor is not None and predictor.out_features != keys:
        yield recipe.mistake(
            aim.path("predictor"),
            f"outputs vectors of {predictor.out_features}, but the keys have {keys}; give both the same "
            "width.",
            aim.path("head"),
        )
    if predictor is None and head.out_features != keys:
        yield recipe.mistake(
            aim.path("predictor"),
            f"the head outputs vectors of {head.out_features}, but the keys of {aim.target.name} have "
            f"{keys}; add a predictor, such as linear, which takes the width of the keys.",
            aim.path("target"),
        )


def composition(
    recipe: Recipe, method: Method, has_validation: bool, callbacks: Sequence[Callback | None]
) -> Iterator[Mistake]:
    """The parts fit together, and the needs that each declares are met.

    Args:
        recipe: the recipe that names the parts.
        method: the composition of its parts.
        has_validation: see :func:`contrastive.build.evaluation_rules.has_validation`.
        callbacks: the callbacks in the recipe's order; None for one that rejects its parameters.
    """
    for aim, objective in zip(recipe.aims, method.objectives, strict=True):
        yield from _pairs(recipe, aim, objective)
        yield from _predictor(recipe, aim, objective)
        yield from _negatives(recipe, aim, objective)
        yield from _normalisation(recipe, aim, objective)
        capabilities = {**_capabilities(recipe, aim, objective), "validation": has_validation}
        for path, spec, part in _parts(aim, objective):
            yield from _needs(recipe, path, spec, part, capabilities, aim.prefix)
    first = {**_capabilities(recipe, recipe.aims[0], method.objectives[0]), "validation": has_validation}
    yield from _needs(recipe, "backbone", recipe.backbone, method.backbone, first)
    for (path, spec), callback in zip(recipe.parts_at("callbacks"), callbacks, strict=True):
        if callback is not None:
            yield from _needs(recipe, path, spec, callback, first)


def _capabilities(recipe: Recipe, aim: ObjectiveSpec, objective: Objective) -> dict[str, bool]:
    """Whether an objective meets each need of :data:`contrastive.parts.NEEDS`, except validation.

    A target that cannot follow the online encoder keeps embeddings apart by itself.
    """
    fixed = objective.target.fixed
    memories = any(source.memory() is not None for source in objective.negatives)
    return {
        "negatives": fixed or memories or bool(objective.offers),
        "memories": memories,
        "labels": aim.keys.positives == "label",
        "predictor": fixed or aim.predictor is not None,
        "detached_keys": fixed or objective.target.detached,
        "single_positive": aim.keys.positives == "image"
        and all(sum(o == view for o, _ in objective.pairs) <= 1 for view in objective.online_views),
        "patches": aim.keys.level == "patch",
        "processes": True,  # checked where training starts: other commands load any run in one process
    }


def _pairs(recipe: Recipe, aim: ObjectiveSpec, objective: Objective) -> Iterator[Mistake]:
    path = aim.views_path
    if not objective.pairs:
        yield recipe.mistake(
            path,
            "no online view is paired with another target view, so nothing is compared; set for example "
            "online: [0] and target: [1], with an augmentation that produces two views.",
            f"{path}.online",
            f"{path}.target",
            "augmentation",
        )
    in_pairs = {online for online, _ in objective.pairs}
    alone = [view for view in objective.online_views if view not in in_pairs]
    if in_pairs and alone:
        yield recipe.mistake(
            f"{path}.online",
            f"view {alone[0]} has no other target view to be compared with, so encoding it is useless; "
            f"set it to {sorted(in_pairs)}.",
            f"{path}.target",
            "augmentation",
        )
    if objective.same and objective.shares_online:
        yield recipe.mistake(
            f"{path}.pairs",
            f"a view is paired with itself, but {aim.target.name} gives its query as its key; use a target "
            "with an encoder of its own, such as ema, or pairs: other.",
            aim.path("target"),
        )


def _predictor(recipe: Recipe, aim: ObjectiveSpec, objective: Objective) -> Iterator[Mistake]:
    predictor = objective.predictor
    if aim.predictor is not None and predictor is not None and predictor.fills and objective.level == "image":
        yield recipe.mistake(
            f"{aim.prefix}predictor",
            f"{aim.predictor.name} predicts patches, but whole images are compared; use another predictor, "
            "or write it in an objective with level: patch.",
        )


def _negatives(recipe: Recipe, aim: ObjectiveSpec, objective: Objective) -> Iterator[Mistake]:
    alone = [
        spec.name
        for spec, source in zip(aim.negatives, objective.negatives, strict=True)
        if source.stands_alone
    ]
    if alone and len(aim.negatives) > 1:
        yield recipe.mistake(
            f"{aim.prefix}negatives",
            f"{alone[0]} cannot be combined with other negatives; remove it or the others.",
        )
    with_guide = [
        spec.name
        for spec, source in zip(aim.negatives, objective.negatives, strict=True)
        if source.guide() is not None
    ]
    if with_guide and not objective.offers:
        yield recipe.mistake(
            f"{aim.prefix}negatives",
            f"no key of the batch is a candidate for {with_guide[0]} to leave out; add in_batch.",
        )


def _normalisation(recipe: Recipe, aim: ObjectiveSpec, objective: Objective) -> Iterator[Mistake]:
    losses = objective.loss_parts
    if len({loss.normalised for loss in losses}) > 1:
        kinds = {
            spec.name: "directions" if loss.normalised else "raw vectors"
            for (_, spec), loss in zip(aim.losses, losses, strict=True)
        }
        listing = ", ".join(f"{name} compares {what}" for name, what in kinds.items())
        yield recipe.mistake(
            f"{aim.prefix}loss", f"all losses must compare the same kind of vectors: {listing}."
        )


def _parts(aim: ObjectiveSpec, objective: Objective) -> Iterator[tuple[str, PartSpec, Part]]:
    """The parts of an objective whose needs are checked: paths in the recipe, specs, and parts."""
    for key, part in objective.single_parts.items():
        yield aim.path(key), getattr(aim, key), part
    for key, parts in (("negatives", objective.negatives), ("loss", objective.loss_parts)):
        for (path, spec), part in zip(aim.parts_at(key), parts, strict=True):
            yield path, spec, part


def _needs(
    recipe: Recipe,
    path: str,
    spec: PartSpec,
    part: Part,
    capabilities: Mapping[str, bool],
    prefix: str = "",
) -> Iterator[Mistake]:
    for need in sorted(_needs_of(part)):
        if need not in NEEDS:
            raise spec.entry.plugin_error(f"needs '{need}', which is not a known need ({', '.join(NEEDS)})")
        if not capabilities[need] and not (need in _COLLAPSES and "collapse" in recipe.allow):
            study = ", or set allow: [collapse] to study the collapse" if need in _COLLAPSES else ""
            partners = [prefix + key for key in _MET_BY.get(need, ())]
            yield recipe.mistake(path, f"{spec.name} {NEEDS[need]}{study}.", *partners)


def _needs_of(part: Part) -> set[str]:
    """The needs that a part and the parts within it declare."""
    inside = part.modules() if isinstance(part, nn.Module) else [part]
    return {need for each in inside if isinstance(each, Part) for need in each.needs}
