"""The tree of a recipe's values, each with its file, line and column."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from contrastive.errors import Mistake, UsageError, Where


@dataclass(frozen=True)
class Node:
    """A scalar, a list of nodes or a map of nodes, with its position and, for a map, those of its keys.

    Attributes:
        is_absent: the null of a value that is not written.
        is_short: a map that was written as a text, its ``name``, before other keys were merged into it.
        source: a scalar as it is written, without quotes; None if it is quoted or was not read from YAML.
        change: the position of what was merged into a map or list last; None if nothing was.
    """

    value: Any
    where: Where
    keys: Mapping[str, Where] = field(default_factory=dict)
    is_absent: bool = field(default=False, compare=False)
    is_short: bool = field(default=False, compare=False)
    source: str | None = field(default=None, compare=False)
    change: Where | None = field(default=None, compare=False)

    @property
    def is_map(self) -> bool:
        return isinstance(self.value, dict)

    @property
    def is_list(self) -> bool:
        return isinstance(self.value, list)

    @property
    def is_text(self) -> bool:
        return isinstance(self.value, str)

    @property
    def latest(self) -> Where:
        """The position of the last change of this value, or its own."""
        return self.change or self.where

    def plain(self) -> Any:
        """Maps, lists and scalars without positions."""
        if self.is_map:
            return {key: child.plain() for key, child in self.value.items()}
        if self.is_list:
            return [child.plain() for child in self.value]
        return self.value

    def key(self, key: str) -> Where:
        """The position of a map's key, or of the map itself if it lacks the key."""
        return self.keys.get(key, self.where)

    def without(self, *keys: str) -> Node:
        """This map without some of its keys."""
        return replace(self, value={key: child for key, child in self.value.items() if key not in keys})

    def at(self, loc: Sequence[str | int]) -> tuple[Node, int]:
        """The deepest existing node along the path ``loc``, and how many of its steps exist."""
        node = self
        for depth, step in enumerate(loc):
            child = node.child(step)
            if child is None:
                return node, depth
            node = child
        return node, len(loc)

    def child(self, step: str | int) -> Node | None:
        """The value of a map's key, or an item of a list; None if there is none."""
        if self.is_map:
            return self.value.get(step)
        index = str(step)
        if self.is_list and index.isdecimal() and len(index) < 10 and int(index) < len(self.value):
            return self.value[int(index)]
        return None


@dataclass(frozen=True)
class Tree:
    """A recipe as written: its root map, and the mistakes that reading it revealed.

    Attributes:
        name: the recipe's, unless it names itself.
        files: its own file, then the one that it extends, and so on; none if it was not read from a file.
    """

    root: Node
    mistakes: tuple[Mistake, ...] = ()
    name: str = "recipe"
    files: tuple[Path, ...] = ()


def from_plain(value: Any, where: Where) -> Node:
    """The tree of a plain value that has one position (``--set``, Python, a default)."""
    if isinstance(value, Mapping):
        children = {str(key): from_plain(child, where) for key, child in value.items()}
        return Node(children, where, dict.fromkeys(children, where))
    if isinstance(value, list | tuple):
        return Node([from_plain(child, where) for child in value], where)
    if isinstance(value, os.PathLike):
        return Node(os.fspath(value), where)
    if value is None or isinstance(value, bool | int | float | str):
        return Node(value, where)
    raise UsageError(
        f"{where}: a {type(value).__name__} cannot be a value of a recipe; use numbers, text, lists and maps"
    )
