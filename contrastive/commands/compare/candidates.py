"""What is compared: recipes, grid files and finished runs as candidates, all checked before any trains."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from contrastive.build.builder import build
from contrastive.build.composition import Opened
from contrastive.errors import Mistakes, UsageError
from contrastive.files import read_map
from contrastive.recipe import NOT_TRAINING, Cell, load_cells, load_tree, resolve
from contrastive.recipe.differences import changed, flatten
from contrastive.registry import Registry
from contrastive.runs.resume import RunIdentity, default_folder


@dataclass(frozen=True)
class Candidate:
    """One side of a comparison: a recipe with its seeds, trained or not.

    Attributes:
        name: the recipe's, unique in the comparison.
        recipe: it in full, in plain values, without the seed.
        data: fingerprint of the data set.
        folders: seed -> where its run lives, or will.
        labels: its value on each axis of a grid.
        asked: seed -> what a finished run must be; None where finished runs were named.
    """

    name: str
    recipe: dict[str, Any]
    data: str
    folders: Mapping[int, Path]
    labels: Mapping[str, str] = field(default_factory=dict)
    asked: Mapping[int, RunIdentity] | None = None

    def finished(self, seed: int) -> bool:
        """Whether the run of a seed has ended, trained and evaluated as the recipe asks."""
        return self.asked is None or self.asked[seed].is_finished_in(self.folders[seed])


def plan(
    targets: Sequence[str], seeds: int, registry: Registry, sets: Sequence[str] | Mapping[str, Any] = ()
) -> list[Candidate]:
    """The candidates that the words of a command line stand for, in its order.

    Args:
        targets: recipe files, names of shipped recipes, grid files and folders of finished runs.
        seeds: how many each recipe gets: its own ``train.seed`` and those after it. Run folders have theirs.
        registry: what recipes are resolved with.
        sets: ``--set`` overrides of every recipe.

    Raises:
        RecipeError: every mistake of every recipe at once.
        UsageError: a run that is not finished, two candidates of one name, data or protocols that differ.
    """
    folders = [Path(target) for target in targets if (Path(target) / "recipe.yaml").is_file()]
    if sets and len(folders) == len(targets):
        raise UsageError("--set changes recipes, and only finished runs are named; leave it out.")
    runs = {group.folders[min(group.folders)]: group for group in _runs(folders)}
    first_of = {folder: first for first, group in runs.items() for folder in group.folders.values()}
    candidates: list[Candidate] = []
    with Mistakes() as mistakes:
        built = _Recipes(seeds, registry, mistakes)
        for target in targets:
            if Path(target) in folders:
                group = runs.pop(first_of[Path(target)], None)
                candidates += [group] if group else []
            else:
                candidates += built.candidates(target, sets)
    candidates = _apart(candidates)
    require_comparable(candidates)
    return candidates


class _Recipes:
    """Resolves and builds recipes, whose mistakes it keeps in ``mistakes``."""

    def __init__(self, seeds: int, registry: Registry, mistakes: Mistakes):
        self.seeds, self.registry, self.mistakes = seeds, registry, mistakes
        self.opened: Opened = []

    def candidates(self, target: str, sets: Sequence[str] | Mapping[str, Any]) -> list[Candidate]:
        candidates: list[Candidate] = []
        with self.mistakes.of_one():
            for cell in load_cells(target, sets):
                with self.mistakes.of_one():
                    candidates.append(self._candidate(cell))
        return candidates

    def _candidate(self, cell: Cell) -> Candidate:
        recipe = resolve(cell.tree, self.registry)
        data, composition = build(recipe, opened=self.opened)
        folders, asked = {}, {}
        for seed in range(recipe.train.seed, recipe.train.seed + self.seeds):
            seeded = replace(recipe, train=recipe.train.model_copy(update={"seed": seed}))
            asked[seed] = RunIdentity.of(seeded, data, composition)
            folders[seed] = default_folder(seeded, asked[seed].fingerprint)
        return Candidate(recipe.name, _seedless(recipe.dump()), data.fingerprint, folders, cell.labels, asked)


def _runs(folders: Iterable[Path]) -> list[Candidate]:
    """Finished runs, those that differ in nothing but their seed as one candidate."""
    groups: dict[str, Candidate] = {}
    for folder in folders:
        recipe, data = _finished(folder)
        seed, seedless = recipe["train"]["seed"], _seedless(recipe)
        identity = json.dumps([_identity(seedless), data])
        group = groups.get(identity) or Candidate(recipe["name"], seedless, data, {})
        if seed in group.folders and group.folders[seed] != folder:
            raise UsageError(
                f"{group.folders[seed]} and {folder} are one recipe and one seed; name one of them."
            )
        groups[identity] = replace(group, folders={**group.folders, seed: folder})
    return list(groups.values())


def _finished(folder: Path) -> tuple[dict[str, Any], str]:
    """Recipe and data of a run. Raises UsageError where it has not ended, or its files are not a run's."""
    summary, environment = (read_map(folder / f"{name}.json") for name in ("summary", "environment"))
    if summary and not environment:
        raise UsageError(f"{folder}/environment.json is missing; put it back, or leave this run out.")
    if not summary or summary.get("fingerprint") != environment.get("fingerprint"):  # or is being lengthened
        raise UsageError(
            f"{folder} has not finished; `contrastive run {folder}/recipe.yaml --out {folder}` goes on."
        )
    recipe = load_tree(folder / "recipe.yaml").root.plain()
    for name, held, keys in (
        ("summary.json", summary, ("trained", "evaluate", "images", "split", "protocols")),
        ("environment.json", environment, ("data",)),
        ("recipe.yaml", {**recipe, **flatten(recipe)}, ("name", "train.seed", "dataset.name", "evaluate")),
    ):
        if missing := [key for key in keys if key not in held]:
            raise UsageError(
                f"{folder}/{name} is not what a run writes: it has no '{missing[0]}'; leave this run out."
            )
    return recipe, environment["data"]


