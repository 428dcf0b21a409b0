"""Grid files: one file that stands for several recipes.

``grid`` maps dotted paths to lists of values, and stands for every combination of them. ``variants`` maps
names to the keys that each changes. The rest of the file is the recipe that they start from.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from contrastive.errors import Mistake, RecipeError
from contrastive.recipe.messages import describe, join
from contrastive.recipe.names import with_name_characters
from contrastive.recipe.nodes import Node, Tree
from contrastive.recipe.sources import ALTERNATIVES, assign, load_tree, merge
from contrastive.text import quantity

#: The most recipes that one file may stand for.
MAX_CELLS = 256
_KEYS = ("grid", "variants")


@dataclass(frozen=True)
class Cell:
    """One recipe of a grid file: its tree, and the labels of its values on the axes (none for a variant)."""

    tree: Tree
    labels: Mapping[str, str]


@dataclass(frozen=True)
class _Value:
    label: str
    node: Node


def load_cells(recipe: str | os.PathLike[str], sets: Sequence[str] | Mapping[str, Any] = ()) -> list[Cell]:
    """The recipes of a file: those of its grid or variants, or the file itself.

    ``--set`` changes the recipe that the cells start from. Raises RecipeError if grid or variants are
    malformed, and whatever :func:`load_tree` raises.
    """
    tree = load_tree(recipe, sets)
    key = grid_key(tree)
    if key is None:
        return [Cell(tree, {})]
    if all(key in tree.root.value for key in _KEYS):
        raise _error(
            tree.root.key("variants"),
            "variants",
            "a file has either a grid or variants, not both; write two files",
        )
    node, base = tree.root.value[key], replace(tree, root=tree.root.without(*_KEYS))
    if not (node.is_map and node.value):
        forms = {
            "grid": "a map of axes, such as 'loss.temperature: [0.1, 0.5]'",
            "variants": "a map of names, each with the keys it changes",
        }
        content = "an empty map" if node.is_map else describe(node)
        raise _error(node.where, key, f"must be {forms[key]}, not {content}")
    cells = list(_grid(base, node) if key == "grid" else _variants(base, node))
    names = [cell.tree.root.value["name"].value for cell in cells]
    for name in names:
        if names.count(name) > 1:
            raise _error(
                node.where, key, f"two cells would be called '{name}'; give their values different labels"
            )
    return cells


def grid_key(tree: Tree) -> str | None:
    """The key by which a file stands for several recipes; None if the file is a single recipe."""
    return next((key for key in _KEYS if key in tree.root.value), None)


def _variants(base: Tree, node: Node) -> Iterator[Cell]:
    for label, change in node.value.items():
        if not (change.is_map or change.value is None):
            message = f"must be a map of the keys it changes, not {describe(change)}"
            raise _error(change.where, f"variants.{label}", message)
        root = merge(base.root, change) if change.is_map else base.root
        yield Cell(_with_name(base, root, [label], node.key(label)), {})


def _grid(base: Tree, node: Node) -> Iterator[Cell]:
    axes = {path: _values(path, values) for path, values in node.value.items()}
    for path in axes:
        if "" in path.split(".") or path.split(".")[0] in ("extends", "name", *_KEYS):
            raise _error(node.key(path), "grid", f"'{path}' is not a key that can vary; write path.to.key")
        if path == "train.seed":
            raise _error(node.key(path), "grid", "train.seed cannot be a grid axis; use --seeds")
    for other in (f"train.{key}" for key in ALTERNATIVES["minutes"]):
        if {"train.minutes", other} <= axes.keys():
            raise _error(
                node.key(other), "grid", f"train.minutes takes the place of {other}; remove one axis"
            )
    count = 1
    for values in axes.values():
        count *= len(values)
    if count > MAX_CELLS:
        raise _error(
            node.where,
            "grid",
            f"stands for {quantity(count, 'recipe')}, more than {MAX_CELLS}; remove values",
        )
    for combination in itertools.product(*axes.values()):
        root, mistakes = base.root, list(base.mistakes)
        labels, words = {}, []
        for path, value in zip(axes, combination, strict=True):
            root = assign(root, path.split("."), value.node, mistakes)
            labels[path] = value.label
            words.append(f"{_axis_word(path)}_{value.label}")
        tree = replace(base, root=root, mistakes=tuple(mistakes))
        yield Cell(_with_name(tree, root, words, node.key(next(iter(axes)))), labels)


def _axis_word(path: str) -> str:
    """``loss.temperature`` -> ``temperature``; ``augmentation.1`` keeps both."""
    steps = path.split(".")
    return "-".join(steps[-2:]) if steps[-1].isdecimal() else steps[-1]


def _values(path: str, node: Node) -> list[_Value]:
    """The values of an axis with their labels: those of a list label themselves, a map contains labels."""
    where = join("grid", path)
    if node.is_map and node.value:
        values = [_Value(label, child) for label, child in node.value.items()]
    elif node.is_list and node.value:
        values = [_Value(_label(child, where), child) for child in node.value]
    else:
        message = f"must be a list of values, or a map of labels to values, not {describe(node)}"
        raise _error(node.where, where, message if node.value else f"{message} that is empty")
    by_label: dict[str, Node] = {}
    for value in values:
        if value.label in by_label:
            raise _error(value.node.where, where, f"'{value.label}' occurs twice")
        by_label[value.label] = value.node
    return values


def _label(node: Node, where: str) -> str:
    """The label of a value: a scalar as written, the scalars of a list joined, the name of a part."""
    if node.is_list and not any(item.is_map or item.is_list for item in node.value):
        return "-".join(_plain(item) for item in node.value) or "empty"
    name = node.value.get("name") if node.is_map else None
    if name is not None and name.is_text:
        return name.value
    if node.is_map or node.is_list:
        raise _error(node.where, where, f"{describe(node)} has no label; write 'label: value' for each")
    return _plain(node)


def _plain(node: Node) -> str:
    return node.value if node.is_text else describe(node)


def _with_name(tree: Tree, root: Node, words: Sequence[str], where: Any) -> Tree:
    """The tree of one cell, named after the recipe of the file and the values that vary."""
    start = root.value.get("name")
    name = "-".join([start.value if start is not None and start.is_text else tree.name, *words])
    value = {**root.value, "name": Node(with_name_characters(name, "_"), where)}
    return replace(tree, root=Node(value, root.where, root.keys))


def _error(where: Any, path: str, message: str) -> RecipeError:
    return RecipeError([Mistake(where, path, message)])
