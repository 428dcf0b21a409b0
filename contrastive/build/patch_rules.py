"""Rules of objectives that compare patches, or that hide some.

Like those of :mod:`contrastive.build.rules`, they yield mistakes and change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from contrastive.build.reach import leaks
from contrastive.errors import Mistake
from contrastive.parts import Target
from contrastive.recipe import ObjectiveSpec, Recipe
from contrastive.text import quantity
from contrastive.training import Method, Objective
from contrastive.views import Marks, View

Size = tuple[int, int]  # (h, w) in patches


def idle_keys(recipe: Recipe, aim: ObjectiveSpec, grid: Size | None) -> Iterator[Mistake]:
    """No key is set that changes nothing.

    Args:
        grid: of the views of an objective of patches.
    """
    keys = aim.keys
    if keys.level == "image":
        if keys.rows in ("masked", "targets"):
            yield recipe.mistake(
                f"{aim.prefix}rows",
                "this objective compares whole images; remove rows, or set level: patch.",
                f"{aim.prefix}level",
            )
        if keys.match != type(keys.match)():
            yield recipe.mistake(
                f"{aim.prefix}match",
                "this objective compares whole images; remove match, or set level: patch.",
                f"{aim.prefix}level",
            )
        return
    if keys.match.of == "tokens" and keys.match.by != "features":
        yield recipe.mistake(
            f"{aim.prefix}match.of",
            f"a match by {keys.match.by} compares no features; remove it, or set by: features.",
            f"{aim.prefix}match.by",
        )
    if keys.match.keep is not None and grid is not None and keys.match.keep > grid[0] * grid[1]:
        yield recipe.mistake(
            f"{aim.prefix}match.keep",
            f"a view has only {grid[0] * grid[1]:,} patches; lower it, or remove it to keep all.",
        )


def matching(recipe: Recipe, aim: ObjectiveSpec, target: Target) -> Iterator[Mistake]:
    """Patches are matched by features only with keys of the same space."""
    if aim.keys.level == "patch" and aim.keys.match.by == "features" and target.fixed:
        yield recipe.mistake(
            f"{aim.prefix}match",
            f"the encoder does not learn to give the keys of target {aim.target.name}, so the most similar "
            "key means nothing; match by position or location.",
            aim.path("target"),
        )


def one_grid(recipe: Recipe, aim: ObjectiveSpec, grids: Mapping[int, Size]) -> Iterator[Mistake]:
    """All views of an objective at level patch have one grid of patches."""
    if len(set(grids.values())) > 1:
        listing = ", ".join(f"view {view} has {rows} x {columns}" for view, (rows, columns) in grids.items())
        yield recipe.mistake(
            aim.views_path,
            f"patches of different grids do not correspond: {listing}; write an objective for each grid.",
            "augmentation",
        )


def masks(recipe: Recipe, method: Method, views: Sequence[View]) -> Iterator[Mistake]:
    """The views of each objective have the marks that it reads."""
    for aim, objective in zip(recipe.aims, method.objectives, strict=True):
        marks = {number: views[number].marks for number in objective.online_views}
        if objective.hide is not None and all(own.mask is None for own in marks.values()):
            yield recipe.mistake(
                f"{aim.prefix}hide",
                "no online view has a mask, so nothing is hidden; add an operation that masks, such as "
                "mask_patches, to the augmentation of one.",
                "augmentation",
            )
        for number, own in marks.items() if _selects_rows(objective) else ():
            places = objective.marked_rows(own)
            if places is None or not places.numel():
                missing = "masked patches" if objective.rows == "masked" else "targets"
                yield recipe.mistake(
                    f"{aim.prefix}rows",
                    f"view {number} has no {missing}; give its augmentation an operation that draws them, "
                    "or set rows: all.",
                    "augmentation",
                )
        yield from _boxes(recipe, aim, objective, views)
        yield from _filling(recipe, aim, objective)


def row_counts(recipe: Recipe, method: Method, marks: Mapping[int, Sequence[Marks]]) -> Iterator[Mistake]:
    """The views of an objective have equally many masked patches, or targets, in every epoch.

    Args:
        marks: those of some epochs, by view.
    """
    for aim, objective in zip(recipe.aims, method.objectives, strict=True):
        if not _selects_rows(objective):
            continue
        noun = "masked patch" if objective.rows == "masked" else "target patch"
        for epoch in zip(*(marks.get(number, ()) for number in objective.online_views), strict=True):
            rows = map(objective.marked_rows, epoch)
            counts = {
                number: 0 if own is None else own[0].numel()
                for number, own in zip(objective.online_views, rows, strict=True)
            }
            fewest, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
            if counts[fewest] < counts[most]:
                yield recipe.mistake(
                    f"{aim.prefix}rows",
                    f"view {fewest} has {quantity(counts[fewest], noun, f'{noun}es')} where view {most} has "
                    f"{counts[most]:,}; give all its views the same masking operation, or each an objective.",
                    "augmentation",
                )
                break


def _selects_rows(objective: Objective) -> bool:
    """Whether its queries are those patches of a view that marks name."""
    return objective.level == "patch" and objective.rows != "all"


def _boxes(
    recipe: Recipe, aim: ObjectiveSpec, objective: Objective, views: Sequence[View]
) -> Iterator[Mistake]:
    if objective.level != "patch" or objective.match.by != "location":
        return
    for number in sorted({*objective.online_views, *objective.target_views}):
        if views[number].marks.box is None:
            yield recipe.mistake(
                f"{aim.prefix}match",
                f"it is not known where view {number} lies in its image, because an operation moves pixels; "
                "remove that operation, or match by features.",
                "augmentation",
            )


def _filling(recipe: Recipe, aim: ObjectiveSpec, objective: Objective) -> Iterator[Mistake]:
    """What sees only visible patches cannot give the others, unless its predictor fills them in."""
    if objective.level != "patch":
        return
    fills = objective.predictor is not None and objective.predictor.fills
    if fills and not objective.head.is_identity:
        yield recipe.mistake(
            f"{aim.prefix}predictor",
            f"{aim.predictor.name if aim.predictor else ''} reads the tokens of the backbone, which the head "
            "would change; set head: none.",
            aim.path("head"),
        )
    if objective.hide == "drop" and not fills:
        yield recipe.mistake(
            f"{aim.prefix}hide",
            "with drop the encoder gives no vectors for hidden patches; set a predictor that fills them in, "
            "such as decoder (a class of yours needs fills = True), or hide: replace.",
            f"{aim.prefix}predictor",
        )


def hiding(recipe: Recipe, method: Method, views: Sequence[View]) -> Iterator[Mistake]:
    """The backbone can hide in the way of each objective, and no hidden pixel reaches what it gives."""
    for aim, objective in zip(recipe.aims, method.objectives, strict=True):
        if objective.hide is None:
            continue
        path = f"{aim.prefix}hide"
        if objective.hide not in method.backbone.hides:
            ways = " or ".join(sorted(method.backbone.hides)) or "none"
            yield recipe.mistake(
                path,
                f"this backbone cannot hide patches by {objective.hide} (supported: {ways}); use a vision "
                "transformer such as timm's vit_small_patch16_224.",
                "backbone",
            )
            continue
        view = next((views[v] for v in objective.online_views if views[v].marks.mask is not None), None)
        if view is not None and leaks(method.backbone, view, objective.hide):
            yield recipe.mistake(
                path,
                "pixels of hidden patches reach the encoder's output, so it would see what it is to predict; "
                "use a backbone whose patches do not overlap.",
                "backbone",
            )
