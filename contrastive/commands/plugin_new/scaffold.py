"""``contrastive plugin new``: creates a package with working parts, their tests and a recipe.

The templates are plain files in ``templates``. ``<kind>.py.txt`` is the module, ``<kind>_test.py.txt`` the
test of what the part does; the others are the same for every kind. One part is a module. Several are the
modules of a package, each as it would be alone, and ``package.py.txt`` gathers their hooks.
"""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import re
import sys
from collections.abc import Sequence
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

#: In the module of a part that is alone; of several parts only the package declares it.
_DECLARATION = "contrastive_api = 1\n\n"
_TEST_IMPORTS = "import contrastive.testing\nimport pytest\n"
_TEMPLATES = Path(__file__).with_name("templates")
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
#: Words that mean something else in a package or a recipe.
_RESERVED_NAMES = {"tests", "none", "null", "true", "false", "every", "contrastive"}


@dataclass(frozen=True)
class Names:
    """The names of a new plugin and its parts.

    Attributes:
        name: the distribution, ``contrastive-my-loss``.
        kinds: the kinds of its parts, ``("loss",)``.
        module: the module or package, ``contrastive_my_loss``.
        part: every part in recipes, ``my_loss``.
    """

    name: str
    kinds: tuple[str, ...]
    module: str
    part: str

    @property
    def is_package(self) -> bool:
        """Whether it has several parts, each in a module of its own."""
        return len(self.kinds) > 1

    def module_of(self, kind: str) -> str:
        """The module of the part of that kind."""
        return f"{self.module}.{kind}" if self.is_package else self.module

    def title(self, kind: str) -> str:
        """The class of the part: ``MyLoss``, with the kind behind it if there are several;
        ``MyLossPart`` if its module or test already uses that name."""
        title = "".join(word.capitalize() for word in self.part.split("_"))
        title += kind.capitalize() if self.is_package else ""
        template_code = "".join((_TEMPLATES / f"{kind}{end}.py.txt").read_text() for end in ("", "_test"))
        return f"{title}Part" if re.search(rf"\b{title}\b", template_code) else title

    def recipe(self, kind: str) -> str:
        """The line by which a recipe uses the part."""
        return Template(RECIPES[kind]).substitute(part=self.part)


def main(arguments: argparse.Namespace) -> int:
    """Write the package and print the next steps."""
    print(create(arguments.name, arguments.kind, load_registry(), arguments.out))
    return 0


def create(name: str, kinds: str | Sequence[str], registry: Registry, out: str | Path | None = None) -> str:
    """Write a package for one part or several, and return the next steps as text.

    Args:
        name: the name of the distribution, in the normal form of PEP 503.
        kinds: the kind of its part, or the different kinds of its parts.
        registry: the installed parts, whose names are refused.
        out: the new folder; ``name`` in the current folder if None. It may exist if it is empty.

    Raises:
        UsageError: the name is malformed or exists, a kind is unknown or named twice, or the folder is not
            empty. Nothing is written then.
    """
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    for kind in kinds:
        registry.names(kind)  # raises UsageError for an unknown kind
        if kinds.count(kind) > 1:
            raise UsageError(
                f"--kind {kind} is there twice; name it once, and add a second {kind} to its module later."
            )
    names = names_of(name, kinds)
    if name in {CORE, *KNOWN_PLUGINS.values()} or _is_installed(names):
        raise UsageError(f"a package named '{name}' exists already; choose another name.")
    for kind in kinds:
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
    kinds = names.kinds
    words = {
        "name": names.name,
        "module": names.module,
        "part": names.part,
        "kinds": _listing(kinds),
        "these": f"this {kinds[0]}" if len(kinds) == 1 else "these parts",
        "every": f"every {kinds[0]}" if len(kinds) == 1 else "its parts",
        "source": names.module if names.is_package else f"{names.module}.py",
        "recipe": "\n".join(map(names.recipe, kinds)),
        "what": _summary(kinds),
        "shown": ", ".join(f"`contrastive show {kind} {names.part}`" for kind in kinds),
    }

    def fill(template: str, **more: str) -> str:
        text = (_TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")
        return Template(text).substitute(words | more)

    def of_kind(kind: str, template: str) -> str:
        return fill(template, kind=kind, module=names.module_of(kind), Class=names.title(kind))

    paths = {name: fill(name) for name in ("pyproject.toml", "README.md", "recipe.yaml")}
    if not names.is_package:
        behaviour = of_kind(kinds[0], f"{kinds[0]}_test.py")
        paths[f"{names.module}.py"] = of_kind(kinds[0], f"{kinds[0]}.py")
        paths[f"tests/test_{names.module}.py"] = f"{behaviour}\n\n{fill('test.py')}"
        return paths
    imports = "\n".join(f"from {names.module_of(kind)} import register_{kind}" for kind in sorted(kinds))
    hooks = "\n".join(f'    "register_{kind}",' for kind in sorted(kinds))
    paths[f"{names.module}/__init__.py"] = fill("package.py", imports=imports, hooks=hooks)
    for kind in kinds:
        paths[f"{names.module}/{kind}.py"] = of_kind(kind, f"{kind}.py").replace(_DECLARATION, "", 1)
        paths[f"tests/test_{kind}.py"] = _without_unused_imports(of_kind(kind, f"{kind}_test.py"))
    paths["tests/test_conformance.py"] = f"{_TEST_IMPORTS}\n\n{fill('test.py')}"
    return paths


def _listing(kinds: Sequence[str]) -> str:
    """``loss``, or ``loss, callback and protocol``."""
    return " and ".join(filter(None, [", ".join(kinds[:-1]), kinds[-1]]))


def _summary(kinds: Sequence[str]) -> str:
    """What each kind decides, in a clause."""
    if len(kinds) == 1:
        return KINDS[kinds[0]]
    return "; ".join(f"the {kind} ({KINDS[kind]})" for kind in kinds)


def _without_unused_imports(test: str) -> str:
    """The test of a part without the imports that only the conformance test needs."""
    test = test.replace("import contrastive.testing\n", "")
    return test if "pytest." in test else test.replace("import pytest\n", "").lstrip()


def names_of(name: str, kinds: Sequence[str]) -> Names:
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
    return Names(name, tuple(kinds), module, part)


def _is_installed(names: Names) -> bool:
    try:
        return bool(metadata.distribution(names.name))
    except metadata.PackageNotFoundError:
        return importlib.util.find_spec(names.module) is not None


def _next_steps(names: Names, folder: Path) -> str:
    source = f"{names.module}/" if names.is_package else f"{names.module}.py"
    recipe = "\n".join(map(names.recipe, names.kinds))
    if names.is_package:
        recipe = "\n  " + recipe.replace("\n", "\n  ")
    return "\n".join(
        [
            f"{folder}: the {_listing(names.kinds)} '{names.part}', ready to edit in {source}",
            "",
            f"  cd {folder}",
            "  pip install -e '.[test]'",
            "  pytest",
            f"  contrastive plugin check {names.name}",
            "  contrastive run recipe.yaml",
            "",
            f"In a recipe: {recipe}".replace(": \n", ":\n"),
        ]
    )
