"""Paths as users write them in recipes, with ``~`` and environment variables."""

from __future__ import annotations

import glob
import mimetypes
import os
import re
from itertools import islice
from pathlib import Path

from contrastive.errors import UsageError

#: Files of a folder that are looked at in search of an image.
_MOST_FILES = 10_000
_VARIABLE = re.compile(r"\$(?:\{([^}]*)\}|([A-Za-z_][A-Za-z0-9_]*))")


def user_path(path: str | Path) -> Path:
    """A path with ``~``, ``$NAME`` and ``${NAME}`` expanded, as a shell would.

    A path (or pattern of paths) that exists as it is written keeps its dollar signs.

    Raises:
        UsageError: a variable is not set, or is empty.
    """
    text = os.path.expanduser(path)
    if _VARIABLE.search(text) is None or os.path.lexists(text) or glob.glob(text, recursive=True):
        return Path(text)

    def value(match: re.Match[str]) -> str:
        name = match[1] if match[2] is None else match[2]
        if content := os.environ.get(name):
            return content
        state = "is empty" if name in os.environ else "is not set"
        raise UsageError(
            f"{path}: the environment variable '{name}' {state}. Set it, or write the path in full."
        )

    return Path(os.path.expanduser(_VARIABLE.sub(value, text)))


def holds_images(path: str | Path) -> bool:
    """Whether a path is a folder with images, by the names of its first files."""
    names = (name for _, _, files in os.walk(path) for name in files)
    types = (mimetypes.guess_type(name, strict=False)[0] for name in islice(names, _MOST_FILES))
    return any(type_ is not None and type_.startswith("image/") for type_ in types)


def weights_file(path: str | Path) -> Path:
    """The file that holds the weights: ``path`` itself, or model.safetensors in a folder."""
    path = user_path(path)
    return path / "model.safetensors" if os.path.isdir(path) else path
