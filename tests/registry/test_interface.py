"""The version of the interface: what plugins declare, and what an older framework makes of it."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from unittest import mock

import pytest
from import_graph import imports

from contrastive.errors import PluginError
from contrastive.kinds import API_VERSION, OLDEST_API_VERSION, hookimpl
from contrastive.parts import Head
from contrastive.recipe import parse_tree, resolve
from contrastive.registry import load_registry
from contrastive.registry import registry as registry_module
from contrastive.versions import core_version

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "plugins.md"
RECIPE = """
name: mine
dataset: fashion_mnist_sample
augmentation: flip
head: flat
loss: nt_xent
"""


class Flat(Head):
    """A head that is there."""


class Plugin:
    """A plugin that declares an interface."""

    def __init__(self, contrastive_api: int):
        self.contrastive_api = contrastive_api

    @hookimpl
    def register_head(self, register):
        register("flat", Flat)


def registry_of(plugin: Plugin, ours: int = API_VERSION):
    with mock.patch.object(registry_module, "API_VERSION", ours):
        registry = load_registry(plugins=False)
        registry.add(plugin, "my-plugin", "0.3")
    return registry


def test_this_framework_has_interface_2_and_supports_1():
    assert (API_VERSION, OLDEST_API_VERSION) == (2, 1)


def test_a_framework_of_interface_1_refuses_a_plugin_of_2_in_one_sentence():
    registry = registry_of(Plugin(2), ours=1)
    (problem,) = registry.problems
    sentence = f"was written for interface 2, this contrastive-framework {core_version()} has 1; upgrade "
    assert problem.reason == sentence + "contrastive-framework"
    assert "flat" not in registry.names("head")
    with pytest.raises(PluginError, match=re.escape(sentence)):
        resolve(parse_tree(RECIPE), registry)
    shown = f"`{sentence}contrastive-framework`".replace(core_version(), "0.1")
    assert shown in " ".join(PAGE.read_text(encoding="utf-8").split())


@pytest.mark.parametrize("version", range(OLDEST_API_VERSION, API_VERSION + 1))
def test_plugins_of_each_supported_interface_work(version):
    registry = registry_of(Plugin(version))
    assert not registry.problems
    assert registry.entry("head", "flat").load() is Flat


# -- the rule for plugins -----------------------------------------------------------------------------------


def new_names() -> set[str]:
    """The paths that the guide lists as new in interface 2, which a module may import."""
    (row,) = re.findall(r"^\| 2 \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    names, module = set(), ""
    for name in re.findall(r"`([\w.]+)`", row.partition(";")[0]):
        module = name.rpartition(".")[0] if "." in name else module
        names.add(name if "." in name else f"{module}.{name}")
    return names


def declared_interface(path: Path) -> int | None:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "contrastive_api":
            return int(ast.unparse(node.value))
    return None


def imported_names(path: Path) -> set[str]:
    found = [(line.module, line.name) for line in imports(path)]
    return {module for module, _ in found} | {f"{module}.{name}" for module, name in found}


def test_the_guide_lists_names_that_are_there():
    assert {"contrastive.views", "contrastive.kinds.PatchSize", "contrastive.parts.Request"} <= new_names()
    for name in new_names():
        module, _, attribute = name.rpartition(".")
        __import__(module)
        if not hasattr(sys.modules[module], attribute):
            __import__(name)


def packages() -> list[Path]:
    """The folders of our plugins, and of the examples."""
    return sorted(
        path.parent for top in ("plugins", "tests/plugins") for path in (ROOT / top).glob("*/*.toml")
    )


@pytest.mark.parametrize("package", packages(), ids=lambda path: path.name)
def test_a_plugin_that_uses_what_is_new_declares_it(package):
    sources = [path for path in package.rglob("*.py") if "tests" not in path.relative_to(package).parts]
    (declared,) = {declared_interface(path) for path in sources} - {None}
    used = {name for path in sources for name in imported_names(path)} & new_names()
    assert declared == 2 if used else declared in (1, 2), used


def test_templates_declare_the_oldest_interface(tmp_path):
    for template in (ROOT / "contrastive/commands/plugin_new/templates").glob("*.py.txt"):
        text = template.read_text()
        if "contrastive_api" in text and "class $Class" in text:
            module = tmp_path / "module.py"
            module.write_text(re.sub(r"\$\w+", "Part", text))
            assert declared_interface(module) == 1, template.name
            assert not imported_names(module) & new_names(), template.name
