"""The registry: built-ins without torch, and plugins of which a broken one harms nobody else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from contrastive.cli import main
from contrastive.errors import PluginError, UsageError
from contrastive.kinds import API_VERSION, GROUP, KINDS, OLDEST_API_VERSION, hookimpl
from contrastive.registry import Registry, load_registry
from contrastive.versions import CORE, core_version

GOOD = '''
from contrastive.kinds import hookimpl

class Part:
    """A fine loss."""
    kind = "loss"
    def __init__(self, weightless: float = 1.0): self.weightless = weightless

@hookimpl
def register_loss(register):
    register("fine", Part)
    register("fine_too", "good_plugin:Part")
'''

#: distribution -> (module text, what is reported)
BROKEN = {
    "broken-import": ("import a_module_that_nobody_has\n", "cannot import"),
    "broken-exit": ("import sys; sys.exit(3)\n", "cannot import"),
    "broken-syntax": ("def register_loss(:\n", "SyntaxError"),
    "broken-hook": (
        "from contrastive.kinds import hookimpl\n@hookimpl\ndef register_lss(register): pass\n",
        "there is no hook 'register_lss'. Did you mean 'register_loss'?",
    ),
    "broken-argument": (
        "from contrastive.kinds import hookimpl\n@hookimpl\ndef register_loss(registry): pass\n",
        "cannot be registered",
    ),
    "broken-raise": (
        "from contrastive.kinds import hookimpl\n@hookimpl\ndef register_loss(register): 1 / 0\n",
        "register_loss failed (ZeroDivisionError",
    ),
    "broken-duplicate": (
        "from contrastive.kinds import hookimpl\n@hookimpl\n"
        "def register_loss(register): register('nt_xent', 'broken_duplicate:X')\n",
        "loss 'nt_xent' is a built-in part of contrastive-framework",
    ),
    "broken-name": (
        "from contrastive.kinds import hookimpl\n@hookimpl\n"
        "def register_loss(register): register('Not A Name', 'broken_name:X')\n",
        "a name is lower-case letters",
    ),
    "broken-part": (
        "from contrastive.kinds import hookimpl\n@hookimpl\ndef register_loss(register): register('x', 3)\n",
        "give a class or a reference",
    ),
    "broken-new": (
        f"contrastive_api = {API_VERSION + 2}\n" + GOOD.replace('"fine', '"newer'),
        f"was written for interface {API_VERSION + 2}, this {CORE} {core_version()} has "
        f"{API_VERSION}; upgrade contrastive-framework",
    ),
    "broken-old": (
        f"contrastive_api = {OLDEST_API_VERSION - 1}\n" + GOOD.replace('"fine', '"older'),
        f"was written for interface {OLDEST_API_VERSION - 1}, this {CORE} {core_version()} has "
        f"{API_VERSION} and supports {OLDEST_API_VERSION} at the oldest; upgrade broken-old",
    ),
    "broken-api": (
        "contrastive_api = '1'\n" + GOOD.replace('"fine', '"texts'),
        "contrastive_api must be an integer, such as 2, not '1'",
    ),
}

#: Registered without complaint; broken when a recipe names them.
LATE = """
from contrastive.kinds import hookimpl

class WrongKind:
    kind = "head"

class NoAnnotation:
    kind = "loss"
    def __init__(self, temperature=0.5): pass

class Keywords:
    kind = "loss"
    def __init__(self, **options: float): pass

class OnlyForCheckers:
    kind = "loss"
    def __init__(self, x: "Undefined" = 1): pass

class BadDefault:
    kind = "loss"
    def __init__(self, x: float = "much"): pass

class BadType:
    kind = "loss"
    def __init__(self, x: object() = None): pass

not_a_class = 3

@hookimpl
def register_loss(register):
    register("absent_module", "no_such_module_anywhere:X")
    register("absent_class", "late_plugin:Absent")
    register("wrong_kind", "late_plugin:WrongKind")
    register("no_class", "late_plugin:not_a_class")
    register("no_annotation", "late_plugin:NoAnnotation")
    register("keywords", "late_plugin:Keywords")
    register("only_for_checkers", "late_plugin:OnlyForCheckers")
    register("bad_default", "late_plugin:BadDefault")
    register("bad_type", "late_plugin:BadType")
