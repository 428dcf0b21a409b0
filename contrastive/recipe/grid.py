"""Grid files: a recipe that also says what varies, and so stands for several recipes.

``grid`` holds axes, a dotted path -> its values, and stands for every combination; ``variants`` holds names,
each with the keys it changes. Everything else in the file is the recipe they start from.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from contrastive.errors import Mistake, RecipeError
from contrastive.recipe.messages import join, shown
from contrastive.recipe.nodes import Node, Tree
from contrastive.recipe.sources import assign, load_tree, merge

#: Recipes that one file may stand for.
MAX_CELLS = 256
_KEYS = ("grid", "variants")


@dataclass(frozen=True)
class Cell:
    """One recipe of a grid file: its tree, and the label of its value on each axis (none of a variant)."""

    tree: Tree
    labels: Mapping[str, str]


@dataclass(frozen=True)
class _Value:
    label: str
    node: Node


def load_cells(recipe: str | os.PathLike[str], sets: Sequence[str] | Mapping[str, Any] = ()) -> list[Cell]:
    """The recipes of a file: those of its grid or variants, or the one it is.

    ``--set`` changes the recipe that the cells start from. Raises RecipeError where grid or variants are not
    well formed, and whatever :func:`load_tree` raises.
    """
    tree = load_tree(recipe, sets)
    key = grid_key(tree)
    if key is None:
        return [Cell(tree, {})]
    if all(key in tree.root.value for key in _KEYS):
        raise _refused(
            tree.root.key("variants"), "variants", "a file has a grid or variants, not both; write two files"
        )
    node, base = tree.root.value[key], replace(tree, root=tree.root.without(*_KEYS))
    if not (node.is_map and node.value):
        forms = {
            "grid": "a map of axes, such as 'loss.temperature: [0.1, 0.5]'",
            "variants": "a map of names, each with the keys it changes",
        }
        found = "an empty map" if node.is_map else shown(node)
        raise _refused(node.where, key, f"must be {forms[key]}, not {found}")
    cells = list(_grid(base, node) if key == "grid" else _variants(base, node))
    names = [cell.tree.root.value["name"].value for cell in cells]
    for name in names:
        if names.count(name) > 1:
            raise _refused(node.where, key, f"two cells would be called '{name}'; label their values apart")
    return cells


def grid_key(tree: Tree) -> str | None:
    """The key by which a file stands for several recipes; None where it is one."""
    return next((key for key in _KEYS if key in tree.root.value), None)


def _variants(base: Tree, node: Node) -> Iterator[Cell]:
    for label, change in node.value.items():
        if not (change.is_map or change.value is None):
            message = f"must be a map of the keys it changes, not {shown(change)}"
            raise _refused(change.where, f"variants.{label}", message)
        root = merge(base.root, change) if change.is_map else base.root
        yield Cell(_named(base, root, [label], node.key(label)), {})


def _grid(base: Tree, node: Node) -> Iterator[Cell]:
    axes = {path: _values(path, values) for path, values in node.value.items()}
    for path in axes:
        if "" in path.split(".") or path.split(".")[0] in ("extends", "name", *_KEYS):
            raise _refused(node.key(path), "grid", f"'{path}' is no key that can vary; write path.to.key")
        if path == "train.seed":
            raise _refused(node.key(path), "grid", "the seed is no axis: compare has --seeds for it")
    count = 1
    for values in axes.values():
        count *= len(values)
    if count > MAX_CELLS:
        raise _refused(node.where, "grid", f"stands for {count:,} recipes, more than {MAX_CELLS}; vary less")
    for combination in itertools.product(*axes.values()):
        root, mistakes = base.root, list(base.mistakes)
        labels, words = {}, []
        for path, value in zip(axes, combination, strict=True):
            root = assign(root, path.split("."), value.node, mistakes)
            labels[path] = value.label
            words.append(f"{_axis_word(path)}_{value.label}")
        tree = replace(base, root=root, mistakes=tuple(mistakes))
        yield Cell(_named(tree, root, words, node.key(next(iter(axes)))), labels)


def _axis_word(path: str) -> str:
    """``loss.temperature`` -> ``temperature``; ``augmentation.1`` keeps both."""
    steps = path.split(".")
    return "-".join(steps[-2:]) if steps[-1].isdecimal() else steps[-1]


def _values(path: str, node: Node) -> list[_Value]:
    """The values of an axis with their labels: a list labels itself, a map gives label -> value."""
    where = join("grid", path)
    if node.is_map and node.value:
        values = [_Value(label, child) for label, child in node.value.items()]
    elif node.is_list and node.value:
        values = [_Value(_label(child, where), child) for child in node.value]
    else:
        message = f"must be a list of values, or a map of label to value, not {shown(node)}"
        raise _refused(node.where, where, message if node.value else f"{message} without any")
    seen: dict[str, Node] = {}
    for value in values:
        if value.label in seen:
            raise _refused(value.node.where, where, f"'{value.label}' stands there twice")
        seen[value.label] = value.node
    return values


def _label(node: Node, where: str) -> str:
    """What a value is called: a scalar as written, a list of scalars joined, a part by its name."""
    if node.is_list and not any(item.is_map or item.is_list for item in node.value):
        return "-".join(_plain(item) for item in node.value) or "empty"
    name = node.value.get("name") if node.is_map else None
    if name is not None and name.is_text:
        return name.value
    if node.is_map or node.is_list:
        raise _refused(node.where, where, f"{shown(node)} has no label; write 'label: value' for each")
    return _plain(node)


def _plain(node: Node) -> str:
    return node.value if node.is_text else shown(node)


def _named(tree: Tree, root: Node, words: Sequence[str], where: Any) -> Tree:
    """The tree of one cell, named after the file's recipe and what varies."""
    start = root.value.get("name")
    name = "-".join([start.value if start is not None and start.is_text else tree.name, *words])
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", name)
    value = {**root.value, "name": Node(name, where)}
    return replace(tree, root=Node(value, root.where, root.keys))


def _refused(where: Any, path: str, message: str) -> RecipeError:
    return RecipeError([Mistake(where, path, message)])
