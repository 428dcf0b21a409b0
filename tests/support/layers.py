"""The layers of the package and what each may import: one table, read by ``tests/test_architecture.py``."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from import_graph import Package, circles, imports

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "contrastive"

#: The packages that hold the parts of a kind.
KIND_PACKAGES = {
    "augmentations", "backbones", "callbacks", "datasets", "heads", "losses",
    "negatives", "optimizers", "protocols", "targets",
}  # fmt: skip
FRONT_DOOR = {"__init__", "__main__", "cli", "sklearn"}
GROUND = {
    "kinds", "hookspecs", "errors", "values", "rng", "distributed", "device", "files", "text", "versions",
    "monitors", "lazy", "moved", "timm_models", "paths", "convolutions", "schedules", "views",
    "interrupts", "rendezvous", "device_draws", "wait_policy", "freed_memory", "ring", "similarity",
}  # fmt: skip

#: The Python files directly in the package.
ROOT_FILES = FRONT_DOOR | GROUND

#: Layer -> its packages and files, from the ground up. A module imports its own package and lower layers;
#: files of the ground, and those of the front door, also each other. Two tables below allow less.
LAYERS: dict[str, set[str]] = {
    "ground": GROUND,
    "registry": {"registry"},
    "recipe": {"recipe"},
    "comparison": {"comparison"},
    "parts": {"parts"},
    "backbones": {"backbones"},
    "the kinds": KIND_PACKAGES - {"backbones"},
    "data": {"data"},
    "training": {"training"},
    "evaluation": {"evaluation"},
    "build": {"build"},
    "runs": {"runs"},
    "curation": {"curation"},
    "pages": {"pages"},
    "testing": {"testing"},
    "commands": {"commands"},
    "front door": FRONT_DOOR,
}

#: Package or module -> the only ones that may import it, if the layers alone would allow more.
IMPORTERS: dict[str, set[str]] = {
    "registry": {"recipe", "build", "runs", "curation", "commands", "testing", *FRONT_DOOR},
    "recipe": {"build", "runs", "curation", "commands", "testing", *FRONT_DOOR},
    "timm_models": {"backbones", "testing"},
    # they stand on everything
    "testing": {"commands.plugin_check", "cli"},
    "pages": {"commands"},
    "commands.compare": {"cli"},
    # who only profiles or evaluates starts from runs.assembly and runs.reload
    "runs.job": {"commands.run", *FRONT_DOOR},
    "cli": {"__main__"},
}

#: What any module may import, in addition to the next table.
COMMON = {"text", "lazy", "moved"}
#: Package or module -> the only ones that it may import, if the layers alone would allow more.
IMPORTS: dict[str, set[str]] = {
    "kinds": set(),
    "errors": set(),
    "rng": set(),
    "monitors": set(),
    "files": {"errors"},
    "paths": {"errors"},
    "values": {"kinds", "errors"},
    "hookspecs": {"kinds"},
    "distributed": {"errors", "rendezvous"},
    "rendezvous": set(),
    "wait_policy": set(),
    "freed_memory": set(),
    "device_draws": {"rng"},
    "interrupts": {"errors"},
    "schedules": {"kinds", "values"},
    "views": {"device", "errors"},
    "comparison": {"errors", "values", "distributed"},
    "parts": {"kinds", "errors", "values", "rng", "views", "comparison"},
    **{
        package: {"comparison", "parts", *GROUND} - {"hookspecs", "device", "files", "versions"}
        for package in KIND_PACKAGES - {"augmentations", "targets"}
    },
    "augmentations": {"comparison", "parts", *GROUND} - {"hookspecs", "files", "versions"},
    # a stock target loads a backbone
    "targets": {"comparison", "parts", "backbones", *GROUND} - {"hookspecs", "device", "files", "versions"},
    "registry": {"kinds", "errors", "hookspecs", "versions"},
    "recipe": {"kinds", "errors", "files", "registry", "paths"},
    "training.method": {
        *{"kinds", "errors", "values", "views", "parts", "comparison", "rng", "training.stages"},
        *{"training.frozen_modules", "training.objective"},
    },
    "training.frozen_modules": {"parts"},
    "training.stages": set(),
    "training.metrics_file": {"distributed", "errors", "files"},
    "runs.display": {"kinds", "runs.phase"},
    "runs.phase": set(),
    # pages show what commands give them
    "pages": {"errors"},
    # it checks every part, and so stands on all that runs one
    "testing": {
        *{"kinds", "errors", "values", "versions", "distributed", "timm_models", "comparison", "parts"},
        *{"registry", "recipe", "augmentations", "heads", "losses", "negatives", "optimizers", "targets"},
        *{"data", "evaluation", "training", "schedules", "views"},
    },
}


def location(module: str) -> str:
    """``contrastive.losses.margin`` -> ``losses.margin``."""
    return module.partition(".")[2] or "__init__"


package = Package(PACKAGE)
#: Location of every module -> its dotted name today.
MODULES = {location(module): module for module in package.files}


@cache
def graph() -> dict[str, set[str]]:
    """Location of every module -> the locations of the modules that it imports; it takes seconds."""
    return {
        location(module): {location(other) for other in others if other in package.files}
        for module, others in package.graph().items()
    }


def path_of(place: str) -> Path:
    return package.files[MODULES[place]]


def layer(place: str) -> str | None:
    """The layer of a location; None if the table has none for it."""
    return next((name for name, tops in LAYERS.items() if top(place) in tops), None)


def top(place: str) -> str:
    """``losses.margin`` -> ``losses``."""
    return place.split(".")[0]


def is_in(place: str, names: set[str]) -> bool:
    """Whether a location is one of ``names`` or inside one."""
    return any(place == name or place.startswith(f"{name}.") for name in names)


def may_import(importer: str, target: str) -> bool:
    """Whether the tables allow a module at one location to import one at another.

    Both locations need a layer.
    """
    for name, importers in IMPORTERS.items():
        if is_in(target, {name}) and not is_in(importer, importers | {name}):
            return False
    for name, targets in IMPORTS.items():
        if is_in(importer, {name}) and not is_in(target, targets | COMMON | {name}):
            return False
    order = list(LAYERS)
    below, above = layer(target), layer(importer)
    same = top(importer) == top(target) or above in {"ground", "front door"}
    return same if below == above else order.index(str(below)) < order.index(str(above))


def lines_of_code(path: Path) -> int:
    """Lines that statements cover, without the docstring, comments and blank lines."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    return len({line for node in body for line in range(node.lineno, (node.end_lineno or 0) + 1)})


