"""Who may import whom, how long files may be, and what must stay out of a quick command."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from import_graph import imports

from contrastive.kinds import KINDS
from contrastive.registry import KNOWN_PLUGINS, Registry, load_registry
from tests.support.layers import (
    IMPORTERS,
    IMPORTS,
    KIND_PACKAGES,
    LAYERS,
    MODULES,
    ROOT,
    graph,
    is_in,
    layer,
    may_import,
    path_of,
    top,
    violations,
)

#: The training side knows neither YAML, nor the registry, nor any part by name.
TRAINING_MUST_NOT = {
    *{"recipe", "registry", "build", "hookspecs", "runs.job", "commands", "cli"},
    *KIND_PACKAGES - {"augmentations"},  # a pipeline is the engine's own vocabulary: it calls it on batches
}
#: Imported by commands that must answer at once.
WITHOUT_TORCH = {
    "kinds", "errors", "hookspecs", "text", "lazy", "moved", "registry", "recipe", "runs.display",
    "cli", "__init__", "interrupts", "wait_policy", "freed_memory",
}  # fmt: skip


def test_every_module_has_a_layer():
    assert not [place for place in MODULES if layer(place) is None]


def test_every_name_in_the_tables_exists():
    tops = {top(place) for place in MODULES}
    tables = [*LAYERS.values(), IMPORTERS, *IMPORTERS.values(), IMPORTS, *IMPORTS.values(), WITHOUT_TORCH]
    assert not {top(name) for names in tables for name in names} - tops


def test_rules_hold():
    assert not violations()


@pytest.mark.parametrize(
    ("importer", "target", "allowed"),
    [
        ("errors", "text", True),
        ("rng", "errors", False),
        ("device", "distributed", True),
        ("files", "parts.base", False),
        ("comparison.rows", "comparison.tiles", True),
        ("comparison.rows", "parts.base", False),
        ("losses.margin", "comparison.comparison", True),
        ("losses.margin", "heads.mlp", False),
        ("heads", "timm_models", False),
        ("backbones.timm", "timm_models", True),
        ("callbacks.tensorboard", "monitors", True),
        ("datasets.folder", "files", False),
        ("training.engine", "augmentations.pipeline", True),
        ("training.engine", "recipe.model", False),
        ("training.method", "training.engine", False),
        ("data.loader", "training.engine", False),
        ("evaluation.trial", "training.method", True),
        ("registry.registry", "parts.base", False),
        ("recipe.model", "registry.registry", True),
        ("recipe.model", "losses.margin", False),
        ("build.builder", "recipe.model", True),
        ("runs.job", "commands.check", False),
        ("commands.run", "runs.job", True),
        ("curation.encoding", "runs.reload", True),
        ("curation.encoding", "commands.embed", False),
        ("commands.labels", "curation.labels", True),
        ("runs.classifiers", "curation.labels", False),
        ("runs.reload", "runs.job", False),
        ("commands.profiler", "runs.job", False),
        ("commands.plugin_check", "testing.report", True),
        ("commands.check", "testing.report", False),
        ("commands.check", "commands.compare.tables", False),
        ("commands.compare.tables", "commands.compare.findings", True),
        ("testing.framework", "commands.check", False),
        ("testing.framework", "runs.job", False),
        ("cli", "commands.compare", True),
        ("__main__", "cli", True),
        ("commands.check", "cli", False),
    ],
)
def test_tables_say_what_they_mean(importer, target, allowed):
    assert may_import(importer, target) is allowed


#: What runs every method: it calls parts, and never asks which one it has.
TRAINERS = [
    f"training.{name}" for name in ("method", "engine", "objective", "matching", "gradients", "stages")
]
#: Classes of ours that these modules may ask for, as they are values and no parts.
VALUES = {"Tokens"}  # what a pass gives, unless it is h alone


def questions_about_parts(path: Path) -> list[str]:
    """Where a file asks what a part is or has: isinstance, hasattr and whatever else does the same."""
    tree = ast.parse(path.read_text())
    ours = {line.name for line in imports(path) if line.module.split(".")[0] == "contrastive"} - VALUES
    found = []
    for node in ast.walk(tree):
        asks = False
        if isinstance(node, ast.Call):
            function = ast.unparse(node.func)
            names = {
                each.id for argument in node.args for each in ast.walk(argument) if isinstance(each, ast.Name)
            }
            asks = function in {"hasattr", "getattr", "type", "vars", "callable"}
            asks = asks or (function in {"isinstance", "issubclass"} and bool(names & ours))
        elif isinstance(node, ast.Attribute):
            asks = node.attr in {"__class__", "__dict__", "kind"}
        elif isinstance(node, ast.MatchClass):
            asks = ast.unparse(node.cls) in ours
        if asks:
            found.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("place", TRAINERS)
def test_training_side_knows_no_recipe_and_no_part(place):
    path = path_of(place)
    assert not {other for other in graph()[place] if is_in(other, TRAINING_MUST_NOT)}
    assert "yaml" not in {line.module.split(".")[0] for line in imports(path)}
    asked = questions_about_parts(path)
    asked = [question for question in asked if question.partition(": ")[2] not in ASKED_OF_NO_PART]
    assert not asked


#: Questions of these modules about what is no part: a part's path in a recipe lists it by its kind.
ASKED_OF_NO_PART = {"part.kind"}


@pytest.mark.parametrize(
    "line",
    [
        "isinstance(head, Head)",
        "isinstance(self.target, (int, Target))",
        "hasattr(loss, 'centre')",
        "getattr(loss, 'centre', None)",
        "type(loss) is object",
        "loss.__class__.__name__",
        "issubclass(other, Target)",
    ],
)
def test_a_question_about_a_part_is_found(tmp_path, line):
    path = tmp_path / "method.py"
    source = path_of("training.method").read_text()
    path.write_text(f"{source}\n\ndef planted(self, head, loss, other):\n    return {line}\n")
    before = tmp_path / "before.py"
    before.write_text(source)
    assert len(questions_about_parts(path)) > len(questions_about_parts(before))


#: Methods by the names of their papers; parts are asked of the registry.
METHODS = {
    "simclr", "supcon", "moco", "byol", "simsiam", "nnclr", "swav", "dino", "barlow", "vicreg", "dcl", "hcl",
    "ressl", "msn", "mae", "simmim", "ibot", "dinov2", "ijepa", "jepa", "data2vec", "densecl", "vicregl",
    "cmae", "mochi", "gram", "koleo",
}  # fmt: skip
#: Names of parts that are everyday words of any training loop.
EVERYDAY = {"none", "sequence", "shared", "subset", "views"}


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


@cache
def registry() -> Registry:
    """Of the installed plugins, loaded once for all modules that are looked at."""
    return load_registry()


@pytest.fixture(scope="module")
def names_of_parts() -> set[str]:
    """Names and classes of all parts, and names of methods."""
    names = {entry.name for entry in registry()} | {entry.load().__name__.lower() for entry in registry()}
    names |= {part for _, part in KNOWN_PLUGINS} | METHODS
    assert {"nt_xent", "ntxent", "queue", "ema", "inbatch"} <= names
    return names


@pytest.mark.parametrize("place", TRAINERS)
def test_training_side_says_no_name_of_a_method_or_part(place, names_of_parts):
    assert not words_of(path_of(place)) & (names_of_parts - EVERYDAY)


def test_a_planted_name_of_a_method_is_found(tmp_path):
    path = tmp_path / "method.py"
    path.write_text(path_of("training.method").read_text() + "\n\ndef ibot_loss():\n    pass\n")
    assert words_of(path) & METHODS == {"ibot"}


#: Where no string may be the name of a part, or of a metric after its protocol: what is special about a part,
#: the part declares.
NAMES_NO_PART = {"training", "evaluation", "build", "runs", "commands.check"}
#: Names of parts that these modules use in another meaning: keys of recipes and of results, and what a report
#: calls nothing.
OTHER_MEANINGS = {
    "build.rules": {"views"},
    "build.patch_rules": {"none"},
    "build.objectives": {"none"},
    "commands.check": {"none"},
    "evaluation.evaluation": {"views"},
    "evaluation.verdict": {"views"},
    "evaluation.views": {"views", "neighbours"},
    "runs.summary": {"views"},
}


def part_names_in(path: Path) -> set[str]:
    """Names of parts, and of metrics such as knn_top1, that are strings of a file."""
    names = {entry.name for entry in registry()} | {part for _, part in KNOWN_PLUGINS}
    metrics = tuple(f"{name}_" for name in registry().names("protocol"))
    strings = {
        node.value.strip()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return {text for text in strings if text in names or (text.isidentifier() and text.startswith(metrics))}


@pytest.mark.parametrize("place", sorted(place for place in MODULES if is_in(place, NAMES_NO_PART)))
def test_parts_declare_what_is_special_about_them(place):
    assert part_names_in(path_of(place)) <= OTHER_MEANINGS.get(place, set())


def test_part_names_are_found_in_tables_comparisons_and_messages(tmp_path):
    path = tmp_path / "module.py"
    path.write_text('STATES = {"adamw": 2}\nx == "none"\nf"knn {m[\'knn_top1\']}"\n"use simclr"\n')
    assert part_names_in(path) == {"adamw", "none", "knn", "knn_top1"}


def test_names_are_found_wherever_they_hide(tmp_path):
    path = tmp_path / "module.py"
    path.write_text('def f(use_ema):\n    """As MoCo does."""\n    return self.queue[f"{x} in_batch"]\n')
    assert {"ema", "moco", "queue", "in_batch"} <= words_of(path)


def test_parts_and_plugins_use_public_names_only():
    files = [path_of(place) for place in MODULES if top(place) in KIND_PACKAGES]
    files += [path for path in (ROOT / "plugins").rglob("*.py") if "tests" not in path.parts]
    for path in files:
        for line in imports(path):
            words = [*line.module.split("."), line.name]
            if words[0] == "contrastive":
                assert not any(word.startswith("_") for word in words[1:] if word), f"{path}: {line}"


def test_plugins_do_not_import_each_other():
    homes = {}  # top-level module -> folder of its plugin
    for plugin in (ROOT / "plugins").glob("*/"):
        for path in plugin.glob("*"):
            if path.suffix == ".py" or (path / "__init__.py").exists():
                homes[path.stem] = plugin
    for path in (ROOT / "plugins").rglob("*.py"):
        for line in imports(path):
            home = homes.get(line.module.split(".")[0])
            assert home is None or home in path.parents, f"{path} imports {line.module}"


@pytest.mark.parametrize("place", sorted(MODULES))
def test_files_stay_short(place):
    limit = 300 if place == "training.engine" else 500
    assert len(path_of(place).read_text(encoding="utf-8").splitlines()) <= limit


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_quick_modules_leave_torch_out():
    names = sorted(MODULES[place] for place in MODULES if is_in(place, WITHOUT_TORCH))
    code = (
        "import sys\n"
        "from importlib import import_module\n"
        f"for name in {names}:\n"
        "    import_module(name)\n"
        "    assert 'torch' not in sys.modules, name\n"
        "print('none of them')"
    )
    assert python(code) == "none of them\n"


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
        "heavy = {'torch', 'torchvision', 'timm', 'accelerate', 'numpy', "
        f"{MODULES['registry.builtin_parts']!r}}}\n"
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
        "duplicates",
        "labels",
        "select",
        "search",
        "predict",
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
