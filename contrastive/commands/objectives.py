"""What ``contrastive check`` reports of objectives: parts, widths, tokens, passes, and what they cost.

Shape letters: N patches of a view's grid, n rows of an image in a view.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from contrastive.build import Composition, sampled_marks, trial_views
from contrastive.evaluation import frozen
from contrastive.recipe import ObjectiveSpec, Recipe
from contrastive.text import abbreviate, quantity
from contrastive.training import Method, Objective
from contrastive.views import View

#: Least and greatest number over the epochs.
Range = tuple[int, int]


@dataclass(frozen=True)
class Patches:
    """The patches of a view: their grid and width, how many are hidden, and how many are targets."""

    grid: tuple[int, int]
    width: int
    hidden: Range = (0, 0)
    targets: Range = (0, 0)

    @property
    def count(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]

    def rows(self, objective: Objective) -> Range:
        """n of an objective, at least and at most."""
        if objective.rows == "masked":
            return self.hidden
        if objective.rows == "targets":
            return self.targets
        most = min(objective.match.keep or self.count, self.count)
        return (most, most)


def parts_of(aim: ObjectiveSpec) -> dict[str, str]:
    """The names of an objective's parts."""
    return {
        "head": aim.head.name,
        "predictor": "none" if aim.predictor is None else aim.predictor.name,
        "target": aim.target.name,
        "negatives": ", ".join(spec.name for spec in aim.negatives),
        "loss": ", ".join(spec.name for _, spec in aim.losses),
    }


