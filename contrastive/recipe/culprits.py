"""Where a mistake that shows only after validation was written: of all values that take part, the latest one.

A recipe has layers: the files that it extends, the file itself, and ``--set``. What lies above was written
for this run, so it is reported, not the line of a shipped recipe that it does not fit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from contrastive.errors import Where
from contrastive.recipe.nodes import Node


def culprit(root: Node, files: Sequence[str], path: str, message: str, partners: Sequence[str]) -> Where:
    """The location of a mistake.

    Args:
        root: of the recipe.
        files: of the recipe: its own, then the one that it extends, and so on.
        path: dotted path of the value that is wrong; it may be a default, which the recipe does not contain.
        message: what is wrong. If it names keys below ``path``, the mistake lies in these.
        partners: dotted paths of other values that take part in the mistake; that of a part's name is
            ``target.name``, though the recipe may have the bare name.
    """

    def layer(where: Where) -> int:
        if where.override:
            return -1
        return files.index(where.file) if where.file in files else len(files)

    own = _value(root, path.split("."))
    candidates = [_change_in(own, message, layer) if own else root.at(path.split("."))[0].where]
    layers = [layer(candidates[0]) if own else len(files) + 1]
    for partner in partners:
        if other := _value(root, partner.split(".")):
            candidates.append(other.latest)
            layers.append(layer(other.latest))
    return candidates[layers.index(min(layers))]


def _value(root: Node, steps: list[str]) -> Node | None:
    """The value at a path that a recipe contains, or None."""
    node, depth = root.at(steps)
    is_bare_name = depth == len(steps) - 1 and steps[-1] == "name" and not node.is_map
    return node if depth == len(steps) or is_bare_name else None


def _change_in(node: Node, message: str, layer: Callable[[Where], int]) -> Where:
    """The location of a value, or of a change within it that lies in a layer above its own."""
    keys = [(key, where) for key, where in _keys(node) if re.search(rf"\b{re.escape(key)}\b", message)]
    if keys:
        nearest = min((where for _, where in keys), key=layer)
        return nearest if layer(nearest) < layer(node.where) else node.where
    return node.latest if layer(node.latest) < layer(node.where) else node.where


def _keys(node: Node) -> Iterator[tuple[str, Where]]:
    """The keys below a node, and where their values are."""
    if node.is_map:
        for key, child in node.value.items():
            yield key, child.latest
            yield from _keys(child)
    elif node.is_list:
        for child in node.value:
            yield from _keys(child)
