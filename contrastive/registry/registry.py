"""The registry: which part of which kind goes by which name, and who provides it.

A registry is a value that is built (:func:`load_registry`) and passed, never a module global.
Registering imports no part: an :class:`Entry` keeps a reference and :meth:`Entry.load` imports it.
Each plugin is loaded on its own, so a broken one is recorded as a :class:`Problem` and stops only a
recipe that names one of its parts.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import pluggy

from contrastive import hookspecs
from contrastive.errors import PluginError, UsageError, did_you_mean, one_line
from contrastive.kinds import API_VERSION, GROUP, KINDS, OLDEST_API_VERSION
from contrastive.registry import builtin_parts as builtins
from contrastive.versions import CORE, core_version

#: (kind, name) -> the plugin that brings it, for parts a user may know from papers or from our recipes.
KNOWN_PLUGINS: dict[tuple[str, str], str] = {
    ("negatives", "queue"): "contrastive-moco",
    ("target", "shuffle_bn"): "contrastive-moco",
    ("target", "split_bn"): "contrastive-moco",
    ("loss", "regression"): "contrastive-byol",
    ("augmentation", "byol"): "contrastive-byol",
    ("callback", "collapse_watch"): "contrastive-byol",
    ("loss", "dcl"): "contrastive-negatives",
    ("loss", "debiased"): "contrastive-negatives",
    ("loss", "hard_negative"): "contrastive-negatives",
}

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Entry:
    """A registered part: its kind, its name in recipes, who provides it, and where it is."""

    kind: str
    name: str
    provider: str
    version: str
    reference: str | type

    def load(self) -> type:
        """The part's class. Raises PluginError, naming plugin and version, where it cannot be had."""
        part = self._imported() if isinstance(self.reference, str) else self.reference
        if not isinstance(part, type):
            raise self.broken(f"{self.reference} is not a class")
        found = getattr(part, "kind", None)
        if found != self.kind:
            base = f"contrastive.parts.{self.kind.capitalize()}"
            raise self.broken(f"{part.__module__}.{part.__qualname__} does not derive from {base}")
        return part

    def broken(self, reason: str) -> PluginError:
        """The error that says that this part, of this plugin and version, is at fault."""
        return PluginError(f"{self.provider} {self.version}: {self.kind} '{self.name}': {reason}.")

    def _imported(self) -> Any:
        module, _, attribute = str(self.reference).partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:  # whatever a stranger's module raises, it is that plugin's
            raise self.broken(f"cannot import {self.reference} ({one_line(error)})") from error


@dataclass(frozen=True)
class Problem:
    """What is wrong with an installed plugin, or with one part (kind, name) of it."""

    plugin: str
    version: str
    reason: str
    part: tuple[str, str] | None = None

    def __str__(self) -> str:
        return f"{self.plugin} {self.version}: {self.reason}"


@dataclass(frozen=True)
class Plugin:
    """An installed plugin: its distribution, version and file, its hooks and the parts it brings."""

    name: str
    version: str
    path: str  # of the module that holds its hooks; empty where that is no file
    hooks: tuple[str, ...] = ()
    parts: tuple[tuple[str, str], ...] = ()  # (kind, name)


