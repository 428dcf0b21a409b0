"""Remedies of the conformance kit's messages about plugins and what every part promises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from contrastive import hookimpl
from contrastive.kinds import API_VERSION
from contrastive.parts import Protocol
from contrastive.testing import check_plugin
from contrastive.testing.processes import Pair
from contrastive.testing.subjects import plugin_of, subject_of
from tests.remedies.kit import WholeLoss, WholeProtocol, case
from tests.support.attempts import verdict
from tests.support.remedies import Remedy


@hookimpl
def register_protocol(register):
    register("mine", "contrastive.protocols:KNN")


def plugin(**content: Any) -> SimpleNamespace:
    return SimpleNamespace(__name__="my-plugin", **content)


def plugin_verdict(content: dict[str, Any]) -> str:
    results = check_plugin(plugin(**content))
    return "; ".join(result.reason for result in results if result.status == "failed")


class Abstract(Protocol):
    """Lacks score."""

    version = 1


class Undescribed(WholeLoss):
    pass


Undescribed.__doc__ = None


class NeedsExample(WholeLoss):
    """Needs a parameter.

    Args:
        size: how many.
    """

    def __init__(self, size: int):
        super().__init__()


class HasExample(NeedsExample):
    """Needs a parameter, and gives an example.

    Args:
        size: how many.
    """

    @classmethod
    def example(cls, folder):
        return {"size": 3}


class SeedsAll(WholeLoss):
    """Sets the number of threads."""

    def compare(self, comparison):
        np.random.rand()
        return super().compare(comparison)


class Plain:
    """Not a part."""


def folder_with(name: str) -> Path:
    Path("package").mkdir(exist_ok=True)
    if name:
        Path("package", name).write_text(
            '[project]\nname = "mine"\nversion = "1"\n[project.entry-points.contrastive]\nmine = "json"\n'
        )
    return Path("package")


def pickled(function: Any) -> None:
    pair = Pair.__new__(Pair)
    pair._connections, pair._answers = [], list
    pair.call(function)


def plugins() -> Iterator[Remedy]:
    rules = "rules/every_part.py"
    known = {"contrastive_api": API_VERSION}
    whole = {"register_protocol": register_protocol, **known}
    yield Remedy(
        rules,
        "write contrastive_api =",
        plugin_verdict,
        {"register_protocol": register_protocol},
        whole,
    )
    yield Remedy(rules, "write a hook such as", plugin_verdict, known, whole)
    yield case("every_part", "define every abstract method", "loads", Abstract, WholeProtocol)
    yield case("every_part", "What it is, in one line", "documented", Undescribed, WholeLoss)
    yield case("every_part", "draw from your own generator or", "global state", SeedsAll, WholeLoss)
    yield Remedy(
        "testing/subjects.py",
        "return valid parameters from the class method",
        verdict("schema"),
        lambda: NeedsExample,
        lambda _: HasExample,
    )
    yield Remedy(
        "testing/subjects.py", "derive it from a base class", subject_of, lambda: Plain, lambda _: WholeLoss
    )
    yield Remedy(
        "testing/subjects.py",
        "name the folder of a plugin's package",
        plugin_of,
        lambda: folder_with(""),
        lambda _: folder_with("pyproject.toml"),
    )
    yield Remedy(
        "testing/processes.py",
        "define it at the top level",
        pickled,
        lambda: lambda: None,
        lambda _: folder_with,
    )


REMEDIES = [*plugins()]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
