"""The registry: which part of which kind goes by which name, and who provides it.

A registry is a value that is built (:func:`load_registry`) and passed, never a module global.
Registering imports no part: an :class:`Entry` keeps a reference and :meth:`Entry.load` imports it.
Each plugin is loaded on its own, so a broken one is recorded as a :class:`Problem` and stops only a
recipe that names one of its parts.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import pluggy

from contrastive import builtins, hookspecs
from contrastive.errors import PluginError, UsageError, did_you_mean
from contrastive.kinds import GROUP, KINDS

CORE = "contrastive-framework"

#: (kind, name) -> the plugin that brings it, for parts a user may know from papers or from our recipes.
KNOWN_PLUGINS: dict[tuple[str, str], str] = {
    ("negatives", "queue"): "contrastive-moco",
    ("target", "shuffle_bn"): "contrastive-moco",
    ("loss", "regression"): "contrastive-byol",
    ("augmentation", "byol"): "contrastive-byol",
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
            raise self.broken(f"cannot import {self.reference} ({_said(error)})") from error


@dataclass(frozen=True)
class Problem:
    """What is wrong with an installed plugin."""

    plugin: str
    version: str
    reason: str

    def __str__(self) -> str:
        return f"{self.plugin} {self.version}: {self.reason}"


@dataclass(frozen=True)
class Plugin:
    """An installed plugin: its distribution, version, the hooks it implements and the parts it brings."""

    name: str
    version: str
    hooks: tuple[str, ...] = ()
    parts: tuple[tuple[str, str], ...] = ()  # (kind, name)


@dataclass
class Registry:
    """Parts by kind and name, the plugins they come from, and what is wrong with those."""

    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
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

        Raises PluginError, with how to install it, where a plugin known to us would bring it, and
        UsageError, with the nearest name, where nobody knows it.
        """
        self._check_kind(kind)
        if (kind, name) in self.entries:
            return self.entries[kind, name]
        if plugin := KNOWN_PLUGINS.get((kind, name)):
            raise PluginError(self._absent(kind, name, plugin))
        known = ", ".join(self.names(kind)) or "none is installed"
        raise UsageError(
            f"there is no {kind} '{name}'.{did_you_mean(name, self.names(kind)) or f' Known: {known}.'}"
        )

    def add(self, plugin: Any, name: str, version: str) -> None:
        """Register what the hooks of ``plugin`` (a module or object) bring; what fails is a Problem."""
        manager = pluggy.PluginManager(GROUP)  # one each: whatever this plugin does, the others never see it
        manager.add_hookspecs(hookspecs)

        def report(reason: str) -> None:
            self.problems.append(Problem(name, version, reason))

        try:
            manager.register(plugin)
        except Exception as error:  # pluggy refuses a hook with unknown arguments; a plugin object may raise
            report(f"cannot be registered ({_said(error)})")
            self.plugins.append(Plugin(name, version))
            return
        for unknown in _unknown_hooks(manager):
            report(f"there is no hook '{unknown}'.{did_you_mean(unknown, map('register_{}'.format, KINDS))}")
        hooks: list[str] = []
        parts: list[tuple[str, str]] = []
        for kind in KINDS:
            hook = getattr(manager.hook, f"register_{kind}")
            if not hook.get_hookimpls():
                continue
            hooks.append(hook.name)
            try:
                hook(register=self._register(kind, name, version, parts, report))
            except (Exception, SystemExit) as error:
                report(f"{hook.name} failed ({_said(error)})")
        self.plugins.append(Plugin(name, version, tuple(hooks), tuple(parts)))

    def _register(
        self,
        kind: str,
        plugin: str,
        version: str,
        parts: list[tuple[str, str]],
        report: Callable[[str], None],
    ) -> hookspecs.Register:
        def register(name: str, part: Any) -> None:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                report(f"{kind} {name!r}: a name is lower-case letters, digits and '_'")
            elif not (isinstance(part, type) or (isinstance(part, str) and _REFERENCE.fullmatch(part))):
                report(f"{kind} '{name}': give a class or a reference \"package.module:Class\", not {part!r}")
            elif earlier := self.entries.get((kind, name)):
                report(f"{kind} '{name}' is {earlier.provider} {earlier.version}'s already, which is kept")
            else:
                self.entries[kind, name] = Entry(kind, name, plugin, version, part)
                parts.append((kind, name))

        return register

    def _absent(self, kind: str, name: str, plugin: str) -> str:
        broken = [problem.reason for problem in self.problems if problem.plugin == plugin]
        if broken:
            return f"{kind} '{name}' comes with the plugin {plugin}, which is broken: {broken[0]}"
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
            registry.problems.append(Problem(name, version, f"cannot import {point.value} ({_said(error)})"))
            registry.plugins.append(Plugin(name, version))
            continue
        registry.add(plugin, name, version)
    return registry


def core_version() -> str:
    """The installed version of this framework; ``unknown`` in a checkout that is not installed."""
    try:
        return metadata.version(CORE)
    except metadata.PackageNotFoundError:
        return "unknown"


def _distribution(point: metadata.EntryPoint) -> tuple[str, str]:
    if point.dist is None:
        return point.name, "unknown"
    return point.dist.name or point.name, point.dist.version or "unknown"  # its metadata may be lost


def _unknown_hooks(manager: pluggy.PluginManager) -> list[str]:
    """Hooks that a plugin implements and nobody specified: all that ``check_pending`` raises for."""
    try:
        manager.check_pending()
    except pluggy.PluginValidationError:
        callers = [caller for name, caller in vars(manager.hook).items() if not name.startswith("_")]
        return [caller.name for caller in callers if not caller.has_spec()]
    return []


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ").splitlines()[0]
