"""Who may import whom, how long files may be, and what must stay out of a quick command."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from contrastive.kinds import KINDS
from contrastive.registry import load_registry
from contrastive.registry.registry import KNOWN_PLUGINS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "contrastive"

#: The packages that hold the built-ins of a kind.
PARTS = {
    "augmentations", "backbones", "callbacks", "datasets", "heads", "losses",
    "negatives", "optimizers", "protocols", "targets",
}  # fmt: skip
#: What a part may stand on, beside its own package.
GROUND = {"kinds", "errors", "values", "parts", "rng", "kernels", "comparison", "distributed"}
#: What belongs to one package alone.
NEIGHBOURS = {"backbones": {"timm_models"}}

#: module or package -> the only modules of contrastive it may import (itself always).
ALLOWED = {
    "kinds": set(),
    "errors": set(),
    "rng": set(),
    "files": {"errors"},
    "metrics": {"distributed", "errors", "files"},
    "values": {"kinds", "errors"},
    "hookspecs": {"kinds"},
    "builtins": {"kinds", "hookspecs"},
    "kernels": {"errors"},
    "distributed": {"errors"},
    "rows": {"errors", "kernels"},
    "comparison": {"errors", "kernels", "values", "rows", "distributed"},
    # parts names two classes of its users in annotations and in Loss.forward, where loss(z_a, z_b) begins
    "parts": {"kinds", "errors", "values", "rng", "comparison"},
    "method": {"kinds", "errors", "values", "parts", "comparison", "rng"},
    "monitors": set(),
    "console": {"kinds"},
    "registry": {"kinds", "errors", "hookspecs", "builtins"},
    "recipe": {"kinds", "errors", "registry"},
    # it asks every part, and so stands on all that runs one; nothing but the command line imports it
    "testing": {
        "augmentations",
        "builtins",
        "comparison",
        "distributed",
        "errors",
        "heads",
        "kernels",
        "kinds",
        "losses",
        "method",
        "negatives",
        "optimizers",
        "passes",
        "parts",
        "recipe",
        "registry",
        "schema",
        "targets",
        "timm_models",
        "trial",
        "values",
    },
    **{kind: GROUND | NEIGHBOURS.get(kind, set()) for kind in PARTS},
}
#: The training side knows neither YAML, nor the registry, nor any part by name.
ENGINE_MUST_NOT = {
    "recipe",
    "registry",
    "build",
    "builtins",
    "hookspecs",
    "runs",
    "cli",
    "schema",
} | PARTS - {
    "augmentations"  # a pipeline is the engine's own vocabulary: it calls it on batches
}
#: Imported by commands that must answer at once.
WITHOUT_TORCH = [
    "kinds",
    "errors",
    "hookspecs",
    "builtins",
    "registry",
    "recipe",
    "console",
    "cli",
]


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def owner(path: Path) -> str:
    """``contrastive/losses/margin.py`` -> ``losses``; ``contrastive/rng.py`` -> ``rng``."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of every import of a file, in functions too, but not under ``if TYPE_CHECKING``."""
    yield from _imports(ast.parse(path.read_text(encoding="utf-8")))


