"""Differences between two trees of plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten(tree: Any, path: str = "") -> dict[str, Any]:
    """A tree of maps and lists as dotted paths to plain values."""
    if isinstance(tree, dict | list) and tree:
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {
            k: v
            for key, value in items
            for k, v in flatten(value, f"{path}.{key}" if path else str(key)).items()
        }
    return {path: tree}


def changed_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The keys in which two flat trees differ, sorted."""
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