@dataclass
class Registry:
    """Parts by kind and name, the plugins they come from, and what is wrong with those.

    ``withheld`` holds the parts that installed plugins bring and nobody can have: (kind, name) -> why.
    """

    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    withheld: dict[tuple[str, str], Problem] = field(default_factory=dict)
    plugins: list[Plugin] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries.values())

    def names(self, kind: str) -> list[str]:
        """Names of the parts of a kind, in the order of registration."""
        self._check_kind(kind)
        return [name for of, name in self.entries if of == kind]

    def entry(self, kind: str, name: str) -> Entry:
        """The part of that kind and name.

        Raises PluginError, with the reason or how to install it, where an installed plugin withholds it
        or one known to us would bring it, and UsageError, with the nearest name, where nobody knows it.
        """
        self._check_kind(kind)
        if (kind, name) in self.entries:
            return self.entries[kind, name]
        if problem := self.withheld.get((kind, name)):
            raise PluginError(f"{kind} '{name}' cannot be used; {problem}")
        if plugin := KNOWN_PLUGINS.get((kind, name)):
            raise PluginError(self._absent(kind, name, plugin))
        known = ", ".join(self.names(kind)) or "none is installed"
        hint = did_you_mean(name, self.names(kind)) or f" Known: {known}."
        raise UsageError(f"there is no {kind} '{name}'.{hint}{self._broken_note()}")

    def owner(self, kind: str, name: str) -> str | None:
        """The plugin that has a name: whose part it is, withheld or not, or to whom it is known to belong."""
        key = (kind, name)
        if key in self.entries:
            return self.entries[key].provider
        return self.withheld[key].plugin if key in self.withheld else KNOWN_PLUGINS.get(key)

    def add(self, plugin: Any, name: str, version: str) -> None:
        """Register what the hooks of ``plugin`` (a module or object) bring; what fails is a Problem."""
        manager = pluggy.PluginManager(GROUP)  # one each: whatever this plugin does, the others never see it
        manager.add_hookspecs(hookspecs)
        path = str(getattr(plugin, "__file__", None) or "")

        def report(reason: str, part: tuple[str, str] | None = None) -> Problem:
            self.problems.append(Problem(name, version, reason, part))
            return self.problems[-1]

        try:
            misfit = interface_misfit(plugin, name)
            manager.register(plugin)
        except Exception as error:  # pluggy refuses a hook with unknown arguments; a plugin object may raise
            report(f"cannot be registered ({one_line(error)})")
            self.plugins.append(Plugin(name, version, path))
            return
        if misfit:
            self._withhold_all(manager, report(misfit))
            self.plugins.append(Plugin(name, version, path))
            return
        for unknown in _unknown_hooks(manager):
            report(f"there is no hook '{unknown}'.{did_you_mean(unknown, map('register_{}'.format, KINDS))}")
        hooks: list[str] = []
        parts: list[tuple[str, str]] = []
        for kind, hook in _implemented(manager):
            hooks.append(hook.name)
            try:
                hook(register=self._register(kind, name, version, parts, report))
            except (Exception, SystemExit) as error:
                report(f"{hook.name} failed ({one_line(error)})")
        self.plugins.append(Plugin(name, version, path, tuple(hooks), tuple(parts)))

    def _register(
        self,
        kind: str,
        plugin: str,
        version: str,
        parts: list[tuple[str, str]],
        report: Callable[[str, tuple[str, str]], Problem],
    ) -> hookspecs.Register:
        def register(name: str, part: Any) -> None:
            key = (kind, name)
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                report(f"{kind} {name!r}: a name is lower-case letters, digits and '_'", key)
            elif not (isinstance(part, type) or (isinstance(part, str) and _REFERENCE.fullmatch(part))):
                hint = f'give a class or a reference "package.module:Class", not {part!r}'
                self.withheld.setdefault(key, report(f"{kind} '{name}': {hint}", key))
            elif earlier := self.entries.get(key):
                self._contest(earlier, plugin, version, report)
            elif rival := self.withheld.get(key):
                report(f"{kind} '{name}' is {rival.plugin} {rival.version}'s too; uninstall one of them", key)
            else:
                self.entries[key] = Entry(kind, name, plugin, version, part)
                parts.append(key)

        return register

    def _contest(
        self, earlier: Entry, plugin: str, version: str, report: Callable[[str, tuple[str, str]], Problem]
    ) -> None:
        """A name given twice: a built-in part stays; of two strangers' neither is chosen for the user."""
        key = (earlier.kind, earlier.name)
        taken = f"{earlier.kind} '{earlier.name}' is {earlier.provider} {earlier.version}'s"
        if earlier.provider == CORE:
            report(f"{taken} already, which is kept", key)
            return
        self.withheld[key] = report(f"{taken} too; uninstall one of them", key)
        if (plugin, version) != (earlier.provider, earlier.version):
            reason = f"{earlier.kind} '{earlier.name}' is {plugin} {version}'s too; uninstall one of them"
            self.problems.append(Problem(earlier.provider, earlier.version, reason, key))
        del self.entries[key]

    def _withhold_all(self, manager: pluggy.PluginManager, problem: Problem) -> None:
        """Note which parts an unfit plugin would bring, so that a recipe that names one hears why."""

        def register_of(kind: str) -> hookspecs.Register:
            def register(name: str, part: Any) -> None:
                self.withheld.setdefault((kind, name), problem)

            return register

        for kind, hook in _implemented(manager):
            with suppress(Exception, SystemExit):  # of another interface: its hooks may want what we lack
                hook(register=register_of(kind))

    def _broken_note(self) -> str:
        """Which plugins are broken as a whole: one of them may be what brings a part nobody knows."""
        whole = [problem for problem in self.problems if problem.part is None]
        first = {problem.plugin: problem for problem in reversed(whole)}
        broken = [f"{p.plugin} {p.version} is broken: {p.reason}" for p in reversed(first.values())]
        return f" Note: {'; '.join(broken)}" if broken else ""

    def _absent(self, kind: str, name: str, plugin: str) -> str:
        broken = [problem for problem in self.problems if problem.plugin == plugin]
        if broken:
            title = f"{plugin} {broken[0].version}"
            return f"{kind} '{name}' comes with the plugin {title}, which is broken: {broken[0].reason}"
        if any(installed.name == plugin for installed in self.plugins):
            return f"{kind} '{name}' comes with a newer {plugin}: pip install --upgrade {plugin}"
        return f"{kind} '{name}' comes with the plugin {plugin}, which is not installed: pip install {plugin}"

    def _check_kind(self, kind: str) -> None:
        if kind not in KINDS:
            known = f" The kinds are {', '.join(KINDS)}."
            raise UsageError(f"there is no kind of part '{kind}'.{did_you_mean(kind, KINDS) or known}")


