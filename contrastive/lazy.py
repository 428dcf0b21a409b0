"""Public names of a package, listed once in ``__init__.pyi`` and imported when first used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lazy_loader

from contrastive.moved import follow, install

install()


def door(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], Sequence[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package, for its ``__init__.py``.

    Args:
        package: its ``__name__``.
        file: its ``__file__``; ``__init__.pyi`` is next to it.
    """
    resolve, names, public = lazy_loader.attach_stub(package, file)

    def get(name: str) -> Any:
        """A public name; one that has moved is imported from its new path, with a warning."""
        return resolve(name) if name in public else follow(package, name)

    return get, names, public
