"""What counts as an import, and what as a circle."""

from __future__ import annotations

import pytest
from import_graph import Import, Package, circles, imports, reachable


@pytest.fixture
def house(tmp_path):
    """A package with a lazy door, an import in a function, and one that only types see."""
    folder = tmp_path / "house"
    (folder / "kitchen").mkdir(parents=True)
    for name, text in {
        "__init__.py": "",
        "hall.py": (
            "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from house.attic import Roof\n"
            "else:\n    import house.cellar\n"
            "def f():\n    from house import kitchen\n    from house.kitchen import Stove, hob\n"
        ),
        "attic.py": "import os\nfrom house.hall import f\n",
        "cellar.py": "",
        "kitchen/__init__.py": "import lazy_loader\n",
        "kitchen/__init__.pyi": "from .stove import Stove as Stove\n",
        "kitchen/stove.py": "class Stove: ...\n",
        "kitchen/hob.py": "from house.kitchen.stove import Stove\n",
    }.items():
        (folder / name).write_text(text)
    return Package(folder)


def test_imports_are_seen_where_they_hide(house):
    assert house.graph() == {
        "house": set(),
        "house.hall": {
            "house.attic", "house.cellar", "house.kitchen", "house.kitchen.stove", "house.kitchen.hob",
        },
        "house.attic": {"house.hall"},
        "house.cellar": set(),
        "house.kitchen": set(),
        "house.kitchen.stove": set(),
        "house.kitchen.hob": {"house.kitchen.stove"},
    }  # fmt: skip


def test_imports_of_other_packages_are_listed(house):
    assert Import("os") in set(imports(house.folder / "attic.py"))


def test_relative_imports_are_refused(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("from . import other\n")
    with pytest.raises(ValueError, match=r"module\.py:1: write absolute imports"):
        list(imports(path))


def test_circles_are_found(house):
    assert circles(house.graph()) == [["house.attic", "house.hall"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a", "e"}, "e": set()}) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_reachable_modules():
    graph = {"a": {"b"}, "b": {"c"}, "c": set(), "d": {"d"}}
    assert reachable(graph, "a") == {"b", "c"}
    assert reachable(graph, "d") == {"d"}
