"""What checks run on: a part, built as a recipe would build it, or a plugin as a whole."""

from __future__ import annotations

import importlib
import inspect
import re
import shutil
import sys
import tempfile
import tomllib
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from contrastive.errors import PluginError, RecipeError, UsageError, Where, did_you_mean, one_line
from contrastive.kinds import GROUP
from contrastive.recipe import PartSpec, Recipe, Tree, from_plain, resolve
from contrastive.registry import Entry, Problem, Registry, load_registry
from contrastive.registry import builtin_parts as builtins
from contrastive.testing.framework import PLUGIN, fail
from contrastive.testing.surroundings import fixed_seed
from contrastive.versions import CORE, core_version

#: What the builder offers: pictures of 32 x 32 RGB pixels, vectors of width 8, and patches of 2 x 2 pixels.
IN_CHANNELS, IMAGE_SIZE, IN_FEATURES, PATCH = 3, 32, 8, 2
OFFERS = {
    "in_channels": IN_CHANNELS,
    "image_size": IMAGE_SIZE,
    "in_features": IN_FEATURES,
    "out_features": IN_FEATURES,
    "patch_size": PATCH,
}

#: Recipe parameters of a part under test, or a function that gives them and writes the files they name.
Params = Mapping[str, Any] | Callable[[Path], Mapping[str, Any]] | None

#: A minimal recipe; the part under test replaces its counterpart.
_FRAME: dict[str, Any] = {
    "name": "conformance",
    "dataset": "fashion_mnist_sample",
    "augmentation": "flip",
    "head": "none",
    "loss": "nt_xent",
    "evaluate": {"knn": {}},
}


