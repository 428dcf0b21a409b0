"""The registry: parts by kind and name, and the plugins that provide them.

A registry is a value that is built (:func:`load_registry`) and passed on, never a module global.
Registering a part does not import it: an :class:`Entry` keeps a reference, which :meth:`Entry.load` imports.
Each plugin is loaded separately. A broken one is recorded as a :class:`Problem` and stops only the recipes
that name one of its parts.
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

#: (kind, name) -> the plugin that provides it, for parts that users may know from papers or from our recipes.
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
    ("negatives", "mochi"): "contrastive-negatives",
    ("negatives", "guided"): "contrastive-negatives",
    ("augmentation", "mask_patches"): "contrastive-masked",
    ("augmentation", "mask_blocks"): "contrastive-masked",
    ("augmentation", "mask_targets"): "contrastive-masked",
    ("head", "decoder"): "contrastive-masked",
    ("head", "positional"): "contrastive-masked",
    ("head", "feature_decoder"): "contrastive-masked",
    ("target", "own_pixels"): "contrastive-masked",
    ("loss", "mse"): "contrastive-masked",
    ("loss", "l1"): "contrastive-masked",
    ("loss", "smooth_l1"): "contrastive-masked",
    ("head", "dino"): "contrastive-clusters",
    ("loss", "dino"): "contrastive-clusters",
    ("loss", "msn"): "contrastive-clusters",
    ("loss", "swav"): "contrastive-clusters",
    ("loss", "deepcluster_v2"): "contrastive-clusters",
    ("loss", "vicreg"): "contrastive-decorrelation",
    ("loss", "koleo"): "contrastive-decorrelation",
    ("loss", "gram"): "contrastive-decorrelation",
    ("loss", "vibcreg"): "contrastive-decorrelation",
    ("loss", "barlow_twins"): "contrastive-decorrelation",
    ("loss", "tico"): "contrastive-decorrelation",
    ("loss", "w_mse"): "contrastive-decorrelation",
    ("loss", "frossl"): "contrastive-decorrelation",
    ("loss", "mmcr"): "contrastive-decorrelation",
    ("loss", "emp_ssl"): "contrastive-decorrelation",
    ("loss", "lejepa"): "contrastive-decorrelation",
    ("loss", "visreg"): "contrastive-decorrelation",
    ("head", "subvector"): "contrastive-decorrelation",
    ("head", "iter_norm"): "contrastive-decorrelation",
    ("target", "neighbours"): "contrastive-neighbours",
    ("loss", "msf"): "contrastive-neighbours",
    ("loss", "ressl"): "contrastive-neighbours",
    ("loss", "centroid"): "contrastive-neighbours",
    ("loss", "redundancy"): "contrastive-neighbours",
}

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Entry:
    """A registered part: its kind, its name in recipes, its provider and its class or a reference to it."""

    kind: str
    name: str
    provider: str
    version: str
    reference: str | type

    def load(self) -> type:
        """The part's class. Raises PluginError, which names plugin and version, if it cannot be loaded."""
        part = self._import() if isinstance(self.reference, str) else self.reference
        if not isinstance(part, type):
            raise self.plugin_error(f"{self.reference} is not a class")
        kind = getattr(part, "kind", None)
        if kind != self.kind:
            base = f"contrastive.parts.{self.kind.capitalize()}"
            raise self.plugin_error(f"{part.__module__}.{part.__qualname__} does not derive from {base}")
        return part

    def plugin_error(self, reason: str) -> PluginError:
        """An error that names this part, its plugin and version, and what is wrong with it."""
        return PluginError(f"{self.provider} {self.version}: {self.kind} '{self.name}': {reason}.")

    def _import(self) -> Any:
        module, _, attribute = str(self.reference).partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:  # third-party code may raise anything
            raise self.plugin_error(f"cannot import {self.reference} ({one_line(error)})") from error


@dataclass(frozen=True)
class Problem:
    """What is wrong with an installed plugin, or with one of its parts (kind, name)."""

    plugin: str
    version: str
    reason: str
    part: tuple[str, str] | None = None

    def __str__(self) -> str:
        return f"{self.plugin} {self.version}: {self.reason}"