"""


def install(folder: Path, distribution: str, text: str, version: str = "1.2") -> None:
    """What pip leaves of a distribution with one module and one entry point."""
    module = distribution.replace("-", "_")
    (folder / f"{module}.py").write_text(text)
    info = folder / f"{module}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[contrastive]\n{module} = {module}\n")


#: The modules that tests here install, one of which may be installed in earnest.
OURS = ("good_", "broken_", "late_", "contrastive_moco", "contrastive_negatives")


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """A folder of installed plugins, on the path for one test, and the only ones there are."""

    every = metadata.entry_points

    def entry_points(**wanted: str) -> metadata.EntryPoints:
        if wanted != {"group": GROUP}:
            return every(**wanted)
        found = metadata.distributions(path=[str(tmp_path)])
        points = (point for distribution in found for point in distribution.entry_points)
        return metadata.EntryPoints(points).select(**wanted)

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(metadata, "entry_points", entry_points)
    for name in [name for name in sys.modules if name.startswith(OURS)]:
        monkeypatch.delitem(sys.modules, name)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith(OURS)]:
        del sys.modules[name]


def test_builtins_are_registered_without_problems():
    registry = load_registry(plugins=False)
    assert not registry.problems
    assert registry.names("loss") == ["nt_xent", "nt_logistic", "margin"]
    assert registry.names("protocol") == ["knn", "linear", "finetune", "retrieval"]
    assert [plugin.name for plugin in registry.plugins] == [CORE]
    for kind in set(KINDS) - {"callback"}:
        assert registry.names(kind), kind


def test_every_builtin_reference_loads_and_derives_from_its_kind():
    from contrastive import parts

    for entry in load_registry(plugins=False):
        base = getattr(parts, entry.kind.capitalize())
        assert issubclass(entry.load(), base), entry


def test_every_builtin_and_each_of_its_parameters_is_documented():
    from contrastive.recipe import signature_of

    for entry in load_registry(plugins=False):
        signature = signature_of(entry)
        assert signature.summary, f"{entry.kind} {entry.name}"
        silent = [name for name, parameter in signature.parameters.items() if not parameter.doc]
        assert not silent, f"{entry.kind} {entry.name}: {silent}"


def test_registry_recipes_and_schema_import_no_torch():
    code = (
        "import sys, contrastive.registry, contrastive.recipe\n"
        "import contrastive.recipe.schema, contrastive.commands.catalogue\n"
        "registry = contrastive.registry.load_registry(plugins=False)\n"
        "contrastive.recipe.load_tree('simclr')\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=300)


def test_a_good_plugin_brings_its_parts(plugins):
    install(plugins, "good-plugin", GOOD)
    registry = load_registry()
    entry = registry.entry("loss", "fine_too")
    assert (entry.provider, entry.version) == ("good-plugin", "1.2")
    assert entry.load() is registry.entry("loss", "fine").load()
    installed = next(plugin for plugin in registry.plugins if plugin.name == "good-plugin")
    assert installed.hooks == ("register_loss",)
    assert installed.parts == (("loss", "fine"), ("loss", "fine_too"))
    assert installed.path == str(plugins / "good_plugin.py")


def test_broken_plugins_are_reported_with_name_and_version_and_stop_nothing(plugins):
    for distribution, (text, _) in BROKEN.items():
        install(plugins, distribution, text)
    install(plugins, "good-plugin", GOOD)
    registry = load_registry()
    for distribution, (_, reason) in BROKEN.items():
        found = [str(problem) for problem in registry.problems if problem.plugin == distribution]
        assert len(found) == 1, distribution
        assert found[0].startswith(f"{distribution} 1.2: ")
        assert reason in found[0]
        assert any(plugin.name == distribution for plugin in registry.plugins)
    assert registry.entry("loss", "nt_xent").provider == CORE
    assert registry.entry("loss", "fine").load()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent_module", "ModuleNotFoundError"),
        ("absent_class", "has no attribute 'Absent'"),
        ("wrong_kind", "does not derive from contrastive.parts.Loss"),
        ("no_class", "is not a class"),
        ("no_annotation", "parameter 'temperature' of its __init__ has no annotation"),
        ("keywords", "its __init__ takes '**options: float'"),
        ("only_for_checkers", "cannot read the annotations"),
        ("bad_default", "the default of parameter 'x'"),
        ("bad_type", "a type that a recipe cannot express"),
    ],
)
def test_a_part_that_cannot_be_used_names_its_plugin(plugins, name, reason):
    from contrastive.recipe import signature_of

    install(plugins, "late-plugin", LATE)
    registry = load_registry()
    assert not [problem for problem in registry.problems if problem.plugin == "late-plugin"]
    with pytest.raises(PluginError) as error:
        signature_of(registry.entry("loss", name))
    assert str(error.value).startswith(f"late-plugin 1.2: loss '{name}'")
    assert reason in str(error.value)
    assert error.value.exit_code == 3


def test_unknown_names_and_kinds_come_with_the_nearest_one():
    registry = load_registry(plugins=False)
    with pytest.raises(UsageError, match=r"there is no loss 'nt_xnt'\. Did you mean 'nt_xent'\?"):
        registry.entry("loss", "nt_xnt")
    with pytest.raises(UsageError, match="Known: shared"):
        registry.entry("target", "qqq")
    with pytest.raises(UsageError, match=r"Did you mean 'loss'\?"):
        registry.entry("losss", "nt_xent")
    with pytest.raises(UsageError, match="The kinds are dataset"):
        registry.names("q")


def test_plugin_list_shows_where_each_comes_from(plugins, capsys):
    install(plugins, "good-plugin", GOOD)
    install(plugins, "broken-import", "1 / 0\n")
    assert main(["plugin", "list", "--json"]) == 0
    paths = {plugin["name"]: Path(plugin["path"]) for plugin in json.loads(capsys.readouterr().out)}
    assert paths.pop(CORE).is_file()
    assert paths == {
        name: plugins / f"{name.replace('-', '_')}.py" for name in ("good-plugin", "broken-import")
    }
    assert main(["plugin", "list"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"good-plugin 1.2 parts loss: fine, loss: fine_too file {plugins / 'good_plugin.py'}" in text
    assert "broken-import 1.2 parts none problem cannot import broken_import (ZeroDivisionError" in text
    assert f"file {plugins / 'broken_import.py'}" in text


def test_a_part_of_an_absent_plugin_says_how_to_install_it(plugins):
    with pytest.raises(PluginError, match="not installed: pip install contrastive-moco"):
        load_registry(plugins=False).entry("negatives", "queue")
    install(plugins, "contrastive-moco", "import a_module_that_nobody_has\n", "0.9")
    with pytest.raises(PluginError, match=r"contrastive-moco 0\.9, which is broken: cannot import"):
        load_registry().entry("negatives", "queue")


HOOK = "from contrastive.kinds import hookimpl\n@hookimpl\ndef register_loss(register): "

#: case -> (distributions and their modules, the loss that a recipe names, exit code, what is said of it)
NAMED = {
    "fails at import": (
        {"broken-import": BROKEN["broken-import"][0]},
        "mine",
        2,
        "there is no loss 'mine'. Did you mean 'margin'? Note: broken-import 1.2 is broken: "
        "cannot import broken_import (ModuleNotFoundError",
    ),
    "fails at import, a plugin known to us": (
        {"contrastive-negatives": "1 / 0\n"},
        "dcl",
        3,
        "loss 'dcl' comes with the plugin contrastive-negatives 1.2, which is broken: cannot import",
    ),
    "wrong hook name": (
        {"broken-hook": BROKEN["broken-hook"][0]},
        "mine",
        2,
        "Note: broken-hook 1.2 is broken: there is no hook 'register_lss'. Did you mean 'register_loss'?",
    ),
    "wrong hook argument": (
        {"broken-argument": BROKEN["broken-argument"][0]},
        "mine",
        2,
        "Note: broken-argument 1.2 is broken: cannot be registered",
    ),
    "no part": (
        {"broken-part": BROKEN["broken-part"][0]},
        "x",
        3,
        "loss 'x' cannot be used; broken-part 1.2: loss 'x': give a class or a reference",
    ),
    "duplicate of another plugin's name": (
        {"broken-one": HOOK + "register('mine', 'a:B')", "broken-two": HOOK + "register('mine', 'a:B')"},
        "mine",
        3,
        "loss 'mine' cannot be used; broken-two 1.2: loss 'mine' is also registered by broken-one 1.2; "
        "uninstall one",
    ),
    "too new": ({"broken-new": BROKEN["broken-new"][0]}, "newer", 3, BROKEN["broken-new"][1]),
    "too old": ({"broken-old": BROKEN["broken-old"][0]}, "older", 3, BROKEN["broken-old"][1]),
    "no interface version": ({"broken-api": BROKEN["broken-api"][0]}, "texts", 3, BROKEN["broken-api"][1]),
}


@pytest.mark.parametrize("case", NAMED)
def test_a_broken_plugin_stops_only_a_recipe_that_names_its_part(case, plugins, tiny_recipe, capsys):
    installed, name, code, said = NAMED[case]
    for distribution, text in installed.items():
        install(plugins, distribution, text)
    assert main(["check", str(tiny_recipe)]) == 0
    capsys.readouterr()
    assert main(["check", str(tiny_recipe), "--set", f"loss={name}"]) == code
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert main(["plugin", "list", "--json"]) == 0
    listed = {plugin["name"]: plugin for plugin in json.loads(capsys.readouterr().out)}
    for distribution in installed:
        assert listed[distribution]["version"] == "1.2"
        assert listed[distribution]["problems"]


def test_a_built_in_part_stays_where_a_plugin_takes_its_name(plugins, tiny_recipe):
    install(plugins, "broken-duplicate", BROKEN["broken-duplicate"][0])
    assert main(["check", str(tiny_recipe), "--set", "loss=nt_xent"]) == 0


def test_a_name_that_three_plugins_take_is_nobodys(plugins):
    for number in ("one", "two", "three"):
        install(plugins, f"broken-{number}", HOOK + "register('mine', 'a:B'); register('own', 'a:B')\n")
    registry = load_registry()
    assert "mine" not in registry.names("loss")
    reported = {problem.plugin for problem in registry.problems if problem.part == ("loss", "mine")}
    assert reported == {"broken-one", "broken-two", "broken-three"}


def test_the_parts_of_an_unfit_plugin_are_not_registered_whatever_its_hooks_do(plugins):
    install(plugins, "broken-new", f"contrastive_api = 99\n{HOOK}register('newer', 1, 'more')\n")
    registry = load_registry()
    assert registry.names("loss") == load_registry(plugins=False).names("loss")
    with pytest.raises(UsageError, match=r"Note: broken-new 1\.2 is broken: was written for interface 99"):
        registry.entry("loss", "newer")


def test_a_plugin_of_this_interface_is_taken(plugins):
    install(plugins, "good-plugin", f"contrastive_api = {API_VERSION}\n{GOOD}")
    registry = load_registry()
    assert not [problem for problem in registry.problems if problem.plugin == "good-plugin"]
    assert registry.entry("loss", "fine").load()


def test_an_installed_but_old_plugin_is_to_be_upgraded(plugins):
    install(plugins, "contrastive-moco", "", "0.1")
    with pytest.raises(PluginError, match="pip install --upgrade contrastive-moco"):
        load_registry().entry("negatives", "queue")


def test_a_registry_is_a_value():
    class Plugin:
        @hookimpl
        def register_head(self, register):
            register("own", "somewhere:Head")

    mine, other = Registry(), Registry()
    mine.add(Plugin(), "mine", "1")
    assert mine.names("head") == ["own"]
    assert other.names("head") == []
