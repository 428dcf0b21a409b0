"""What users do, in the current folder, as functions of one value: each raises or returns what they read."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from contrastive.build import build
from contrastive.cli import main
from contrastive.parts import Dataset
from contrastive.recipe import load_cells, load_recipe
from contrastive.registry import Registry, load_registry
from contrastive.testing import part_checks

Sets = Sequence[str] | Mapping[str, Any]
#: The recipe that every attempt may start from; see tests/remedies/conftest.py.
TINY = "tiny.yaml"


@cache
def registry() -> Registry:
    """The registry of the installed plugins."""
    return load_registry()


def resolved(text: str) -> None:
    """A recipe of this text is read and resolved."""
    Path("r.yaml").write_text(text)
    load_recipe("r.yaml", (), registry())


def overridden(sets: Sets) -> None:
    """The tiny recipe is resolved with ``--set``."""
    load_recipe(TINY, sets, registry())


def composed(sets: Sets) -> None:
    """The tiny recipe is built with ``--set``, as ``check`` does."""
    build(load_recipe(TINY, sets, registry()))


def cells(*texts: str) -> None:
    """The recipes of grid files are listed."""
    for number, text in enumerate(texts):
        Path(f"grid{number}.yaml").write_text(text)
        load_cells(f"grid{number}.yaml")


def command(arguments: Sequence[str]) -> str:
    """The command line: what it prints on standard error if it fails."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        code = main([*arguments])
    return errors.getvalue() if code else ""


def opened(make: Callable[[], Dataset]) -> None:
    """A data set is opened: every split, the names of its classes, and its fingerprint."""
    dataset = make()
    tables = [dataset.table(split) for split in dataset.splits()]
    assert tables[0] is not None
    assert len(tables[0])
    assert dataset.fingerprint()


def verdict(check: str) -> Callable[[type], str]:
    """One check of the conformance kit on a part: the reason if it fails."""

    def attempt(part: type) -> str:
        (one,) = (each for each in part_checks(part) if each.check.name == check)
        result = one.result()
        return result.reason if result.status == "failed" else ""

    return attempt


def warned(action: Callable[[], Any]) -> str:
    """The warnings of an action."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    return "; ".join(str(warning.message) for warning in caught)