@dataclass(frozen=True)
class Plugin:
    """An installed plugin: its distribution, version and file, its hooks and the parts it provides."""

    name: str
    version: str
    path: str  # of the module that holds its hooks; empty if the module has no file
    hooks: tuple[str, ...] = ()
    parts: tuple[tuple[str, str], ...] = ()  # (kind, name)


@dataclass
class Registry:
    """Parts by kind and name, the plugins they come from, and the problems of these plugins.

    ``unavailable`` maps parts of installed plugins that cannot be used, as (kind, name), to the reason.
    """

    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    unavailable: dict[tuple[str, str], Problem] = field(default_factory=dict)
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

        Raises:
            PluginError: the part of an installed plugin cannot be used, or the plugin that provides it is not
                installed; the message holds the reason, or the command that installs it.
            UsageError: the name is unknown; the message suggests the nearest one.
        """
        self._check_kind(kind)
        if (kind, name) in self.entries:
            return self.entries[kind, name]
        if problem := self.unavailable.get((kind, name)):
            raise PluginError(f"{kind} '{name}' cannot be used; {problem}")
        if plugin := KNOWN_PLUGINS.get((kind, name)):
            raise PluginError(self._absent(kind, name, plugin))
        known_names = ", ".join(self.names(kind)) or "none is installed"
        hint = did_you_mean(name, self.names(kind)) or f" Known: {known_names}."
        raise UsageError(f"there is no {kind} '{name}'.{hint}{self._broken_note()}")

    def owner(self, kind: str, name: str) -> str | None:
        """The plugin that provides a part, even if the part is unavailable or the plugin not installed."""
        key = (kind, name)
        if key in self.entries:
            return self.entries[key].provider
        return self.unavailable[key].plugin if key in self.unavailable else KNOWN_PLUGINS.get(key)

    def add(self, plugin: Any, name: str, version: str) -> None:
        """Register the parts of a plugin, a module or object with hooks. Failures become problems."""
        manager = pluggy.PluginManager(GROUP)  # one per plugin, so that plugins cannot affect one another
        manager.add_hookspecs(hookspecs)
        path = str(getattr(plugin, "__file__", None) or "")

        def report(reason: str, part: tuple[str, str] | None = None) -> Problem:
            self.problems.append(Problem(name, version, reason, part))
            return self.problems[-1]

        try:
            misfit = interface_misfit(plugin, name)
            manager.register(plugin)
        except Exception as error:  # pluggy rejects hooks with unknown arguments; a plugin object may raise
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
        for kind, hook in _implemented_hooks(manager):
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
                self.unavailable.setdefault(key, report(f"{kind} '{name}': {hint}", key))
            elif earlier := self.entries.get(key):
                self._contest(earlier, plugin, version, report)
            elif rival := self.unavailable.get(key):
                report(_also_registered(kind, name, f"{rival.plugin} {rival.version}"), key)
            else:
                self.entries[key] = Entry(kind, name, plugin, version, part)
                parts.append(key)

        return register

    def _contest(
        self, earlier: Entry, plugin: str, version: str, report: Callable[[str, tuple[str, str]], Problem]
    ) -> None:
        """A name registered twice: a built-in part stays, and of two plugins neither is chosen."""
        key = (earlier.kind, earlier.name)
        owner, rival = f"{earlier.provider} {earlier.version}", f"{plugin} {version}"
        if earlier.provider == CORE:
            report(f"{earlier.kind} '{earlier.name}' is a built-in part of {owner}, which stays in use", key)
            return
        self.unavailable[key] = report(_also_registered(*key, owner), key)
        if rival != owner:
            reason = _also_registered(*key, rival)
            self.problems.append(Problem(earlier.provider, earlier.version, reason, key))
        del self.entries[key]

    def _withhold_all(self, manager: pluggy.PluginManager, problem: Problem) -> None:
        """Record the parts of an incompatible plugin, so that a recipe that names one gets the reason."""

        def register_of(kind: str) -> hookspecs.Register:
            def register(name: str, part: Any) -> None:
                self.unavailable.setdefault((kind, name), problem)

            return register

        for kind, hook in _implemented_hooks(manager):
            with suppress(Exception, SystemExit):  # its hooks may need what another interface provides
                hook(register=register_of(kind))

    def _broken_note(self) -> str:
        """The plugins that are broken as a whole: one of them may provide the unknown part."""
        whole = [problem for problem in self.problems if problem.part is None]
        first = {problem.plugin: problem for problem in reversed(whole)}
        broken_plugins = [f"{p.plugin} {p.version} is broken: {p.reason}" for p in reversed(first.values())]
        return f" Note: {'; '.join(broken_plugins)}" if broken_plugins else ""

    def _absent(self, kind: str, name: str, plugin: str) -> str:
        own_problems = [problem for problem in self.problems if problem.plugin == plugin]
        if own_problems:
            title = f"{plugin} {own_problems[0].version}"
            return f"{kind} '{name}' comes with the plugin {title}, which is broken: {own_problems[0].reason}"
        if any(installed_plugin.name == plugin for installed_plugin in self.plugins):
            return f"{kind} '{name}' comes with a newer {plugin}: pip install --upgrade {plugin}"
        return f"{kind} '{name}' comes with the plugin {plugin}, which is not installed: pip install {plugin}"

    def _check_kind(self, kind: str) -> None:
        if kind not in KINDS:
            kinds = f" The kinds are {', '.join(KINDS)}."
            raise UsageError(f"there is no kind of part '{kind}'.{did_you_mean(kind, KINDS) or kinds}")


def load_registry(plugins: bool = True) -> Registry:
    """Built-in parts and, with ``plugins``, those of the installed entry points of group ``contrastive``."""
    registry = Registry()
    registry.add(builtins, CORE, core_version())
    if not plugins:
        return registry
    points = [(*_distribution(point), point) for point in metadata.entry_points(group=GROUP)]
    for name, version, point in sorted(points, key=lambda each: (each[0], each[1], each[2].name)):
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
    about = point.dist.metadata  # parsed at each access
    return about["Name"] or point.name, about["Version"] or "unknown"  # its metadata may be missing


def _file_of(module: str) -> str:
    """The file of a module that cannot be imported; empty if there is none."""
    with suppress(Exception, SystemExit):  # finding a submodule imports its package
        spec = importlib.util.find_spec(module)
        return (spec and spec.origin) or ""
    return ""


def interface_misfit(plugin: Any, name: str) -> str:
    """Why the interface that a plugin declares (``contrastive_api``) is not supported; empty if it is."""
    version = getattr(plugin, "contrastive_api", API_VERSION)
    if not isinstance(version, int) or isinstance(version, bool):
        return f"contrastive_api must be an integer, such as {API_VERSION}, not {version!r}"
    if OLDEST_API_VERSION <= version <= API_VERSION:
        return ""
    ours = f"this {CORE} {core_version()}"
    if version > API_VERSION:
        return f"was written for interface {version}, {ours} has {API_VERSION}; upgrade {CORE}"
    oldest = f"{ours} has {API_VERSION} and supports {OLDEST_API_VERSION} at the oldest"
    return f"was written for interface {version}, {oldest}; upgrade {name}"


def _also_registered(kind: str, name: str, owner: str) -> str:
    return f"{kind} '{name}' is also registered by {owner}; uninstall one of them"


def _implemented_hooks(manager: pluggy.PluginManager) -> Iterator[tuple[str, pluggy.HookCaller]]:
    """(kind, hook) of the hooks that the one plugin of ``manager`` implements."""
    for kind in KINDS:
        hook = getattr(manager.hook, f"register_{kind}")
        if hook.get_hookimpls():
            yield kind, hook


def _unknown_hooks(manager: pluggy.PluginManager) -> list[str]:
    """Hooks that a plugin implements without a specification: all that ``check_pending`` raises for."""
    try:
        manager.check_pending()
    except pluggy.PluginValidationError:
        callers = [caller for name, caller in vars(manager.hook).items() if not name.startswith("_")]
        return [caller.name for caller in callers if not caller.has_spec()]
    return []