def load_registry(plugins: bool = True) -> Registry:
    """Built-in parts and, with ``plugins``, those of the installed entry points of group ``contrastive``."""
    registry = Registry()
    registry.add(builtins, CORE, core_version())
    if not plugins:
        return registry
    found = metadata.entry_points(group=GROUP)
    for point in sorted(found, key=lambda point: (_distribution(point), point.name)):
        name, version = _distribution(point)
        try:
            plugin = point.load()
        except (Exception, SystemExit) as error:
            problem = f"cannot import {point.value} ({one_line(error)})"
            registry.problems.append(Problem(name, version, problem))
            registry.plugins.append(Plugin(name, version, _file_of(point.module)))
            continue
        registry.add(plugin, name, version)
    return registry


def _distribution(point: metadata.EntryPoint) -> tuple[str, str]:
    if point.dist is None:
        return point.name, "unknown"
    return point.dist.name or point.name, point.dist.version or "unknown"  # its metadata may be lost


def _file_of(module: str) -> str:
    """The file of a module that does not import; empty where there is none."""
    with suppress(Exception, SystemExit):  # to find a submodule its package is imported
        spec = importlib.util.find_spec(module)
        return (spec and spec.origin) or ""
    return ""


def interface_misfit(plugin: Any, name: str) -> str:
    """Why a plugin that says which interface it was written for does not fit this one; empty if it does."""
    spoken = getattr(plugin, "contrastive_api", API_VERSION)
    if not isinstance(spoken, int) or isinstance(spoken, bool):
        return f"contrastive_api must be an integer, such as {API_VERSION}, not {spoken!r}"
    ours = f"this {CORE} {core_version()}"
    if spoken > API_VERSION:
        return f"was written for interface {spoken}, {ours} has {API_VERSION}; upgrade {CORE}"
    if spoken < OLDEST_API_VERSION:
        oldest = f"{ours} has {API_VERSION} and takes {OLDEST_API_VERSION} at the oldest"
        return f"was written for interface {spoken}, {oldest}; upgrade {name}"
    return ""


def _implemented(manager: pluggy.PluginManager) -> Iterator[tuple[str, pluggy.HookCaller]]:
    """(kind, hook) of the hooks that the one plugin of ``manager`` implements."""
    for kind in KINDS:
        hook = getattr(manager.hook, f"register_{kind}")
        if hook.get_hookimpls():
            yield kind, hook


def _unknown_hooks(manager: pluggy.PluginManager) -> list[str]:
    """Hooks that a plugin implements and nobody specified: all that ``check_pending`` raises for."""
    try:
        manager.check_pending()
    except pluggy.PluginValidationError:
        callers = [caller for name, caller in vars(manager.hook).items() if not name.startswith("_")]
        return [caller.name for caller in callers if not caller.has_spec()]
    return []
