"""Files whose content, not their path, decides the trained weights (:class:`contrastive.kinds.Content`)."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from contrastive.errors import UsageError
from contrastive.files import sha256_of
from contrastive.paths import weights_file
from contrastive.recipe.marks import MarkedType


def content_digest(path: str) -> str | None:
    """SHA-256 (hex) of a file, or of the weights in a folder; None if there is none."""
    try:
        file = weights_file(path)
        status = file.stat()
    except (OSError, UsageError):  # gone, or a variable in its path is
        return None
    return _digest(file, status.st_mtime_ns, status.st_size) if file.is_file() else None


@functools.lru_cache(maxsize=64)
def _digest(file: Path, _time: int, _size: int) -> str:
    return sha256_of(file)


def with_contents(value: Any, marked_type: MarkedType) -> Any:
    """A value in which the SHA-256 of each file stands for its path; paths of files that are gone stay."""
    if isinstance(value, dict):
        return {key: with_contents(item, marked_type.within(key)) for key, item in value.items()}
    if isinstance(value, str) and marked_type.is_path:
        return content_digest(value) or value
    return value
