"""Fingerprints of files and folders, independent of file times."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


def fingerprint_tables(splits: Mapping[str, Sequence[Path]]) -> str:
    """SHA-256 over the bytes of every split's files, in order; their names do not matter."""
    digest = hashlib.sha256()
    for split, paths in splits.items():
        digest.update(f"{split} {len(paths)}\n".encode())
        for path in paths:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def fingerprint_listing(files: Iterable[tuple[str, int]]) -> str:
    """SHA-256 over sorted (relative path, bytes)."""
    digest = hashlib.sha256()
    for path, size in sorted(files):
        digest.update(f"{path}\0{size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
