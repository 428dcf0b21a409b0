"""Names of recipes, which are also names of files and folders."""

from __future__ import annotations

import re

#: Most characters of a name, and what it looks like.
LONGEST, PATTERN = 100, r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_OTHERS = re.compile(r"[^A-Za-z0-9._-]+")


def with_name_characters(text: str, filler: str = "-") -> str:
    """A text with a filler in place of all characters that no name has."""
    return _OTHERS.sub(filler, text)


def recipe_name(text: str, default: str) -> str:
    """The end of a text as the name of a recipe, or a default one if nothing of it can be a name."""
    return with_name_characters(text)[-LONGEST:].lstrip("._-").rstrip("-") or default
