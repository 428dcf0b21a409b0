"""Builds the objectives of a recipe: parts of their own and common ones, each once, in a fixed order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from contrastive.build import patch_rules, rules
from contrastive.evaluation import frozen
from contrastive.heads import NoHead
from contrastive.parts import Backbone, Head, StepPart, Target
from contrastive.recipe import ObjectiveSpec, PartSpec, Recipe
from contrastive.training import Match, Method, Objective
from contrastive.views import View

Size = tuple[int, int]  # (h, w) in pixels


class TokenShape(NamedTuple):
    """The tokens of a view: rows and columns of its grid, their width, and the side of a patch in pixels."""

    grid: tuple[int, int]
    width: int
    patch: int


class PartBuilder(Protocol):
    """What builds parts and collects mistakes: :class:`contrastive.build.builder.Builder`."""

    recipe: Recipe

    def build_part(self, path: str, spec: PartSpec, **offers: Any) -> Any: ...
    def attempt(self, path: str, make: Any, *partners: str) -> Any: ...
    def check(self, *mistakes: Any) -> bool: ...


class ObjectiveBuilder:
    """Builds the objectives of a recipe around a backbone.

    Args:
        builder: of the recipe.
        backbone: None if it could not be built; the mistakes of other parts are collected nevertheless.
        channels, image_size: of the images.
        sizes: (h, w) of every view.
    """

    def __init__(
        self,
        builder: PartBuilder,
        backbone: Backbone | None,
        channels: int,
        image_size: int,
        sizes: Sequence[Size],
    ):
        self.builder, self.recipe = builder, builder.recipe
        self.backbone, self.channels, self.image_size, self.sizes = backbone, channels, image_size, sizes
        self.common: dict[str, StepPart] = {}
        self.shapes: dict[int, TokenShape] = {}

    def method(self) -> Method | None:
        """The method, or None if any of its parts rejects its parameters."""
        objectives = [self._objective(aim) for aim in self.recipe.aims]
        if self.backbone is None or any(objective is None for objective in objectives):
            return None
        complete = [objective for objective in objectives if objective is not None]
        joint = all(aim.views.batch_norm == "joint" for aim in self.recipe.aims)
        backbone = self.backbone
        method: Method | None = self.builder.attempt(
            "target", lambda: Method.of(backbone, complete, self.common, joint)
        )
        if method is not None:
            method.grids = self._marked_grids()
        return method

    def _objective(self, aim: ObjectiveSpec) -> Objective | None:
        views = {side: self._views(aim, side) for side in ("online", "target")}
        valid = self.builder.check(rules.view_indices(self.recipe, aim, len(self.sizes)))
        shape = self._token_shape(aim, views) if valid else None
        grid = None if shape is None else shape.grid
        valid = self.builder.check(patch_rules.idle_keys(self.recipe, aim, grid)) and valid
        width = self._input_width(aim, shape)
        head = self._single("head", aim, in_features=width) if width is not None else None
        d = 1 if head is None else head.out_features
        pixels = {
            "in_channels": self.channels,
            "image_size": self.image_size,
            "patch_size": 1 if shape is None else shape.patch,
        }
        target = self._single("target", aim, in_features=d, **pixels)
        keys = self._key_width(aim, target) or d
        predictor: Head | None = None
        if head is not None and aim.predictor is not None:
            predictor = self.builder.build_part(
                aim.prefix + "predictor", aim.predictor, in_features=d, out_features=keys
            )
        negatives = [
            self.builder.build_part(path, spec, in_features=keys, **pixels)
            for path, spec in aim.parts_at("negatives")
        ]
        losses = [
            self.builder.build_part(path, spec, in_features=keys) for path, spec in aim.parts_at("loss")
        ]
        single = [head, target, *([] if aim.predictor is None else [predictor])]
        if not valid or any(part is None for part in (*single, *negatives, *losses)):
            return None
        assert head is not None
        if not self.builder.check(
            rules.key_width(self.recipe, aim, head, predictor, keys),
            patch_rules.matching(self.recipe, aim, target),
        ):
            return None
        match = aim.keys.match
        by_tokens = aim.keys.level == "patch" and (match.by, match.of) == ("features", "tokens")
        return Objective(
            head,
            predictor,
            target,
            negatives,
            [(weight, loss) for (weight, _), loss in zip(aim.losses, losses, strict=True)],
            views["online"],
            views["target"],
            name=aim.name,
            level=aim.keys.level,
            same=aim.views.pairs == "same",
            hide=None if aim.keys.hide == "none" else aim.keys.hide,
            rows=aim.keys.chosen_rows,
            match=Match(match.by, match.of, match.keep),
            by_label=aim.keys.positives == "label",
            weight=aim.keys.weight,
            token_head=NoHead(shape.width) if by_tokens and shape is not None else None,
        )

    def _single(self, key: str, aim: ObjectiveSpec, **offers: Any) -> Any:
        """The head or target of an objective: its own, or the common one, which is built once."""
        spec: PartSpec = getattr(aim, key)
        path = aim.path(key)
        if key not in aim.common:
            return self.builder.build_part(path, spec, **offers)
        if key not in self.common:
            part = self.builder.build_part(path, spec, **offers)
            if part is not None:
                self.common[key] = part
        return self.common.get(key)

    def _key_width(self, aim: ObjectiveSpec, target: Target | None) -> int | None:
        """Width of the keys if the target decides it, not the head."""
        if target is None:
            return None
        return self.builder.attempt(aim.path("target"), lambda: target.width(aim.keys.level))

    def _views(self, aim: ObjectiveSpec, side: str) -> tuple[int, ...]:
        indices = getattr(aim.views, side)
        return tuple(range(len(self.sizes))) if indices == "all" else tuple(indices)

    # -- tokens ---------------------------------------------------------------------------------------

    def _input_width(self, aim: ObjectiveSpec, shape: TokenShape | None) -> int | None:
        """The width of what the head reads; None without a backbone, or without its tokens."""
        if aim.keys.level == "patch" or aim.head.pools:
            return None if shape is None else shape.width
        return None if self.backbone is None else self.backbone.features

    def _token_shape(self, aim: ObjectiveSpec, views: Mapping[str, Sequence[int]]) -> TokenShape | None:
        """The tokens of an objective's views, which at level patch have one grid; None if it reads none."""
        if self.backbone is None or not aim.reads_tokens:
            return None
        backbone = self.backbone
        numbers = sorted({*views["online"], *views["target"]})
        for number in numbers:
            if number not in self.shapes:
                shape = self.builder.attempt(
                    "backbone", lambda size=self.sizes[number]: token_shape(backbone, self.channels, size)
                )
                if shape is None:
                    return None
                self.shapes[number] = shape
        if aim.keys.level == "patch":
            grids = {number: self.shapes[number].grid for number in numbers}
            if not self.builder.check(patch_rules.one_grid(self.recipe, aim, grids)):
                return None
        return self.shapes[numbers[0]]

    def _marked_grids(self) -> dict[int, tuple[int, int]]:
        """The grids of the views whose marks an objective reads."""
        numbers = {
            number
            for aim in self.recipe.aims
            if aim.keys.reads_marks
            for side in ("online", "target")
            for number in self._views(aim, side)
        }
        return {number: self.shapes[number].grid for number in sorted(numbers) if number in self.shapes}


def token_shape(backbone: Backbone, channels: int, size: Size) -> TokenShape:
    """The tokens of a black view of (h, w) pixels. Raises UsageError if the backbone gives none."""
    with frozen(backbone):
        tokens = backbone.tokens(View(torch.zeros(1, channels, *size)))
    return TokenShape(tokens.grid, tokens.patches.shape[2], size[0] // tokens.grid[0])