def _imports(node: ast.AST) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _imports(ast.Module(child.orelse, []))
        elif isinstance(child, ast.Import):
            yield from ((alias.name, "") for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "write absolute imports"
            yield from ((child.module or "", alias.name) for alias in child.names)
        else:
            yield from _imports(child)


def contrastive_imports(path: Path) -> set[str]:
    """The modules or packages directly below ``contrastive`` that a file imports."""
    found = set()
    for module, name in imports(path):
        first, *rest = module.split(".")
        if first == "contrastive":
            found.add(rest[0] if rest else name)
    return found - {""}


def test_imports_are_seen_where_they_hide(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from contrastive.engine import Engine\n"
        "else:\n    import contrastive.rng\n"
        "def f():\n    from contrastive import kinds\n    from contrastive.losses.margin import Margin\n"
    )
    assert contrastive_imports(path) == {"rng", "kinds", "losses"}


@pytest.mark.parametrize("layer", sorted(ALLOWED))
def test_layers_import_only_what_is_below(layer):
    files = [path for path in modules() if owner(path) == layer]
    assert files, f"contrastive/{layer} is gone: change the map in this test"
    for path in files:
        above = contrastive_imports(path) - ALLOWED[layer] - {layer}
        assert not above, f"{path.relative_to(ROOT)} imports {sorted(above)}"


@pytest.mark.parametrize("name", ["method", "engine"])
def test_training_side_knows_no_recipe_and_no_part(name):
    path = PACKAGE / f"{name}.py"
    assert not contrastive_imports(path) & ENGINE_MUST_NOT
    assert "yaml" not in {module.split(".")[0] for module, _ in imports(path)}
    ours = {name for module, name in imports(path) if module.split(".")[0] == "contrastive"}
    for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
        function = ast.unparse(call.func)
        assert function != "hasattr", f"{path.name}:{call.lineno} asks what a part has"
        if function == "isinstance":
            asked = {node.id for node in ast.walk(call.args[1]) if isinstance(node, ast.Name)}
            assert not asked & ours, f"{path.name}:{call.lineno} asks which part it runs"


#: Methods by the names of their papers; parts are asked of the registry.
METHODS = {
    "simclr", "supcon", "moco", "byol", "simsiam", "nnclr", "swav", "dino", "barlow", "vicreg", "dcl", "hcl",
    "ressl", "msn",
}  # fmt: skip
#: Names of parts that are everyday words of any training loop.
EVERYDAY = {"none", "sequence", "views"}


def words_of(path: Path) -> set[str]:
    """Identifiers, and words of strings (docstrings too), of a file's syntax tree, in lower case."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        for field in ("id", "attr", "arg", "name", "asname"):
            if isinstance(value := getattr(node, field, None), str):
                found.add(value.lower())
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.update(re.findall(r"[a-z0-9_]+", node.value.lower()))
    return found | {word for name in found for word in name.split("_")}


@pytest.mark.parametrize("name", ["method", "engine"])
def test_training_side_says_no_name_of_a_method_or_part(name):
    registry = load_registry()
    names = {entry.name for entry in registry} | {entry.load().__name__.lower() for entry in registry}
    names |= {part for _, part in KNOWN_PLUGINS} | METHODS
    assert {"nt_xent", "ntxent", "queue", "ema", "inbatch"} <= names
    said = words_of(PACKAGE / f"{name}.py") & (names - EVERYDAY)
    assert not said


def test_names_are_found_wherever_they_hide(tmp_path):
    path = tmp_path / "module.py"
    path.write_text('def f(use_ema):\n    """As MoCo does."""\n    return self.queue[f"{x} in_batch"]\n')
    assert {"ema", "moco", "queue", "in_batch"} <= words_of(path)


@pytest.mark.parametrize("name", ["testing", "compare"])
def test_only_the_command_line_imports_what_stands_on_everything(name):
    importers = {owner(path) for path in modules() if name in contrastive_imports(path)}
    assert importers <= {"cli", name}


def test_parts_and_plugins_use_public_names_only():
    files = [path for path in modules() if owner(path) in PARTS]
    files += [path for path in (ROOT / "plugins").rglob("*.py") if "tests" not in path.parts]
    for path in files:
        for module, name in imports(path):
            words = [*module.split("."), name]
            if words[0] == "contrastive":
                assert not any(word.startswith("_") for word in words[1:] if word), f"{path}: {module} {name}"


def test_plugins_do_not_import_each_other():
    homes = {}  # top-level module -> folder of its plugin
    for plugin in (ROOT / "plugins").glob("*/"):
        for path in plugin.glob("*"):
            if path.suffix == ".py" or (path / "__init__.py").exists():
                homes[path.stem] = plugin
    for path in (ROOT / "plugins").rglob("*.py"):
        for module, _ in imports(path):
            home = homes.get(module.split(".")[0])
            assert home is None or home in path.parents, f"{path} imports {module}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_short(path):
    limit = 300 if path == PACKAGE / "engine.py" else 500
    assert len(path.read_text(encoding="utf-8").splitlines()) <= limit


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_quick_modules_leave_torch_out(name):
    assert python(f"import sys, contrastive.{name}; print('torch' in sys.modules)") == "False\n"


def test_importing_contrastive_is_light():
    heavy = {"torch", "torchvision", "timm", "accelerate", "pyarrow", "numpy"}
    out = python("import contrastive, sys; print(*sorted(m for m in sys.modules if '.' not in m))")
    assert not heavy & set(out.split())


def test_help_loads_neither_torch_nor_plugins():
    out = python(
        "import sys\n"
        "from contrastive.cli import main\n"
        "try: code = main(['--help'])\n"
        "except SystemExit as stop: code = stop.code\n"
        "heavy = {'torch', 'torchvision', 'timm', 'accelerate', 'numpy'}\n"
        "heavy.add('contrastive.registry.builtin_parts')\n"
        "print('RESULT', code or 0, *sorted(heavy & set(sys.modules)))"
    )
    assert out.splitlines()[-1] == "RESULT 0"
    for command in (
        "run",
        "check",
        "list",
        "show",
        "preview",
        "profile",
        "evaluate",
        "embed",
        "export",
        "compare",
        "schema",
        "plugin",
    ):
        assert command in out


def test_every_kind_of_part_has_a_hook():
    from contrastive import hookspecs

    hooks = {name for name in vars(hookspecs) if name.startswith("register_")}
    assert hooks == {f"register_{kind}" for kind in KINDS}
    assert all(getattr(hookspecs, name).__doc__ for name in hooks)
