"""Versions that a run depends on: of this framework, of its packages and of its checkout."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib import metadata
from importlib.metadata import version
from pathlib import Path

#: Packages whose versions may change what a run computes.
_PACKAGES = ("torch", "torchvision", "timm", "accelerate", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Distribution -> installed version: this framework, and packages that may change a run's results."""
    return dict(_installed_versions())


@cache
def _installed_versions() -> dict[str, str]:
    """:func:`versions`, read once per process: every checkpoint holds them."""
    return {CORE: core_version(), **{name: version(name) for name in _PACKAGES}}


def git_commit() -> str | None:
    """The commit of the checkout this package runs from, or None."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():  # installed, perhaps inside a checkout of something else
        return None
    try:
        process = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() or None


CORE = "contrastive-framework"


def core_version() -> str:
    """The installed version of this framework; ``unknown`` in a checkout that is not installed."""
    try:
        return metadata.version(CORE)
    except metadata.PackageNotFoundError:
        return "unknown"
