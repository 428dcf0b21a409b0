"""The accuracies of docs/results.md by method: its tables of runs, and those of comparisons."""

from __future__ import annotations

import re
from collections.abc import Iterator

from contrastive.recipe import MeasuredResult, method_of, shipped_folder, shipped_recipes

#: A table of runs has a column of each kind that begins so; one of a comparison has these titles.
_KNN, _LINEAR = ("kNN: trained", "knn top1"), ("linear: trained", "linear top1")
_SECTION = re.compile(r"^##+ (.+)$", re.MULTILINE)
_ROWS = re.compile(r"(?:^\|.*\|\n)+", re.MULTILINE)
_SEEDS = re.compile(r"\b(\d+) seeds?\b")

Row = dict[str, str]


def measured_results(page: str) -> dict[str, list[MeasuredResult]]:
    """Method -> its accuracies. Of several rows of a recipe in a section the mean counts, else the first."""
    results: dict[str, list[MeasuredResult]] = {}
    for heading, text in _sections(page):
        for recipe, row, seeds in _recipes(heading, text):
            method = method_of(recipe)
            if method is not None:
                knn, linear = _cell(row, _KNN), _cell(row, _LINEAR)
                result = MeasuredResult(recipe=recipe, section=heading, seeds=seeds, knn=knn, linear=linear)
                results.setdefault(method, []).append(result)
    return results


def _sections(page: str) -> Iterator[tuple[str, str]]:
    headings = list(_SECTION.finditer(page))
    ends = [*(match.start() for match in headings[1:]), len(page)]
    for match, end in zip(headings, ends, strict=True):
        yield match[1], page[match.end() : end]


def _recipes(heading: str, text: str) -> Iterator[tuple[str, Row, int]]:
    """(recipe, the row that counts, seeds) of every shipped recipe in the tables of a section."""
    rows: dict[str, list[Row]] = {}
    caption = _SEEDS.search(text)
    for table in _ROWS.findall(text):
        for row in _table(table):
            recipe = _recipe_path(row.get("recipe", heading))
            if recipe is not None and (_cell(row, _KNN) or _cell(row, _LINEAR)):
                rows.setdefault(recipe, []).append(row)
    for recipe, own in rows.items():
        mean = next((row for row in own if row.get("seed", "").startswith("mean")), None)
        seeds = len({row["seed"] for row in own if row.get("seed", "").isdecimal()})
        of_comparison = "knn top1" in own[0] or "linear top1" in own[0]
        yield recipe, mean or own[0], int(caption[1]) if of_comparison and caption else seeds if mean else 1


def _table(text: str) -> list[Row]:
    """The rows of a table, by column; a repeated title is the first column's."""
    titles, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines())
    return [dict(reversed([*zip(titles, cells, strict=True)])) for cells in lines]


def _cell(row: Row, titles: tuple[str, ...]) -> str | None:
    text = next((row[title] for title in titles if title in row), "")
    return text.replace(" %", "") or None


def _recipe_path(text: str) -> str | None:
    """The shipped recipe that the first code of a text names, by its path or by its ``name``."""
    match = re.search(r"`([^`]+)`", text)
    name = match[1].removeprefix("recipes/").removesuffix(".yaml") if match else ""
    return name if name in shipped_recipes() else _paths_by_name().get(name)


def _paths_by_name() -> dict[str, str]:
    texts = {recipe: (shipped_folder() / f"{recipe}.yaml").read_text("utf-8") for recipe in shipped_recipes()}
    names = {recipe: re.search(r"^name: (\S+)", text, re.MULTILINE) for recipe, text in texts.items()}
    return {match[1]: recipe for recipe, match in names.items() if match}
