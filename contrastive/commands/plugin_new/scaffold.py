"""``contrastive plugin new``: creates a package with one working part, its tests and a recipe.

The templates are plain files in ``templates``. ``<kind>.py.txt`` is the module, ``<kind>_test.py.txt`` the
test of what the part does; the others are the same for every kind.
"""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from string import Template

from contrastive.errors import UsageError
from contrastive.files import writable_by_user
from contrastive.kinds import KINDS
from contrastive.registry import KNOWN_PLUGINS, Registry, load_registry
from contrastive.versions import CORE

#: kind -> the line by which a recipe that extends the shipped ``simclr`` uses the part.
RECIPES: dict[str, str] = {
    "dataset": "dataset: $part",
    "augmentation": "augmentation: [{name: random_resized_crop, size: 28, scale: [0.3, 1.0]}, flip, $part]",
    "backbone": "backbone: $part",
    "head": "head: $part",
    "target": "target: $part",
    "negatives": "negatives: [in_batch, $part]",
    "loss": "loss: $part",
    "optimizer": "optimizer: $part",
    "callback": "callbacks: [$part]",
    "protocol": "evaluate: {$part: {}}",
}

_TEMPLATES = Path(__file__).with_name("templates")
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
#: Words that mean something else in a package or a recipe.
_RESERVED_NAMES = {"tests", "none", "null", "true", "false", "every", "contrastive"}


@dataclass(frozen=True)
class Names:
    """The names of a new plugin and its part.

    Attributes:
        name: the distribution, ``contrastive-my-loss``.
        kind: the kind of the part, ``loss``.
        module: the module, ``contrastive_my_loss``.
        part: the part in recipes, ``my_loss``.
        title: the class, ``MyLoss``.
    """

    name: str
    kind: str
    module: str
    part: str
    title: str


def main(arguments: argparse.Namespace) -> int:
    """Write the package and print the next steps."""
    print(create(arguments.name, arguments.kind, load_registry(), arguments.out))
    return 0


def create(name: str, kind: str, registry: Registry, out: str | Path | None = None) -> str:
    """Write a package for one part, and return the next steps as text.

    Args:
        name: the name of the distribution, in the normal form of PEP 503.
        kind: the kind of its part.
        registry: the installed parts, whose names are refused.
        out: the new folder; ``name`` in the current folder if None. It may exist if it is empty.

    Raises:
        UsageError: the name is malformed or exists, the kind is unknown, or the folder is not empty.
            Nothing is written then.
    """
    registry.names(kind)  # raises UsageError for an unknown kind
    names = names_of(name, kind)
    if name in {CORE, *KNOWN_PLUGINS.values()} or _is_installed(names):
        raise UsageError(f"a package named '{name}' exists already; choose another name.")
    if owner := registry.owner(kind, names.part):
        raise UsageError(f"{kind} '{names.part}' is already a part of {owner}; choose another name.")
    folder = Path(name if out is None else out)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not an empty folder; choose another folder with --out.")
    with writable_by_user(folder):
        for path, text in files(names).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    return _next_steps(names, folder)


def files(names: Names) -> dict[str, str]:
    """The files of the package: relative path -> text."""
    words = {
        "name": names.name,
        "kind": names.kind,
        "module": names.module,
        "part": names.part,
        "Class": names.title,
        "what": KINDS[names.kind],
        "recipe": Template(RECIPES[names.kind]).substitute(part=names.part),
    }

    def fill(template: str, **more: str) -> str:
        text = (_TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")
        return Template(text).substitute(words | more)

    behaviour = fill(f"{names.kind}_test.py")
    return {
        "pyproject.toml": fill("pyproject.toml"),
        "README.md": fill("README.md"),
        "recipe.yaml": fill("recipe.yaml"),
        f"{names.module}.py": fill(f"{names.kind}.py"),
        f"tests/test_{names.module}.py": fill("test.py", behaviour=behaviour),
    }


def names_of(name: str, kind: str) -> Names:
    """The names that follow from the name of the distribution. Raises UsageError for a malformed one."""
    normal = re.sub(r"[-_.]+", "-", name).strip("-").lower()
    if not _NAME.fullmatch(name):
        hint = f" Try '{normal}'." if _NAME.fullmatch(normal) else ""
        rule = "a letter, then letters, digits and single hyphens, all lower-case"
        raise UsageError(f"'{name}' is not a valid package name; use {rule}.{hint}")
    module = name.replace("-", "_")
    part = module.removeprefix("contrastive_")
    for word in (module, part):
        if word in _RESERVED_NAMES or keyword.iskeyword(word) or not word[0].isalpha():
            raise UsageError(f"'{word}' cannot name a module and a part; choose another name.")
    if module in sys.stdlib_module_names:
        raise UsageError(f"'{module}' is a module of Python itself; choose another name.")
    return Names(name, kind, module, part, _title(part, kind))


def _is_installed(names: Names) -> bool:
    try:
        return bool(metadata.distribution(names.name))
    except metadata.PackageNotFoundError:
        return importlib.util.find_spec(names.module) is not None


def _title(part: str, kind: str) -> str:
    """The name of the class: ``my_loss`` -> ``MyLoss``; ``LossPart`` if the module already uses ``Loss``."""
    title = "".join(word.capitalize() for word in part.split("_"))
    template_code = "".join((_TEMPLATES / f"{kind}{end}.py.txt").read_text() for end in ("", "_test"))
    return f"{title}Part" if re.search(rf"\b{title}\b", template_code) else title


def _next_steps(names: Names, folder: Path) -> str:
    recipe = Template(RECIPES[names.kind]).substitute(part=names.part)
    return "\n".join(
        [
            f"{folder}: the {names.kind} '{names.part}', ready to edit in {names.module}.py",
            "",
            f"  cd {folder}",
            "  pip install -e '.[test]'",
            "  pytest",
            f"  contrastive plugin check {names.name}",
            "  contrastive run recipe.yaml",
            "",
            f"In a recipe: {recipe}",
        ]
    )
