"""``contrastive plugin new``: what it writes works as it is, for every kind, and nothing is overwritten."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import contrastive.testing
from contrastive.cli import main
from contrastive.commands.plugin_new.scaffold import RECIPES, create
from contrastive.errors import UsageError
from contrastive.kinds import KINDS
from contrastive.registry import load_registry
from tests.support.plugin_packages import code_lines, install, on_path

WRITTEN = ["README.md", "pyproject.toml", "recipe.yaml", "tests/test_my_{kind}.py", "my_{kind}.py"]


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """One new package of each kind, ``my-loss`` and so on, in one folder."""
    folder = tmp_path_factory.mktemp("packages")
    for kind in KINDS:
        create(f"my-{kind}", kind, load_registry(plugins=False), folder / f"my-{kind}")
    return folder


@pytest.fixture
def site(packages, tmp_path, monkeypatch):
    """A folder on the path where all of them are installed."""
    for package in packages.iterdir():
        install(package, tmp_path)
    on_path(tmp_path, monkeypatch)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


def run_tests(*folders: Path, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
    return subprocess.run(
        [*command, *map(str, folders)], capture_output=True, text=True, timeout=900, **options
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_is_whole_and_its_module_short(kind, packages):
    package = packages / f"my-{kind}"
    files = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    assert files == {path.format(kind=kind) for path in WRITTEN}
    assert code_lines(package / f"my_{kind}.py") < 30
    assert "contrastive_api = 1" in (package / f"my_{kind}.py").read_text()
    assert not [path for path in files if "$" in (package / path).read_text()]


@pytest.mark.ci
@pytest.mark.parametrize("kind", KINDS)
def test_its_recipe_is_right_and_its_parameters_documented(kind, packages, site, capsys):
    assert main(["check", str(packages / f"my-{kind}" / "recipe.yaml"), "--json"]) == 0
    assert f"my_{kind}" in capsys.readouterr().out
    assert main(["show", kind, f"my_{kind}", "--json"]) == 0
    part = json.loads(capsys.readouterr().out)
    assert part["summary"]
    assert all(parameter["doc"] for parameter in part["parameters"])


@pytest.mark.ci
def test_each_part_passes_its_own_tests_and_the_conformance_kit_as_written(packages, site):
    done = run_tests(packages, "-vv")
    assert done.returncode == 0, done.stdout[-5000:]
    passed = [line for line in done.stdout.splitlines() if " PASSED" in line]
    of_the_kit = [line for line in passed if "::test_conformance[" in line]
    assert len(of_the_kit) > 5 * len(KINDS)
    for kind in KINDS:
        assert any(f"test_my_{kind}.py" in line for line in passed if line not in of_the_kit), kind


@pytest.mark.ci
def test_the_tests_notice_a_part_that_does_nothing(packages, site):
    """Without what its methods return and store, no part passes its own tests."""
    for module in site.glob("my_*.py"):
        text = module.read_text().replace("return ", "return None  # ")
        for statement in ("run.log(", "self.z = ", "self.encoder.load_state_dict("):
            text = text.replace(statement, f"0  # {statement}")
        module.write_text(text)
    done = run_tests(packages, "-k", "not conformance", "-rf")
    failed = {line.split("::")[0] for line in done.stdout.splitlines() if line.startswith("FAILED")}
    assert {Path(path).stem for path in failed} == {f"test_my_{kind}" for kind in KINDS}, done.stdout[-3000:]


def test_ruff_finds_nothing(packages, tmp_path):
    pytest.importorskip("ruff")
    create("contrastive-a-rather-long-name", "protocol", load_registry(plugins=False), tmp_path / "long")
    for command in (["check"], ["format", "--check"]):
        run = [sys.executable, "-m", "ruff", *command, "--no-cache", str(packages), str(tmp_path / "long")]
        done = subprocess.run(run, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout


@pytest.mark.ci
def test_pip_builds_and_installs_one(packages, tmp_path, monkeypatch, capsys):
    pytest.importorskip("hatchling")
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
    package = packages / "my-loss"
    run = [*pip, "--no-build-isolation", "--no-index", "--target", str(target), str(package)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in target.glob("*.py")) == ["my_loss.py"]
    on_path(target, monkeypatch)
    try:
        assert main(["show", "loss", "my_loss", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["provider"] == "my-loss"
    finally:
        sys.modules.pop("my_loss", None)


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """One new package with a part of every kind."""
    folder = tmp_path_factory.mktemp("several") / "my-all"
    create("my-all", list(KINDS), load_registry(plugins=False), folder)
    return folder


def test_several_parts_are_modules_of_one_package(everything):
    files = {path.relative_to(everything).as_posix() for path in everything.rglob("*") if path.is_file()}
    modules = {f"my_all/{kind}.py" for kind in KINDS} | {"my_all/__init__.py"}
    tests = {f"tests/test_{kind}.py" for kind in KINDS} | {"tests/test_conformance.py"}
    assert files == modules | tests | {"README.md", "pyproject.toml", "recipe.yaml"}
    texts = {path: (everything / path).read_text() for path in files}
    assert not [path for path, text in texts.items() if "$" in text]
    assert [path for path, text in texts.items() if "contrastive_api" in text] == ["my_all/__init__.py"]
    assert "class MyAllLoss(Loss):" in texts["my_all/loss.py"]


def test_all_parts_of_a_package_register_and_its_recipe_uses_each(everything, tmp_path, monkeypatch, capsys):
    install(everything, tmp_path)
    on_path(tmp_path, monkeypatch)
    try:
        assert main(["check", str(everything / "recipe.yaml"), "--json"]) == 0
        assert "my_all" in capsys.readouterr().out
        for kind in KINDS:
            assert main(["show", kind, "my_all", "--json"]) == 0
            assert json.loads(capsys.readouterr().out)["provider"] == "my-all"
        for check in contrastive.testing.checks("my-all", quick=True)[:2]:  # those of the plugin as a whole
            check()
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "my_all"]:
            del sys.modules[name]


@pytest.mark.ci
def test_the_tests_of_a_package_find_its_parts(everything, tmp_path, monkeypatch):
    """All of them are collected, those of two kinds run: what they test is what a package of one part has."""
    install(everything, tmp_path)
    on_path(tmp_path, monkeypatch)
    done = run_tests(everything, "-k", "not conformance and (test_loss or test_protocol)")
    assert done.returncode == 0, done.stdout[-5000:]
    assert int(done.stdout.rpartition(" passed")[0].split()[-1]) >= 2


def test_ruff_finds_nothing_in_a_package(everything, tmp_path):
    pytest.importorskip("ruff")
    create("two-parts", ["protocol", "callback"], load_registry(plugins=False), tmp_path / "two")
    for command in (["check"], ["format", "--check"]):
        run = [sys.executable, "-m", "ruff", *command, "--no-cache", str(everything), str(tmp_path / "two")]
        done = subprocess.run(run, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout


def test_a_kind_named_twice_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plugin", "new", "my-idea", "--kind", "loss", "--kind", "head", "--kind", "loss"]) == 2
    assert "--kind loss is there twice" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_names_every_part_of_a_package(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plugin", "new", "contrastive-my-idea", "--kind", "loss", "--kind", "callback"]) == 0
    out = capsys.readouterr().out
    assert "the loss and callback 'my_idea', ready to edit in contrastive_my_idea/" in out
    assert out.endswith("In a recipe:\n  loss: my_idea\n  callbacks: [my_idea]\n")
    assert (
        'register("my_idea", MyIdeaLoss)'
        in Path("contrastive-my-idea/contrastive_my_idea/loss.py").read_text()
    )


def test_every_kind_has_a_recipe_and_the_templates_ship():
    assert RECIPES.keys() == KINDS.keys()
    from contrastive.commands.plugin_new import scaffold

    templates = {path.name for path in Path(scaffold.__file__).with_name("templates").iterdir()}
    parts = {f"{kind}{ending}.py.txt" for kind in KINDS for ending in ("", "_test")}
    assert templates == parts | {
        "pyproject.toml.txt",
        "README.md.txt",
        "recipe.yaml.txt",
        "test.py.txt",
        "package.py.txt",
    }


def test_the_command_says_what_to_do_next(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plugin", "new", "contrastive-my-idea", "--kind", "loss"]) == 0
    out = capsys.readouterr().out
    for said in (
        "cd contrastive-my-idea",
        "pip install -e '.[test]'",
        "contrastive plugin check contrastive-my-idea",
        "In a recipe: loss: my_idea",
    ):
        assert said in out
    assert 'register("my_idea", MyIdea)' in Path("contrastive-my-idea/contrastive_my_idea.py").read_text()


def test_a_class_keeps_clear_of_the_names_its_module_uses(tmp_path):
    create("contrastive-loss", "loss", load_registry(plugins=False), tmp_path / "loss")
    assert "class LossPart(Loss):" in (tmp_path / "loss" / "contrastive_loss.py").read_text()


def test_an_empty_folder_is_taken(tmp_path):
    create("my-loss", "loss", load_registry(plugins=False), tmp_path)
    assert (tmp_path / "my_loss.py").exists()


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("my loss", "loss", "'my loss' is not a valid package name; use a letter, then letters, digits"),
        ("My_Loss", "loss", "Try 'my-loss'."),
        ("my--loss", "loss", "Try 'my-loss'."),
        ("-", "loss", "is not a valid package name"),
        ("", "loss", "is not a valid package name"),
        ("../escape", "loss", "is not a valid package name"),
        ("1loss", "loss", "is not a valid package name"),
        ("contrastive-1loss", "loss", "'1loss' cannot name a module and a part"),
        ("class", "loss", "'class' cannot name a module and a part"),
        ("contrastive-null", "loss", "'null' cannot name"),
        ("tests", "loss", "'tests' cannot name"),
        ("my-loss", "los", "there is no kind of part 'los'. Did you mean 'loss'?"),
        ("my-loss", "qqq", "The kinds are dataset, augmentation"),
        ("json", "loss", "'json' is a module of Python itself"),
        ("torch", "loss", "a package named 'torch' exists already"),
        ("contrastive-framework", "loss", "a package named 'contrastive-framework' exists already"),
        ("contrastive-moco", "negatives", "a package named 'contrastive-moco' exists already"),
        ("contrastive-nt-xent", "loss", "loss 'nt_xent' is already a part of contrastive-framework"),
        ("queue-2", "loss", None),
        ("contrastive-queue", "negatives", "negatives 'queue' is already a part of contrastive-moco"),
    ],
)
def test_refusals_are_one_sentence_and_write_nothing(name, kind, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = main(["plugin", "new", f"--kind={kind}", "--", name])
    error = capsys.readouterr().err
    if said is None:
        assert code == 0, error
        return
    assert code == 2
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
    assert not (tmp_path.parent / "escape").exists()


@pytest.mark.parametrize("there", ["folder", "file"])
def test_nothing_is_overwritten(there, tmp_path):
    path = tmp_path / "my-loss"
    if there == "folder":
        path.mkdir()
        (path / "thesis.tex").write_text("all of it")
    else:
        path.write_text("all of it")
    before = sorted(os.walk(tmp_path))
    with pytest.raises(
        UsageError, match="exists and is not an empty folder; choose another folder with --out"
    ):
        create("my-loss", "loss", load_registry(plugins=False), path)
    assert sorted(os.walk(tmp_path)) == before


def test_what_is_installed_already_is_not_begun_again(site, tmp_path):
    with pytest.raises(UsageError, match="a package named 'my-loss' exists already"):
        create("my-loss", "loss", load_registry(), tmp_path / "new")
    with pytest.raises(UsageError, match="loss 'my_loss' is already a part of my-loss"):
        create("contrastive-my-loss", "loss", load_registry(), tmp_path / "new")