def _seedless(recipe: dict[str, Any]) -> dict[str, Any]:
    return {**recipe, "train": {k: v for k, v in recipe["train"].items() if k != "seed"}}


def _identity(recipe: dict[str, Any]) -> dict[str, Any]:
    """What makes two runs one candidate: all but what changes neither weights nor figures."""
    return {**recipe, "train": {k: v for k, v in recipe["train"].items() if k not in NOT_TRAINING}}


def _apart(candidates: list[Candidate]) -> list[Candidate]:
    """Candidates with names of their own: runs are told apart by folder, recipes must have two names."""
    recipes = Counter(candidate.name for candidate in candidates if candidate.asked is not None)
    for name, count in recipes.items():
        if count > 1:
            raise UsageError(
                f"two recipes are called '{name}'; give each a `name:` of its own, which names its runs too."
            )
    for name_of in (lambda folder: folder.name, str):
        taken = Counter(candidate.name for candidate in candidates)
        candidates = [
            replace(candidate, name=name_of(candidate.folders[min(candidate.folders)]))
            if taken[candidate.name] > 1 and candidate.asked is None
            else candidate
            for candidate in candidates
        ]
    return candidates


def require_comparable(candidates: Sequence[Candidate]) -> None:
    """Refuse to rank what was trained or judged on different data, or judged in different ways.

    Raises:
        UsageError: says what differs, and between which.
    """
    first, *others = candidates
    told = []
    for other in others:
        if other.data != first.data:
            told.append(f"the data: {first.name} has {_dataset(first)}, {other.name} has {_dataset(other)}")
        told += unequal(
            "evaluate", (first.name, _protocols(first.recipe)), (other.name, _protocols(other.recipe))
        )
    refuse_if(told)


def require_same_judgement(summaries: Mapping[str, Mapping[str, Any]]) -> None:
    """The same of finished runs, folder -> summary: where their figures come from, in versions too.

    Raises:
        UsageError: says what differs, and between which.
    """
    (first, base), *others = summaries.items()
    told = []
    for name, summary in others:
        for key in ("split", "protocols"):
            told += unequal(key, (first, base.get(key)), (name, summary.get(key)))
    refuse_if(told)


def refuse_if(told: Sequence[str]) -> None:
    """One error of everything that keeps runs from being ranked."""
    if told:
        raise UsageError(
            "these runs cannot be ranked, for they differ in\n  " + "\n  ".join(dict.fromkeys(told))
        )


def unequal(key: str, one: tuple[str, Any], two: tuple[str, Any]) -> list[str]:
    """``evaluate.knn.k: 200 in a, 5 in b``, a line for each value in which two trees differ."""
    (name, before), (other, after) = one, two
    old, new = flatten(before, key), flatten(after, key)
    return [
        f"{path}: {old.get(path, 'nothing')} in {name}, {new.get(path, 'nothing')} in {other}"
        for path in changed(old, new)
    ]


def _protocols(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The protocols of the final figures: when they run during training changes none of these."""
    return {
        name: {key: value for key, value in (parameters or {}).items() if key != "at"}
        for name, parameters in recipe["evaluate"].items()
        if name != "every"
    }


def _dataset(candidate: Candidate) -> str:
    return f"{candidate.recipe['dataset']['name']} of fingerprint {candidate.data[:8]}"
