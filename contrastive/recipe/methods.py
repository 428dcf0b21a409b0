"""The methods that ship: what each is, its paper, formula, use, traps and numbers, from one small file each.

``descriptions/NAME.yaml`` describes the method whose recipe is ``recipes/NAME.yaml``. What a recipe shows by
itself (parts, views, costs) is not written there, and its sentence is the recipe's first line.
``descriptions/index.json`` holds what follows from recipes and docs/results.md; ``scripts/method_pages.py``
writes it. Pages and commands print from here.
"""

from __future__ import annotations

import difflib
import json
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, Field, TypeAdapter

from contrastive.errors import UsageError
from contrastive.recipe.signature import STRICT
from contrastive.recipe.sources import shipped_recipes

Family = Literal[
    "contrastive", "neighbours", "distillation", "decorrelation", "clustering", "masked", "patches",
    "mixtures", "teachers",
]  # fmt: skip

#: Family -> what its methods have in common, in the order of lists and pages.
FAMILIES: dict[Family, str] = {
    "contrastive": "a query must find its key among other images, which push away",
    "neighbours": "similar images take the place of the key, or weigh it",
    "distillation": "a copy without gradient gives the key; nothing pushes away",
    "decorrelation": "a term on the statistics of the batch prevents collapse",
    "clustering": "two views must get the same scores by prototypes",
    "masked": "visible patches predict the hidden ones",
    "patches": "patches of one view are compared with those of another",
    "mixtures": "several aims in one recipe",
    "teachers": "a fixed or earlier network gives the keys",
}
assert tuple(FAMILIES) == get_args(Family)

Text = Annotated[str, Field(min_length=1)]


class Paper(BaseModel):
    """Where a method comes from."""

    model_config = STRICT

    authors: Text = Field(description="As cited: Chen et al.")
    year: int
    title: Text
    arxiv: Annotated[str, Field(pattern=r"^\d{4}\.\d{4,5}$")] | None = None

    @property
    def citation(self) -> str:
        """``Chen et al. 2020``."""
        return f"{self.authors} {self.year}"

    @property
    def address(self) -> str | None:
        """Of its page on arXiv."""
        return None if self.arxiv is None else f"https://arxiv.org/abs/{self.arxiv}"


class PublishedResult(BaseModel):
    """A number that the authors, or another named source, published."""

    model_config = STRICT

    data: Text
    network: Text
    epochs: int | None = None
    metric: Text
    value: float
    source: Text


class MeasuredResult(BaseModel):
    """A line of docs/results.md: accuracies in percent, a mean over seeds or of one run."""

    model_config = STRICT

    recipe: Text
    section: Text = Field(description="The heading of docs/results.md under which it stands.")
    seeds: int
    knn: str | None = None
    linear: str | None = None


class MethodFacts(BaseModel):
    """What ``descriptions/index.json`` holds of a method.

    Attributes:
        plugins: the packages that its recipe needs, besides the framework.
        results: what docs/results.md has of its recipes.
    """

    model_config = STRICT

    plugins: list[str] = []
    results: list[MeasuredResult] = []


class MethodEntry(BaseModel):
    """What ``descriptions/NAME.yaml`` says of a method.

    Attributes:
        paper: None for a composition of our own.
        formula: plain text, in the notation of ``symbols``.
        use: when to take it.
        traps: what goes wrong, and how it is recognised or avoided.
        numbers: published ones, whose source was checked.
    """

    model_config = STRICT

    title: Text
    family: Family
    paper: Paper | None = None
    formula: Text
    symbols: Text
    use: Text
    traps: list[Text] = []
    numbers: list[PublishedResult] = []


def descriptions_folder() -> Path:
    """The descriptions of methods, which are files of this package."""
    return Path(__file__).parent / "descriptions"


@cache
def method_entries() -> dict[str, MethodEntry]:
    """Name -> description of every method, by family, whether or not its recipe is there."""
    entries = {
        path.stem: MethodEntry.model_validate(yaml.safe_load(path.read_text("utf-8")))
        for path in sorted(descriptions_folder().glob("*.yaml"))
    }
    families = list(FAMILIES)
    return dict(sorted(entries.items(), key=lambda item: (families.index(item[1].family), item[0])))


def shipped_methods() -> dict[str, MethodEntry]:
    """Name -> description of the methods whose recipe ships, by family."""
    recipes = shipped_recipes()
    return {name: entry for name, entry in method_entries().items() if name in recipes}


def find_method(name: str) -> MethodEntry:
    """The description of a method. Raises UsageError, with the nearest names, if there is none."""
    methods = shipped_methods()
    if name not in methods:
        near = [f"'{each}'" for each in difflib.get_close_matches(name, methods, n=3, cutoff=0.6)]
        hint = f"Did you mean {' or '.join(near)}?" if near else "`contrastive list methods` lists them."
        raise UsageError(f"there is no method '{name}'. {hint}")
    return methods[name]


def method_sentence(name: str) -> str:
    """What a method does, in one sentence: the first line of its recipe, without title and citation."""
    sentence = shipped_recipes()[name].partition(": ")[2]
    first, _, rest = sentence.partition(" ")
    return f"{first.capitalize() if first.islower() else first} {rest}"  # iBOT stays iBOT


def recipes_of(name: str) -> list[str]:
    """The shipped recipes of a method, its own first: ``simclr``, ``cifar10/simclr-cpu``."""
    return [recipe for recipe in shipped_recipes() if method_of(recipe) == name]


def method_of(recipe: str) -> str | None:
    """The method of a shipped recipe, by its file's name; None if it is of none (``photos``, a study)."""
    folder, _, stem = recipe.rpartition("/")
    if folder == "studies":
        return None
    return stem.partition("-")[0] if stem.partition("-")[0] in method_entries() else None


@cache
def _index() -> dict[str, MethodFacts]:
    content: Any = json.loads((descriptions_folder() / "index.json").read_text("utf-8"))
    return TypeAdapter(dict[str, MethodFacts]).validate_python(content)


def method_facts(name: str) -> MethodFacts:
    """The plugins that a method needs, and its results."""
    return _index().get(name, MethodFacts())
