"""Public names that have moved: old path -> new path. The old path works, with a DeprecationWarning.

A path is ``module:name``. Importing :mod:`contrastive` makes modules that no longer exist importable.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

#: Old ``module:name`` -> new ``module:name``. Entries are permanent.
NEW_PATHS: dict[str, str] = {
    "contrastive.compare.statistics:holm": "contrastive.commands.compare.significance:holm",
    "contrastive.compare.statistics:interval": "contrastive.commands.compare.significance:interval",
    "contrastive.compare.statistics:paired_difference": (
        "contrastive.commands.compare.significance:paired_difference"
    ),
    "contrastive.parts:Reduced": "contrastive.parts:ReducedImage",
    "contrastive.targets:Shared": "contrastive.targets:SharedEncoder",
    "contrastive.protocols.labelled:labelled": "contrastive.protocols.labels:join_labelled",
    "contrastive.protocols.labelled:top1": "contrastive.protocols.labels:top1",
}


def follow(module: str, name: str) -> Any:
    """Import what ``name`` of ``module`` is today, and warn with its new path.

    Raises:
        AttributeError: no such name has ever been public there.
    """
    new = NEW_PATHS.get(f"{module}:{name}")
    if new is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    home, _, attribute = new.partition(":")
    warnings.warn(
        f"{module}.{name} has moved; import it as: from {home} import {attribute}",
        DeprecationWarning,
        stacklevel=3,
    )
    return getattr(import_module(home), attribute)


class MovedModules:
    """Finds and loads modules that are gone but have names in :data:`NEW_PATHS`, after all other finders.

    It does not derive from the bases in ``importlib.abc``: importing these takes a tenth of ``--help``.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A module without a file, or None if no name of it has moved."""
        modules = {old.partition(":")[0] for old in NEW_PATHS}
        if not any(module == fullname or module.startswith(f"{fullname}.") for module in modules):
            return None
        return ModuleSpec(fullname, self, is_package=fullname not in modules)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """None, so that the import system makes an ordinary module."""

    def exec_module(self, module: ModuleType) -> None:
        """Give the module an attribute lookup that follows :data:`NEW_PATHS`."""
        name = module.__name__
        module.__getattr__ = lambda attribute: follow(name, attribute)  # type: ignore[method-assign]


def install() -> None:
    """Let the import system find modules that no longer exist. Safe to call twice."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