def is_door(place: str) -> bool:
    return path_of(place).name == "__init__.py"


def through_own_door(place: str) -> bool:
    """Whether a module imports a name from a package around it, not from the module that defines it."""
    module = MODULES[place]
    doors = {PACKAGE.name, *(module[:end] for end, letter in enumerate(module) if letter == ".")} - {module}
    return any(door in package.targets(line) for line in imports(path_of(place)) for door in doors)


def doors_passed(place: str) -> list[str]:
    """Public names of other packages that a module imports past the door, from where they are defined."""
    return [
        f"{line.module}:{line.name}"
        for line in imports(path_of(place))
        if line.module.startswith(f"{PACKAGE.name}.")
        and line.module.count(".") == 2
        and line.module.split(".")[1] != top(place)
        and f"from .{line.module.rpartition('.')[2]} import {line.name} as {line.name}"
        in stub_of(line.module.rpartition(".")[0]).splitlines()
    ]


def stub_of(package_name: str) -> str:
    """The text of a package's ``__init__.pyi``; empty if it has no door."""
    path = ROOT / package_name.replace(".", "/") / "__init__.pyi"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def violations() -> set[str]:
    """Every violation of the rules in the package, one line each."""
    return {
        *(
            f"import: {importer} -> {target}"
            for importer, targets in graph().items()
            for target in targets
            if not may_import(importer, target)
        ),
        *(f"circle: {place}" for circle in circles(graph()) for place in circle),
        *(f"door: {place}" for place in MODULES if is_door(place) and lines_of_code(path_of(place)) > 2),
        *(f"past a door: {place} <- {name}" for place in MODULES for name in doors_passed(place)),
        *(f"own door: {place}" for place in MODULES if through_own_door(place)),
        *(f"root: {name}.py is missing" for name in ROOT_FILES - root_files()),
        *(f"root: {name}.py is not one of the {len(ROOT_FILES)}" for name in root_files() - ROOT_FILES),
    }


def root_files() -> set[str]:
    return {path.stem for path in PACKAGE.glob("*.py")}
