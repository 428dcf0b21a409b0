"""What is compared: recipes, grid files and finished runs as candidates, all checked before any trains."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from contrastive.backbones import is_weights_file
from contrastive.build import DataSets, build
from contrastive.commands.compare.records import Records, RunRecord, read_record, require_keys
from contrastive.commands.compare.stock import StockEntry, overrides_like, untrained_keys
from contrastive.errors import Mistakes, UsageError
from contrastive.recipe import (
    NOT_TRAINING,
    Cell,
    changed_keys,
    flatten,
    load_cells,
    load_tree,
    resolve,
    set_tree,
    shipped_recipes,
)
from contrastive.registry import Registry
from contrastive.runs import Run, RunIdentity, default_folder, is_stock_name, with_recorded_paths


@dataclass(frozen=True)
class Candidate:
    """A recipe with its seeds, trained or not.

    Attributes:
        name: of the recipe, unique in the comparison.
        recipe: in full, as plain values, without the seed.
        data: fingerprint of the data set.
        folders: seed -> folder of its run, which may not exist yet.
        labels: its value on each axis of a grid.
        identities: seed -> what its finished run must be; None for runs named on the command line.
        records: seed -> record of its run, for runs named on the command line.
        stock: an encoder from elsewhere, which has one fixed value in place of seeds.
    """

    name: str
    recipe: dict[str, Any]
    data: str
    folders: Mapping[int, Path]
    labels: Mapping[str, str] = field(default_factory=dict)
    identities: Mapping[int, RunIdentity] | None = None
    records: Mapping[int, RunRecord] = field(default_factory=dict)
    stock: StockEntry | None = None

    def is_finished(self, seed: int) -> bool:
        """Whether the run of a seed is trained and evaluated as the recipe says; reads its summary.json."""
        if self.stock is not None:
            return self.stock.is_finished
        return self.identities is None or self.identities[seed].is_finished_in(self.folders[seed])


def plan(
    targets: Sequence[str], seeds: int, registry: Registry, sets: Sequence[str] | Mapping[str, Any] = ()
) -> list[Candidate]:
    """The candidates for the targets of a command line, in their order.

    Args:
        targets: recipe files, names of shipped recipes, grid files, folders of finished runs, and encoders
            from elsewhere, which are evaluated on the data set of the first of the others as that one is.
        seeds: number of seeds per recipe: its own ``train.seed`` and the next ones. Runs keep theirs.
        registry: resolves the names of parts in recipes.
        sets: ``--set`` overrides of every recipe.

    Raises:
        RecipeError: every mistake of every recipe at once.
        UsageError: a run that is not finished, two recipes with one name, data or protocols that differ.
    """
    folders = [Path(target) for target in targets if (Path(target) / "recipe.yaml").is_file()]
    stock = [target for target in targets if _is_stock(target)]
    if sets and folders and len(folders) + len(stock) == len(targets):
        raise UsageError("--set and --minutes change recipes, but only finished runs are named; drop them.")
    runs = {group.folders[min(group.folders)]: group for group in _group_runs(folders)}
    first_of = {folder: first for first, group in runs.items() for folder in group.folders.values()}
    groups: list[list[Candidate]] = []  # of each target
    with Mistakes() as mistakes:
        recipes = _Recipes(seeds, registry, mistakes)
        for target in targets:
            if Path(target) in folders:
                own = runs.pop(first_of[Path(target)], None)
                groups.append([own] if own else [])
            else:
                groups.append([] if target in stock else recipes.candidates(target, sets))
    if stock:
        others = [candidate for group in groups for candidate in group]
        overrides = _overrides_of(others[0], registry) if others else set_tree(sets)
        for group, target in zip(groups, targets, strict=True):
            if target in stock:
                group.append(_stock_candidate(target, overrides, registry, recipes.open_data_sets))
    candidates = _with_unique_names([candidate for group in groups for candidate in group])
    require_comparable(candidates)
    return candidates


def _is_stock(target: str) -> bool:
    """Whether a target names an encoder from elsewhere.

    Raises UsageError if it names a recipe, too.
    """
    path = Path(target)
    if path.is_dir():
        return not (path / "recipe.yaml").is_file()
    if path.is_file():
        return is_weights_file(path)
    is_stock = is_stock_name(target)
    if is_stock and target in shipped_recipes():
        raise UsageError(
            f"{target} is a shipped recipe and a timm model; write {target}.yaml for the recipe, and the "
            "model with its tag."
        )
    return is_stock


def _overrides_of(candidate: Candidate, registry: Registry) -> dict[str, Any]:
    """What gives an encoder the data set and the evaluation of a candidate."""
    if candidate.identities is not None:
        return overrides_like(candidate.recipe)
    folder = candidate.folders[min(candidate.folders)]
    run = Run(folder)
    recipe = run.recipe(with_recorded_paths(folder, run.recipe((), registry), ()), registry)
    return overrides_like(recipe.dump())


def _stock_candidate(
    target: str, overrides: Mapping[str, Any], registry: Registry, data_sets: DataSets
) -> Candidate:
    entry = StockEntry.of(target, overrides, registry, data_sets)
    return Candidate(
        entry.recipe.name, untrained_keys(entry.recipe), entry.data, {0: entry.folder}, stock=entry
    )


def gather(candidates: Iterable[Candidate]) -> Records:
    """The record of every run of the candidates, which must have finished; reads each folder once.

    Raises:
        UsageError: a run that has not finished, or a file of it that is missing, damaged or incomplete.
    """
    return {
        candidate.name: {
            seed: candidate.stock.record()
            if candidate.stock is not None
            else candidate.records.get(seed) or read_record(folder)
            for seed, folder in candidate.folders.items()
        }
        for candidate in candidates
    }


class _Recipes:
    """Resolves and builds recipes, and collects their mistakes in ``mistakes``."""

    def __init__(self, seeds: int, registry: Registry, mistakes: Mistakes):
        self.seeds, self.registry, self.mistakes = seeds, registry, mistakes
        self.open_data_sets: DataSets = []

    def candidates(self, target: str, sets: Sequence[str] | Mapping[str, Any]) -> list[Candidate]:
        candidates: list[Candidate] = []
        with self.mistakes.of_one():
            for cell in load_cells(target, sets):
                with self.mistakes.of_one():
                    candidates.append(self._candidate(cell))
        return candidates

    def _candidate(self, cell: Cell) -> Candidate:
        recipe = resolve(cell.tree, self.registry)
        data, composition = build(recipe, open_data_sets=self.open_data_sets)
        folders, identities = {}, {}
        for seed in range(recipe.train.seed, recipe.train.seed + self.seeds):
            with_seed = replace(recipe, train=recipe.train.model_copy(update={"seed": seed}))
            identities[seed] = RunIdentity.of(with_seed, data, composition)
            folders[seed] = default_folder(with_seed, identities[seed].fingerprint)
        plain = _without_seed(recipe.dump())
        return Candidate(recipe.name, plain, data.fingerprint, folders, cell.labels, identities)


def _group_runs(folders: Iterable[Path]) -> list[Candidate]:
    """Finished runs as candidates; runs that differ only in the seed are one candidate."""
    groups: dict[str, Candidate] = {}
    for folder in folders:
        record = read_record(folder)
        recipe = load_tree(folder / "recipe.yaml").root.plain()
        keys = ("name", "train.seed", "dataset.name", "evaluate")
        require_keys(folder / "recipe.yaml", {**recipe, **flatten(recipe)}, keys)
        seed, plain, data = recipe["train"]["seed"], _without_seed(recipe), record.environment["data"]
        identity = json.dumps([_identity(plain), data, record.weights])
        group = groups.get(identity) or Candidate(recipe["name"], plain, data, {})
        if seed in group.folders and group.folders[seed] != folder:
            raise UsageError(
                f"{group.folders[seed]} and {folder} have the same recipe and seed; name only one."
            )
        groups[identity] = replace(
            group, folders={**group.folders, seed: folder}, records={**group.records, seed: record}
        )
    return list(groups.values())


def _without_seed(recipe: dict[str, Any]) -> dict[str, Any]:
    return {**recipe, "train": {k: v for k, v in recipe["train"].items() if k != "seed"}}


def _identity(recipe: dict[str, Any]) -> dict[str, Any]:
    """What two runs of one candidate share: all but the keys that change neither weights nor metrics."""
    return {**recipe, "train": {k: v for k, v in recipe["train"].items() if k not in NOT_TRAINING}}


def _with_unique_names(candidates: list[Candidate]) -> list[Candidate]:
    """The candidates; runs that share a name get that of their folders. Two recipes may not share a name."""
    recipes = Counter(candidate.name for candidate in candidates if candidate.identities is not None)
    for name, count in recipes.items():
        if count > 1:
            raise UsageError(
                f"two recipes are called '{name}'; give each its own `name:`, which also names its runs."
            )
    for name_of in (lambda folder: folder.name, str):
        counts = Counter(candidate.name for candidate in candidates)
        candidates = [
            replace(candidate, name=name_of(candidate.folders[min(candidate.folders)]))
            if counts[candidate.name] > 1 and candidate.identities is None and candidate.stock is None
            else candidate
            for candidate in candidates
        ]
    return candidates


def require_comparable(candidates: Sequence[Candidate]) -> None:
    """Refuse to rank candidates with different data or different evaluation.

    Raises:
        UsageError: names each difference and the two candidates.
    """
    first, *others = candidates
    mistakes = []
    for other in others:
        if other.data != first.data:
            mistakes.append(
                f"the data: {first.name} has {_dataset(first)}, {other.name} has {_dataset(other)}"
            )
        mistakes += differences(
            "evaluate", (first.name, _protocols(first.recipe)), (other.name, _protocols(other.recipe))
        )
    raise_if_any(mistakes)


def require_same_evaluation(records: Records) -> None:
    """Refuse to rank finished runs whose metrics come from other splits, protocols or protocol versions. Runs
    without metrics are not ranked.

    Raises:
        UsageError: names each difference and the two folders.
    """
    scored_records = [
        record for group in records.values() for record in group.values() if record.summary["trained"]
    ]
    mistakes = []
    for other in scored_records[1:]:
        first = scored_records[0]
        for key in ("split", "protocols"):
            mistakes += differences(
                key,
                (str(first.folder), _comparable(first.summary.get(key))),
                (str(other.folder), _comparable(other.summary.get(key))),
            )
    raise_if_any(mistakes)


#: What a run records of a protocol besides what decides its metrics.
_BESIDES = ("metric_units", "remark", "per_class")


def _comparable(entry: Any) -> Any:
    """The split, or the protocols without what does not decide their metrics."""
    if not isinstance(entry, Mapping):
        return entry
    return {
        key: {name: value for name, value in protocol.items() if name not in _BESIDES}
        for key, protocol in entry.items()
    }


def raise_if_any(mistakes: Sequence[str]) -> None:
    """Raise one UsageError with everything that keeps runs from being ranked."""
    if mistakes:
        raise UsageError(
            "these runs cannot be ranked because they differ in\n  " + "\n  ".join(dict.fromkeys(mistakes))
        )


def differences(key: str, one: tuple[str, Any], two: tuple[str, Any]) -> list[str]:
    """``evaluate.knn.k: 200 in a, 5 in b``: a line for each value in which two trees differ."""
    (name, before), (other, after) = one, two
    old, new = flatten(before, key), flatten(after, key)
    return [
        f"{path}: {old.get(path, 'nothing')} in {name}, {new.get(path, 'nothing')} in {other}"
        for path in changed_keys(old, new)
    ]


def _protocols(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The protocols of the final metrics, without when they run during training, which changes none."""
    return {
        name: {key: value for key, value in (parameters or {}).items() if key != "at"}
        for name, parameters in recipe["evaluate"].items()
        if name != "every"
    }


def _dataset(candidate: Candidate) -> str:
    return f"{candidate.recipe['dataset']['name']} with fingerprint {candidate.data[:8]}"