class Subject:
    """A registered part and the recipe parameters to build it with.

    Args:
        entry: the part.
        registry: resolves parts inside its parameters.
        params: recipe parameters, or a function from an empty folder to them; None for the part's own
            ``example``.
    """

    def __init__(self, entry: Entry, registry: Registry, params: Params = None):
        self.entry, self.registry, self.kind = entry, registry, entry.kind
        self.title = f"{entry.kind} {entry.name}"
        self._params = params

    @cached_property
    def part_class(self) -> Any:
        """The part's class. Raises PluginError if it cannot be imported."""
        return self.entry.load()

    @property
    def unchecked(self) -> Mapping[str, str]:
        """Checks that the class cannot pass by design, with reasons: ``unchecked = {"gradients": "..."}``."""
        try:
            return getattr(self.part_class, "unchecked", {})
        except PluginError:
            return {}

    @property
    def source(self) -> str | None:
        """The file that the class is written in."""
        try:
            return inspect.getfile(self.part_class)
        except (PluginError, OSError, TypeError):
            return None

    @cached_property
    def folder(self) -> Path:
        """A folder for the files that the example's parameters name; deleted with this subject."""
        folder = tempfile.mkdtemp(prefix="contrastive-conformance-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    @cached_property
    def params(self) -> dict[str, Any]:
        """The recipe parameters that the part is built with."""
        make = self.part_class.example if self._params is None else self._params
        return dict(make(self.folder) if callable(make) else make)

    @cached_property
    def recipe(self) -> Recipe:
        """A recipe that names this part with its parameters."""
        return recipe_of(self.entry, self.params, self.registry)

    @cached_property
    def spec(self) -> PartSpec:
        """The part as a recipe names it, every default filled in."""
        return part_of(self.recipe, self.kind)

    def part(self, seed: int = 0, **offers: Any) -> Any:
        """A fresh instance, with weights that belong to ``seed``."""
        with fixed_seed(seed):
            return self.spec.build(**{**OFFERS, **offers})


def recipe_of(entry: Entry, params: Mapping[str, Any], registry: Registry) -> Recipe:
    """A recipe that names ``entry`` with ``params``. Raises CheckFailed with every mistake."""
    part = {"name": entry.name, **params}
    keys: dict[str, Any] = {
        "protocol": {"evaluate": {entry.name: dict(params)}},
        "callback": {"callbacks": [part]},
    }
    tree = {**_FRAME, **keys.get(entry.kind, {entry.kind: part})}
    try:
        return resolve(Tree(from_plain(tree, Where("example"))), registry)
    except RecipeError as error:
        mistakes = "; ".join(f"{mistake.path}: {mistake.message}" for mistake in error.mistakes)
        fail(
            f"a recipe with the parameters {dict(params)} is invalid ({mistakes}); "
            "return valid parameters from the class method example(folder)"
        )


def part_of(recipe: Recipe, kind: str) -> PartSpec:
    """The part of that kind which a recipe of :func:`recipe_of` names."""
    finders: dict[str, Callable[[], PartSpec]] = {
        "loss": lambda: recipe.losses[0].part,
        "negatives": lambda: recipe.negatives[0],
        "callback": lambda: recipe.callbacks[0],
        "protocol": lambda: next(iter(recipe.evaluate.protocols.values())).part,
    }
    return finders[kind]() if kind in finders else getattr(recipe, kind)


@dataclass
class PluginSubject:
    """A plugin as a whole.

    Attributes:
        name, version: of its distribution (of its module, if it is not a distribution).
        module: the module or object with its hooks, or None if it could not be imported.
        registry: built-in parts, its own and, if it is installed, those of every installed plugin.
    """

    name: str
    version: str
    module: Any
    registry: Registry
    kind: str = PLUGIN

    @property
    def unchecked(self) -> Mapping[str, str]:
        return {}

    @property
    def source(self) -> str | None:
        return getattr(self.module, "__file__", None)

    @property
    def title(self) -> str:
        return f"plugin {self.name}"

    @property
    def entries(self) -> list[Entry]:
        """The parts it brings."""
        return [entry for entry in self.registry if entry.provider == self.name]

    @property
    def problems(self) -> list[Problem]:
        return [problem for problem in self.registry.problems if problem.plugin == self.name]


def subject_of(part: type | Entry, params: Params = None) -> Subject:
    """A part by its class, or by its entry in the registry of every installed plugin.

    Raises UsageError for a class that has no kind.
    """
    if isinstance(part, Entry):
        return Subject(part, load_registry(), params)
    kind = getattr(part, "kind", None)
    if not isinstance(kind, str):
        raise UsageError(f"{part.__name__} is not a part; derive it from a base class of contrastive.parts.")
    registry = load_registry(plugins=False)
    entry = Entry(kind, _snake(part.__name__), part.__module__, "unknown", part)
    registry.entries[kind, entry.name] = entry
    return Subject(entry, registry, params)


def plugin_of(plugin: Any) -> PluginSubject:
    """A plugin by the name of its distribution, the path of its folder, or as a module or object.

    Raises UsageError if there is no such plugin.
    """
    if not isinstance(plugin, str | Path):
        name = getattr(plugin, "__name__", type(plugin).__name__)
        return _from_module(name, str(getattr(plugin, "__version__", "unknown")), plugin)
    if Path(plugin).is_dir():
        return _from_folder(Path(plugin).resolve())
    return _from_installed(str(plugin))


def _from_installed(name: str) -> PluginSubject:
    if _normal(name) == _normal(CORE):
        return PluginSubject(CORE, core_version(), builtins, load_registry(plugins=False))
    entry_points = {point.dist.name: point for point in metadata.entry_points(group=GROUP) if point.dist}
    for distribution, point in entry_points.items():
        if _normal(distribution) == _normal(name):
            assert point.dist is not None
            module = _load(point)
            return PluginSubject(distribution, point.dist.version, module, load_registry())
    installed_names = ", ".join(sorted(entry_points)) or "none"
    raise UsageError(
        f"no plugin '{name}' is installed, and there is no such folder.{did_you_mean(name, entry_points)} "
        f"Installed: {installed_names}."
    )


def _from_folder(folder: Path) -> PluginSubject:
    """The plugin whose sources are at ``folder``, installed or not."""
    pyproject = folder / "pyproject.toml"
    if not pyproject.is_file():
        raise UsageError(f"{folder} has no pyproject.toml; name the folder of a plugin's package.")
    try:
        project = tomllib.loads(pyproject.read_text("utf-8")).get("project", {})
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{pyproject}: {error}.") from error
    points = project.get("entry-points", {}).get(GROUP, {})
    if not points:
        raise UsageError(f"{pyproject} has no table [project.entry-points.{GROUP}] that names its module.")
    name, version = str(project.get("name", folder.name)), str(project.get("version", "unknown"))
    for root in (folder, folder / "src"):  # stays: the parts' processes import from there too
        if root.is_dir() and str(root) not in sys.path:
            sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    value = next(iter(points.values()))
    return _from_module(name, version, _load(metadata.EntryPoint(name, value, GROUP)), value)


def _from_module(name: str, version: str, module: Any, value: str = "") -> PluginSubject:
    """A plugin that need not be installed, with the built-in parts and no other plugin."""
    registry = load_registry(plugins=False)
    if isinstance(module, Exception):
        registry.problems.append(Problem(name, version, f"cannot import {value} ({one_line(module)})"))
    else:
        registry.add(module, name, version)
    return PluginSubject(name, version, None if isinstance(module, Exception) else module, registry)


def _load(point: metadata.EntryPoint) -> Any:
    """What an entry point names, or the exception of its import, which is the plugin's and is reported."""
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        return error if isinstance(error, Exception) else PluginError(f"it calls sys.exit({error})")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