class ObjectivesReport:
    """What is to be said of the objectives of a recipe, whether it names them or is one itself.

    Args:
        recipe: of the objectives.
        parts: what it was built into.
        channels: of the images.
    """

    def __init__(self, recipe: Recipe, parts: Composition, channels: int):
        self.recipe, self.parts, self.method = recipe, parts, parts.method
        self.views = dict(
            enumerate(trial_views(parts.pipelines, parts.view_sizes, channels, self.method.grids))
        )
        self.patches = self._patches()

    def report(self) -> dict[str, Any]:
        """``objectives`` and ``passes``; empty for a recipe without ``objectives``."""
        if not self.recipe.objectives:
            return {}
        passes = passes_of(self.method, self.views, self.patches)
        objectives = {
            aim.name: self._objective(aim, objective, passes)
            for aim, objective in zip(self.recipe.aims, self.method.objectives, strict=True)
        }
        return {"objectives": objectives, "passes": passes}

    def warnings(self) -> list[str]:
        """Sentences on what costs much, and on features that nothing has trained."""
        quadratic = (
            self._quadratic_work(objective) for objective in self.method.objectives if objective.offers
        )
        return [each for each in (*quadratic, self._unread_class_token()) if each is not None]

    def numbers_compared(self) -> int:
        """The numbers in the queries and keys of an image, at most, of all objectives."""
        return sum(sum(self._numbers(objective)) for objective in self.method.objectives)

    def numbers_held(self) -> int:
        """The numbers of an image that comparisons hold until the step: keys as they are, too, if compared as
        directions."""
        numbers = [(self._numbers(objective), objective.normalised) for objective in self.method.objectives]
        return sum(queries + keys * (1 + normalised) for (queries, keys), normalised in numbers)

    def _numbers(self, objective: Objective) -> tuple[int, int]:
        """The numbers in the queries of an image, at most, and in its keys."""
        (_, queries), keys = self._rows(objective)
        widths = _widths(objective)
        return queries * widths["queries"], keys * widths["keys"]

    def _objective(
        self, aim: ObjectiveSpec, objective: Objective, passes: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """What one objective compares, with which parts, and which passes it uses."""
        is_patch = objective.level == "patch"
        rows, keys = self._rows(objective)
        input_width = self.method.backbone.features
        if is_patch:
            input_width = self.patches[objective.online_views[0]].width
        own = [each for each in passes if aim.name in each["objectives"]]
        return {
            "level": objective.level,
            **parts_of(aim),
            "shared": ", ".join(sorted(aim.common)) or "none",
            "pairs": ", ".join(f"{o} with {t}" for o, t in objective.pairs),
            "hide": objective.hide or "none",
            **({"rows": objective.rows} if is_patch else {}),
            "weight": objective.weight,
            "widths": {"input": input_width, **_widths(objective)},
            "queries_per_image": [*rows],
            "keys_per_image": keys,
            "passes": {
                encoder: sum(each["encoder"] == encoder for each in own) for encoder in ("online", "target")
            },
        }

    def _rows(self, objective: Objective) -> tuple[Range, int]:
        """The queries of an image, at least and at most, and its keys, over all views."""
        if objective.level == "image":
            return (len(objective.online_views),) * 2, len(objective.target_views)
        rows = [self.patches[view].rows(objective) for view in objective.online_views]
        keys = sum(self.patches[view].count for view in objective.target_views)
        return (sum(least for least, _ in rows), sum(most for _, most in rows)), keys

    def _patches(self) -> dict[int, Patches]:
        """The patches of every view that an objective of patches sees, or of which it hides some."""
        numbers = sorted(
            {
                number
                for aim, objective in zip(self.recipe.aims, self.method.objectives, strict=True)
                if aim.keys.reads_tokens
                for number in (*objective.online_views, *objective.target_views)
            }
        )
        patches: dict[int, Patches] = {}
        for number in numbers:
            with frozen(self.method):
                tokens = self.method.backbone.tokens(View(self.views[number].data[:1]))
            patches[number] = self._with_counts(number, Patches(tokens.grid, tokens.patches.shape[2]))
        return patches

    def _with_counts(self, number: int, patches: Patches) -> Patches:
        """A view's patches, counted in some epochs of the run: all images of an epoch have equally many."""
        if number not in self.method.grids:
            return patches
        train, size = self.recipe.train, self.parts.view_sizes[number]
        marks = sampled_marks(
            self.parts.pipelines[number], number, patches.grid, size, train.seed, train.epochs
        )
        hidden = [0 if each.hidden is None else each.hidden.shape[1] for each in marks]
        targets = [0 if each.targets is None else each.targets[0].numel() for each in marks]
        return replace(patches, hidden=(min(hidden), max(hidden)), targets=(min(targets), max(targets)))

    def _quadratic_work(self, objective: Objective) -> str | None:
        """What it costs to contrast patches with those of the whole batch."""
        if objective.level == "image":
            return None
        rows, keys = self._rows(objective)
        batch = self.recipe.train.batch_size
        queries, candidates = batch * rows[1], batch * keys
        return (
            f"{objective.name}: each of the {queries:,} patches of a batch is contrasted with "
            f"{candidates:,}, so {queries * candidates:,} similarities are computed; this work grows with "
            "the square of train.batch_size and of the patches, unlike memory. A smaller batch costs less."
        )

    def _unread_class_token(self) -> str | None:
        """What protocols read in vain: a class token, if only patches are compared."""
        if any(each.level == "image" and not each.head.pools for each in self.method.objectives):
            return None
        readers = [
            entry.name
            for entry in self.parts.protocols
            if entry.protocol.feature in ("h", "class") and not entry.protocol.tunes
        ]
        if not readers or not has_class_token_as_h(self.method, self.views[min(self.views)]):
            return None
        return (
            f"h is the class token, which no objective compares, so it may mean little; set feature: patches "
            f"for {' and '.join(readers)} (docs/evaluation.md)."
        )


def has_class_token_as_h(method: Method, view: View) -> bool:
    """Whether h is a token before the patches, or the mean of the first of them."""
    with frozen(method):
        tokens = method.backbone.tokens(View(view.data[:1]))
    means = [tokens.prefix[:, :count].mean(1) for count in range(1, tokens.prefix.shape[1] + 1)]
    return any(mean.shape == tokens.h.shape and torch.allclose(mean, tokens.h) for mean in means)


def passes_of(
    method: Method, views: Mapping[int, View], patches: Mapping[int, Patches]
) -> list[dict[str, Any]]:
    """The forward passes of a step: which encoder sees which views, how it hides, and who uses it."""
    passes: list[dict[str, Any]] = []

    def add(encoder: str, numbers: Sequence[int], users: Sequence[Objective], hide: str | None) -> None:
        first = patches.get(numbers[0])
        passes.append(
            {
                "encoder": encoder,
                "views": [*numbers],
                "size": [*views[numbers[0]].data.shape[2:]],
                "hide": hide or "none",
                **({} if first is None else {"grid": [*first.grid]}),
                **({"hidden": [*first.hidden]} if first is not None and hide else {}),
                "objectives": [objective.name for objective in users],
            }
        )

    for together in method.passes(views):
        users = [
            objective
            for objective in method.objectives
            if any(
                number in objective.online_views and objective.hides(views[number]) == hide
                for number, hide in together
            )
        ]
        add("online", [number for number, _ in together], users, together[0][1])
    for target in method.targets:
        demands = [(objective, objective.views_of(target)) for objective in method.objectives]
        if target.encodes:
            for number in sorted({number for _, numbers in demands for number in numbers}):
                add("target", [number], [each for each, numbers in demands if number in numbers], None)
        for objective in method.objectives:
            if objective.target is target and objective.shares_online:
                for number in sorted(set(objective.target_views) - set(objective.online_views)):
                    add("online", [number], [objective], None)
    return passes


def _widths(objective: Objective) -> dict[str, int]:
    """The widths of what an objective computes: z, the queries and the keys."""
    z = objective.head.out_features
    keys = objective.target.width(objective.level)
    return {
        "z": z,
        "queries": z if objective.predictor is None else objective.predictor.out_features,
        "keys": z if keys is None else keys,
    }


def objective_rows(objectives: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """A heading and a text of several lines per objective."""
    for name, own in objectives.items():
        yield f"objective {name}", "\n".join(_lines(own))


def _lines(own: Mapping[str, Any]) -> Iterator[str]:
    widths, common = own["widths"], own["shared"].split(", ")
    whose = {key: "top level" if key in common else "own" for key in ("head", "target")}
    yield f"level: {own['level']}; weight: {own['weight']:g}"
    yield f"head: {own['head']} ({whose['head']}), {widths['input']} -> {widths['z']}"
    if own["predictor"] != "none":
        yield f"predictor: {own['predictor']}, {widths['z']} -> {widths['queries']}"
    yield f"target: {own['target']} ({whose['target']}), keys of {widths['keys']}"
    yield f"negatives: {own['negatives']}; loss: {own['loss']}"
    rows = f"; rows: {own['rows']}" if "rows" in own else ""
    yield f"pairs: {own['pairs']}; hide: {own['hide']}{rows}"
    yield f"per image: {_span(own['queries_per_image'], 'query', 'queries')}, " + quantity(
        own["keys_per_image"], "key"
    )
    yield f"passes: {own['passes']['online']} online, {own['passes']['target']} of the target"


def pass_text(own: Mapping[str, Any]) -> str:
    """A forward pass in one line."""
    numbers = [str(number) for number in own["views"]]
    which = f"view {numbers[0]}" if len(numbers) == 1 else f"views {abbreviate(numbers)}"
    size = " x ".join(map(str, own["size"]))
    how = "whole"
    if "hidden" in own:
        verb = "left out" if own["hide"] == "drop" else "replaced"
        how = f"{_span(own['hidden'])} of {own['grid'][0] * own['grid'][1]} patches {verb}"
    elif "grid" in own:
        how = f"whole, {own['grid'][0]} x {own['grid'][1]} patches"
    return f"{own['encoder']}: {which}, {size}, {how} ({', '.join(own['objectives'])})"


def _span(span: Sequence[int], noun: str | None = None, plural: str | None = None) -> str:
    least, most = span
    numbers = f"{most:,}" if least == most else f"{least:,} to {most:,}"
    if noun is None:
        return numbers
    return f"{numbers} {noun if (least, most) == (1, 1) else plural or f'{noun}s'}"
