"""What a recipe compares with what, and what that costs, without building a network or reading data.

``contrastive show method``, the pages of docs/methods and their diagrams are made from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from contrastive.augmentations import Pipeline
from contrastive.build import Builder, sampled_marks
from contrastive.errors import ContrastiveError
from contrastive.parts import Negatives, Target, TargetWrapper
from contrastive.recipe import ObjectiveSpec, PartSpec, Recipe
from contrastive.text import quantity

#: Patches on a side of a view, if the network of a recipe does not tell.
GRID = 7
#: A forward and a backward pass, in forward passes.
WITH_GRADIENT = 3
#: Who makes the keys: the encoder in training, a copy that follows it, a network that does not, or none.
Maker = Literal["encoder", "copy", "frozen", "pixels"]
_MAKERS: dict[Maker, str] = {
    "encoder": "encoder",
    "copy": "copy of the encoder",
    "frozen": "frozen network",
    "pixels": "no network",
}
#: What a source of negatives offers: other images of the batch, keys of earlier batches, candidates that each
#: query has for itself; or it leaves candidates out, as a guide finds.
Offer = Literal["batch", "memory", "own", "guide"]


@dataclass(frozen=True)
class ViewOutline:
    """One view: its number, (h, w) in pixels, and which patches of its grid its pipeline hides or marks.

    Attributes:
        visible: share of the patches that are not hidden, the mean over epochs.
    """

    number: int
    size: tuple[int, int]
    grid: tuple[int, int]
    pipeline: Pipeline = field(repr=False)
    visible: float = 1.0

    @property
    def is_masked(self) -> bool:
        """Whether some of its patches can be hidden."""
        return self.visible < 1


@dataclass(frozen=True)
class KeyMaker:
    """Who makes the keys of an objective.

    Attributes:
        names: of the parts, the outer first: ``split_bn``, ``ema``.
        detached: whether keys carry no gradient.
        has_head: whether keys pass the objective's head, or a copy of it.
        substitutes: the wrappers that put something else in the place of the keys.
        common: whether one serves all objectives that name none of their own.
    """

    names: tuple[str, ...]
    maker: Maker
    detached: bool
    has_head: bool
    substitutes: tuple[str, ...]
    common: bool

    @property
    def label(self) -> str:
        """``split_bn of ema``."""
        return " of ".join(self.names)

    @property
    def network_label(self) -> str:
        """The same without what only changes its keys."""
        return " of ".join(name for name in self.names if name not in self.substitutes)


@dataclass(frozen=True)
class Source:
    """A source of negatives: its part, what it offers, and how many keys it holds, if it says so."""

    name: str
    offers: tuple[Offer, ...]
    size: int | None = None

    def text(self, level: str) -> str:
        """In words."""
        things = "images" if level == "image" else "patches"
        words = {
            "batch": f"other {things} of the batch",
            "memory": f"{quantity(self.size, 'key') if self.size else 'keys'} of earlier batches",
            "own": "candidates of its own for every query",
            "guide": "a frozen guide leaves out those closer than the key",
        }
        return ", ".join(words[offer] for offer in self.offers) or "candidates"


@dataclass(frozen=True)
class ObjectiveOutline:
    """One objective: its views and parts by name."""

    spec: ObjectiveSpec
    online: tuple[int, ...]
    target: tuple[int, ...]
    head: str | None
    predictor: str | None
    keys: KeyMaker
    sources: tuple[Source, ...]
    losses: tuple[str, ...]
    hides: tuple[int, ...]

    @property
    def is_symmetric(self) -> bool:
        """Whether two views are each compared with the other."""
        return self.pairs == "other" and self.online == self.target and len(self.online) == 2

    @property
    def encoder_views(self) -> set[int]:
        """The views that the encoder in training sees."""
        return {*self.online, *(self.target if self.keys.maker == "encoder" else ())}

    @property
    def pairs(self) -> str:
        return self.spec.views.pairs

    @property
    def level(self) -> str:
        return self.spec.keys.level

    @property
    def aspects(self) -> list[str]:
        """What is compared with what, in a few words each."""
        keys = self.spec.keys
        what = "patches" if keys.level == "patch" else "images"
        if keys.level == "patch" and keys.chosen_rows != "all":
            what = {"masked": "hidden patches", "targets": "target patches"}[keys.chosen_rows]
        pairs = "each view with itself" if self.pairs == "same" else "each view with the others"
        if self.pairs == "other" and (self.is_symmetric or len(self.online) == len(self.target) == 1):
            pairs = "one view with the other" + (", and the reverse" if self.is_symmetric else "")
        notes = [what, pairs]
        if keys.level == "patch" and keys.match.by != "position":
            of = " of the backbone" if (keys.match.by, keys.match.of) == ("features", "tokens") else ""
            notes.append(f"matched by {keys.match.by}{of}")
        if keys.positives == "label":
            notes.append("images of the same label are positives too")
        return notes


class Outline:
    """A recipe's views, objectives and costs.

    Args:
        recipe: whose parts are all installed; weights that it names may be missing.

    Raises:
        RecipeError: its augmentation cannot be built.
    """

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.views = _views(recipe)
        self.objectives = [_objective(aim, self.views) for aim in recipe.aims]

    @property
    def plugins(self) -> list[str]:
        """The packages of its parts besides the framework."""
        providers = {part.entry.provider for part in self.recipe.parts()}
        return sorted(providers - {self.recipe.dataset.entry.provider})

    # -- costs ----------------------------------------------------------------------------------------

    @cached_property
    def online_passes(self) -> list[tuple[int, bool]]:
        """(view, whether hidden patches are left out) of every pass with gradient."""
        passes = {
            (number, objective.spec.keys.hide if number in objective.hides else "none")
            for objective in self.objectives
            for number in objective.encoder_views
        }
        return sorted((number, hide == "drop") for number, hide in passes)

    @cached_property
    def target_passes(self) -> list[int]:
        """The views that other networks see, once per network."""
        networks: dict[str, set[int]] = {}
        for objective in self.objectives:
            if objective.keys.maker in ("copy", "frozen"):
                network = "" if objective.keys.common else objective.spec.name
                networks.setdefault(network, set()).update(objective.target)
            if any("guide" in source.offers for source in objective.sources):
                networks.setdefault(f"{objective.spec.name} guide", set()).update(
                    objective.online, objective.target
                )
        return [number for numbers in networks.values() for number in sorted(numbers)]

    @cached_property
    def work(self) -> float:
        """Encoder passes per image and step, in forward passes of a whole view of the largest size."""
        largest = max(height * width for height, width in (view.size for view in self.views))
        area = [view.size[0] * view.size[1] / largest for view in self.views]
        online = sum(
            area[number] * (self.views[number].visible if drops else 1)
            for number, drops in self.online_passes
        )
        return WITH_GRADIENT * online + sum(area[number] for number in self.target_passes)

    def costs(self) -> list[str]:
        """What a step costs, in sentences."""
        online, target = len(self.online_passes), len(self.target_passes)
        small = " Smaller views and patches left out count by their share." if self.work % 1 else ""
        without = f", {target} without" if target else ""
        passes = (
            f"Per image {quantity(online, 'pass', 'passes')} of the encoder with gradient{without}: the work "
            f"of {self.work:.2g} forward passes, if one with gradient counts {WITH_GRADIENT} (SimCLR: 6)."
            f"{small}"
        )
        return [passes, *self._networks(), *self._memories()]

    def _networks(self) -> Iterator[str]:
        makers = {objective.keys.label: objective.keys.maker for objective in self.objectives}
        for label, maker in makers.items():
            if maker == "copy":
                yield f"Memory for a copy of encoder and head that is not trained ({label})."
            if maker == "frozen":
                yield f"Memory for a frozen network ({label})."
        if any("guide" in source.offers for each in self.objectives for source in each.sources):
            yield "Memory for a frozen network, the guide."

    def _memories(self) -> Iterator[str]:
        for objective in self.objectives:
            name = f" of {objective.spec.name}" if objective.spec.name else ""
            for source in objective.sources:
                if source.size:
                    yield (
                        f"Memory for {quantity(source.size, 'key')} of earlier batches{name} ({source.name})."
                    )

    # -- words ----------------------------------------------------------------------------------------

    def composition(self) -> list[dict[str, str]]:
        """What every objective compares, in words: heading -> text."""
        return [dict(self._rows(objective)) for objective in self.objectives]

    def _rows(self, objective: ObjectiveOutline) -> Iterator[tuple[str, str]]:
        keys, spec = objective.keys, objective.spec
        if spec.name:
            yield "objective", spec.name
        if spec.keys.weight != 1:
            yield "weight", f"{spec.keys.weight:g}"
        yield "compares", ", ".join(objective.aspects)
        chain = [
            self.views_text(objective.online, objective.hides, spec.keys.hide),
            "encoder",
            *([f"head {objective.head}"] if objective.head else []),
            *([f"predictor {objective.predictor}"] if objective.predictor else []),
        ]
        yield "queries", " -> ".join(chain)
        chain = [
            self.views_text(objective.target, (), "none"),
            f"{_MAKERS[keys.maker]} ({keys.label})",
            *([f"head {objective.head}"] if objective.head and keys.has_head else []),
            *keys.substitutes,
            *(["stop-gradient"] if keys.detached and keys.maker != "pixels" else []),
        ]
        yield "keys", " -> ".join(chain)
        if objective.sources:
            texts = [f"{source.text(objective.level)} ({source.name})" for source in objective.sources]
            yield "negatives", "; ".join(texts)
        yield "loss", " + ".join(objective.losses)

    def views_text(self, numbers: Sequence[int], hides: Sequence[int], hide: str) -> str:
        """``views 0, 1 (28 px) and 2 to 5 (12 px)``; of hidden patches how many are left out."""
        groups: list[list[int]] = []
        for number in numbers:
            last = groups[-1][-1] if groups else None
            same = last is not None and self._look(last, hides) == self._look(number, hides)
            groups[-1].append(number) if same else groups.append([number])
        word = "view" if len(numbers) == 1 else "views"
        return f"{word} " + " and ".join(self._group_text(group, hides, hide) for group in groups)

    def _look(self, number: int, hides: Sequence[int]) -> tuple[Any, ...]:
        return self.views[number].size, number in hides

    def _group_text(self, group: Sequence[int], hides: Sequence[int], hide: str) -> str:
        view = self.views[group[0]]
        size = f"{view.size[0]} px" if view.size[0] == view.size[1] else f"{view.size[0]} x {view.size[1]} px"
        if group[0] in hides:
            how = "left out" if hide == "drop" else "replaced"
            size += f", {100 * (1 - view.visible):.0f} % of the patches {how}"
        return f"{numbers_text(group)} ({size})"


def numbers_text(numbers: Sequence[int]) -> str:
    """``0, 1`` or ``2 to 5``."""
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


def _views(recipe: Recipe) -> list[ViewOutline]:
    builder = Builder(recipe)
    pipelines = builder.pipelines()
    builder.raise_if_any()
    views = []
    for number, pipeline in enumerate(pipelines):
        size = pipeline.output_size(None) or (0, 0)
        grid = _grid(recipe, size)
        marks = sampled_marks(pipeline, number, grid, size, recipe.train.seed, recipe.train.epochs)
        shares = [1.0 if each.mask is None else 1 - float(each.mask.double().mean()) for each in marks]
        views.append(ViewOutline(number, size, grid, pipeline, sum(shares) / len(shares)))
    return views


def _grid(recipe: Recipe, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches, if the options of the backbone set their size."""
    options = recipe.backbone.params.get("options") or {}
    patch = options.get("patch_size")
    return (size[0] // patch, size[1] // patch) if isinstance(patch, int) else (GRID, GRID)


def _objective(aim: ObjectiveSpec, views: Sequence[ViewOutline]) -> ObjectiveOutline:
    every = tuple(view.number for view in views)
    online, target = (
        every if numbers == "all" else tuple(numbers) for numbers in (aim.views.online, aim.views.target)
    )
    hides = () if aim.keys.hide == "none" else tuple(n for n in online if views[n].is_masked)
    sources = [_source(spec) for spec in aim.negatives]
    return ObjectiveOutline(
        aim,
        online,
        target,
        None if aim.head.is_identity else aim.head.name,
        aim.predictor.name if aim.predictor else None,
        _key_maker(aim),
        tuple(source for source in sources if source.offers),
        tuple(_loss_text(weight, spec) for weight, spec in aim.losses),
        hides,
    )


def _loss_text(weight: float, spec: PartSpec) -> str:
    return spec.name if weight == 1 else f"{weight:g} {spec.name}"


def _key_maker(aim: ObjectiveSpec) -> KeyMaker:
    chain = [aim.target]
    while isinstance(inner := chain[-1].params.get("of"), PartSpec):
        chain.append(inner)
    target: Any = _built_or_class(aim.target)
    maker: Maker = "encoder"
    if target.encodes:
        maker = "frozen" if target.fixed else "copy"
    elif target.fixed:
        maker = "pixels"
    wrappers = [spec for spec in chain if _overrides(spec, TargetWrapper, "substitute")]
    return KeyMaker(
        tuple(spec.name for spec in chain),
        maker,
        target.detached,
        not target.fixed,
        tuple(spec.name for spec in wrappers if issubclass(_class(spec), TargetWrapper)),
        "target" in aim.common,
    )


def _source(spec: PartSpec) -> Source:
    methods: dict[Offer, str] = {"memory": "memory", "own": "own_candidates", "guide": "guide"}
    part = _built_or_class(spec)
    offers: list[Offer] = ["batch"] if isinstance(part, Negatives) and _offers_batch(part) else []
    offers += [offer for offer, method in methods.items() if _overrides(spec, Negatives, method)]
    memory = part.memory() if isinstance(part, Negatives) else None
    return Source(spec.name, tuple(offers), None if memory is None else len(memory.z))


def _offers_batch(part: Negatives) -> bool:
    return part.offers(0, 1)


def _built_or_class(spec: PartSpec) -> Any:
    """The part, built for an embedding of some width; its class if it needs what is not there, as weights."""
    try:
        return spec.build(in_features=8, in_channels=1, image_size=28, patch_size=4)
    except ContrastiveError:
        inner = spec.params.get("of")
        return _built_or_class(inner) if isinstance(inner, PartSpec) else _class(spec)


def _class(spec: PartSpec) -> Any:
    return spec.entry.load()


def _overrides(spec: PartSpec, base: type, method: str) -> bool:
    return getattr(_class(spec), method, None) is not getattr(base, method) and (
        base is not TargetWrapper or _class(spec).substitute is not Target.substitute
    )
