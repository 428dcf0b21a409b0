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
from contrastive.evaluation import TimedProtocol, frozen, periodic_obstacle
from contrastive.kinds import MONITORS
from contrastive.parts import NEEDS, Backbone, Callback, Head, Part
from contrastive.recipe import PartSpec, Recipe
from contrastive.text import quantity
from contrastive.training import Method, tracker_problem

Size = tuple[int, int]  # (h, w) in pixels

#: Needs without which the embedding collapses, which a study may want to see.
_COLLAPSES = ("negatives", "predictor", "detached_keys")

#: The keys of a recipe that decide whether a need is met.
_MET_BY = {
    "negatives": ("negatives.name",),
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
    if recipe.positives == "label" and not len(data.division.fit_rows):
        problem = "all its labels are of the held-out tenth" if data.labelled else "this data set has none"
        hint = f" ({data.label_hint})" if data.label_hint else ""
        yield recipe.mistake("positives", f"label needs labels, but {problem}{hint}; use image.", "dataset")


def _fewer_images(recipe: Recipe, images: int, processes: int) -> str:
    """How a step can do with ``images`` images."""
    accumulate = recipe.train.accumulate
    largest = images // accumulate // processes * processes
    remedies = [f"lower it to {largest} or less"] if largest >= 2 else []
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
    side = max(map(max, fixed_sizes), default=0)
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


def view_indices(recipe: Recipe, views: int) -> Iterator[Mistake]:
    """``online`` and ``target`` of ``views`` name views that the augmentation produces, each once."""
    for side in ("online", "target"):
        indices = getattr(recipe.views, side)
        if indices == "all":
            continue
        for view in sorted({view for view in indices if view >= views}):
            last = f"views 0 to {views - 1}" if views > 1 else "only view 0"
            yield recipe.mistake(
                f"views.{side}",
                f"there is no view {view}; the augmentation produces {last}.",
                "augmentation",
            )
        if len(set(indices)) < len(indices):
            yield recipe.mistake(f"views.{side}", f"names a view twice; use {sorted(set(indices))}.")


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


def predictor_width(recipe: Recipe, head: Head, predictor: Head | None) -> Iterator[Mistake]:
    """The predictor's vectors are as wide as the keys."""
    if predictor is not None and predictor.out_features != head.out_features:
        yield recipe.mistake(
            "predictor",
            f"outputs vectors of {predictor.out_features}, but the keys have {head.out_features}; "
            "give both the same width.",
            "head",
        )


def composition(
    recipe: Recipe, method: Method, capabilities: Mapping[str, bool], callbacks: Sequence[Callback | None]
) -> Iterator[Mistake]:
    """The parts fit together, and the needs that each declares are met.

    Args:
        recipe: the recipe that names the parts.
        method: the composition of its parts.
        capabilities: see :func:`capabilities_of`.
        callbacks: the callbacks in the recipe's order; None for one that rejects its parameters.
    """
    yield from _pairs(recipe, method)
    yield from _negatives(recipe, method)
    yield from _normalisation(recipe, method)
    for path, spec, part in _parts(recipe, method, callbacks):
        yield from _needs(recipe, path, spec, part, capabilities)


def capabilities_of(
    recipe: Recipe, method: Method, data: Data | None, protocols: Sequence[TimedProtocol]
) -> dict[str, bool]:
    """Whether a composition meets each need of :data:`contrastive.parts.NEEDS`."""
    periodic_protocols = [entry.protocol for entry in protocols if entry.at == "every"]
    if data is not None:
        periodic_protocols = [
            protocol for protocol in periodic_protocols if periodic_obstacle(protocol, data.division) is None
        ]
    return {
        "negatives": bool(method.offers) or any(source.memory() is not None for source in method.sources),
        "labels": recipe.positives == "label",
        "predictor": recipe.predictor is not None,
        "detached_keys": method.target.detached,
        "single_positive": recipe.positives == "image"
        and all(sum(o == view for o, _ in method.pairs) <= 1 for view in method.online_views),
        "validation": recipe.evaluate.every > 0 and bool(periodic_protocols),
        "processes": True,  # checked where training starts: other commands load any run in one process
    }


def callback_metrics(
    recipe: Recipe, callbacks: Sequence[Callback | None], protocols: Sequence[TimedProtocol]
) -> Iterator[Mistake]:
    """Callbacks read only metrics that evaluations during training report."""
    prefixes = [f"{entry.name}_" for entry in protocols if entry.at == "every"]
    for (path, spec), callback in zip(recipe.parts_at("callbacks"), callbacks, strict=True):
        for metric in callback.reads if callback is not None else ():
            if metric not in MONITORS and not metric.startswith(tuple(prefixes)):
                available = ", ".join([*(f"{prefix}*" for prefix in prefixes), *MONITORS])
                yield recipe.mistake(
                    path,
                    f"{spec.name} reads '{metric}', which evaluations during training do not report; they "
                    f"report {available}. Name one of these, or set at: every for its protocol.",
                    "evaluate",
                )


def _pairs(recipe: Recipe, method: Method) -> Iterator[Mistake]:
    if not method.pairs:
        yield recipe.mistake(
            "views",
            "no online view is paired with another target view, so nothing is compared; set for example "
            "online: [0] and target: [1], with an augmentation that produces two views.",
            "views.online",
            "views.target",
            "augmentation",
        )
    in_pairs = {online for online, _ in method.pairs}
    alone = [view for view in method.online_views if view not in in_pairs]
    if in_pairs and alone:
        yield recipe.mistake(
            "views.online",
            f"view {alone[0]} has no other target view to be compared with, so encoding it is useless; "
            f"set it to {sorted(in_pairs)}.",
            "views.target",
            "augmentation",
        )


def _negatives(recipe: Recipe, method: Method) -> Iterator[Mistake]:
    alone = [
        spec.name
        for spec, source in zip(recipe.negatives, method.sources, strict=True)
        if source.stands_alone
    ]
    if alone and len(recipe.negatives) > 1:
        yield recipe.mistake(
            "negatives", f"{alone[0]} cannot be combined with other negatives; remove it or the others."
        )


def _normalisation(recipe: Recipe, method: Method) -> Iterator[Mistake]:
    if len({loss.normalised for loss in method.loss_parts}) > 1:
        kinds = {
            spec.name: "directions" if loss.normalised else "raw vectors"
            for spec, loss in zip(recipe.loss_parts, method.loss_parts, strict=True)
        }
        listing = ", ".join(f"{name} compares {what}" for name, what in kinds.items())
        yield recipe.mistake("loss", f"all losses must compare the same kind of vectors: {listing}.")


def _parts(
    recipe: Recipe, method: Method, callbacks: Sequence[Callback | None]
) -> Iterator[tuple[str, PartSpec, Part]]:
    """The parts whose needs are checked: their paths in the recipe, their specs, and the parts."""
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
            raise spec.entry.plugin_error(f"needs '{need}', which is not a known need ({', '.join(NEEDS)})")
        if not capabilities[need] and not (need in _COLLAPSES and "collapse" in recipe.allow):
            study = ", or set allow: [collapse] to study the collapse" if need in _COLLAPSES else ""
            yield recipe.mistake(path, f"{spec.name} {NEEDS[need]}{study}.", *_MET_BY.get(need, ()))


def _needs_of(part: Part) -> set[str]:
    """The needs that a part and the parts within it declare."""
    inside = part.modules() if isinstance(part, nn.Module) else [part]
    return {need for each in inside if isinstance(each, Part) for need in each.needs}
