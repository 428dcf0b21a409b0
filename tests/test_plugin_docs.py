"""docs/plugins says what the code says, and its tutorial works as it is told."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from contrastive import hookspecs
from contrastive.cli import main
from contrastive.kinds import KINDS
from contrastive.testing import CHECKS
from tests.support.plugin_packages import code_lines, install, on_path

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "make_plugin_docs.py"


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    """scripts/make_plugin_docs.py, as a module."""
    spec = importlib.util.spec_from_file_location("make_plugin_docs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_are_what_the_script_writes(maker):
    for path, text in maker.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run {SCRIPT.relative_to(ROOT)}"


def test_every_kind_has_a_page_that_the_tutorial_links():
    tutorial = (ROOT / "docs" / "plugins.md").read_text()
    for kind in KINDS:
        text = (ROOT / "docs" / "plugins" / f"{kind}.md").read_text()
        for heading in ("## Example", "## What the kit checks", "## Common mistakes"):
            assert heading in text, kind
        assert f"(plugins/{kind}.md)" in tutorial


@pytest.mark.parametrize("kind", KINDS)
def test_mistakes_name_checks_that_exist(kind):
    text = (ROOT / "docs" / "plugins" / f"{kind}.md").read_text().partition("## Common mistakes")[2]
    named = set(re.findall(r"`([^`]+)` fails", text))
    assert named <= {check.name for check in CHECKS if kind in check.kinds}


def test_every_hook_is_on_the_page_with_its_base_class(maker):
    page = (ROOT / "docs" / "plugins" / "hooks.md").read_text()
    for name in (name for name in vars(hookspecs) if name.startswith("register_")):
        assert f"## `{name}(register)`" in page
        assert f"contrastive.parts.{name.removeprefix('register_').capitalize()}" in page
    for method in ("`compare(comparison)` | must", "`after_step(progress)` | may", "`example(folder)` | may"):
        assert method in page


def documented(register) -> None:
    """Register curricula."""


def silent(register) -> None: ...


def test_a_hook_without_documentation_is_refused(maker):
    specs = ModuleType("specs")
    specs.register_curriculum = silent
    with pytest.raises(ValueError, match="silent has no documentation"):
        maker.hook_reference(specs)


def test_a_new_hook_makes_the_page_out_of_date(maker):
    specs = ModuleType("specs")
    vars(specs).update({name: hook for name, hook in vars(hookspecs).items() if name.startswith("register_")})
    assert maker.hook_reference(specs) == (ROOT / "docs" / "plugins" / "hooks.md").read_text()
    specs.register_curriculum = documented
    assert "## `register_curriculum(register)`\n\nRegister curricula." in maker.hook_reference(specs)
    del specs.register_curriculum, specs.register_loss
    assert maker.hook_reference(specs) != (ROOT / "docs" / "plugins" / "hooks.md").read_text()


def test_a_member_without_documentation_is_refused(maker, monkeypatch):
    monkeypatch.setattr(maker.parts.Loss.compare, "__doc__", None)
    monkeypatch.setattr(maker.inspect, "getdoc", lambda value: value.__doc__)
    with pytest.raises(ValueError, match="compare has no documentation"):
        maker.hook_reference()


def test_a_page_without_its_marks_is_refused(maker):
    with pytest.raises(ValueError, match="no <!-- checks -->"):
        maker.kind_page("loss", "<!-- example -->\n<!-- /example -->\n")


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of the page's blocks."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


class Tutorial:
    """Runs what a reader of the tutorial would type; a block of Python that begins with a path is a file."""

    #: Left out: what needs the network, and the run, of which ``test_plugin_examples`` has five.
    left_out = ("pip install build", "python -m build", "twine", "contrastive run")

    def __init__(self, site: Path, patch: pytest.MonkeyPatch):
        self.site, self.patch = site, patch
        self.ran: list[str] = []

    def write(self, text: str) -> None:
        path = Path(text.partition("\n")[0].removeprefix("# "))
        assert path.exists(), "the tutorial edits files that plugin new wrote"
        path.write_text(text)
        if path.parent == Path():
            (self.site / path).write_text(text)  # an editable installation sees the edit

    def type(self, line: str) -> None:
        words = shlex.split(line)
        if line.startswith(self.left_out):
            return
        self.ran.append(line)
        if words[0] == "contrastive":
            sys.modules.pop("contrastive_focal", None)
            assert main(words[1:]) == 0, line
        elif words[0] == "cd":
            self.patch.chdir(words[1])
        elif line == "pip install -e '.[test]'":
            install(Path(), self.site)
        else:
            assert line == "pytest", f"nobody taught this test what '{line}' does"
            # the kit's questions are asked once, by the tutorial's plugin check
            command = [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                "-k",
                "not conformance",
            ]
            done = subprocess.run(command, capture_output=True, text=True, timeout=900)
            assert done.returncode == 0, done.stdout[-5000:]


@pytest.mark.ci
def test_the_tutorial_works_as_it_is_told(tmp_path, monkeypatch):
    site = tmp_path / "site"
    site.mkdir()
    on_path(site, monkeypatch)
    monkeypatch.chdir(tmp_path)
    tutorial = Tutorial(site, monkeypatch)
    for language, text in blocks(ROOT / "docs" / "plugins.md"):
        if language == "python":
            tutorial.write(text)
        elif language == "bash":
            for line in text.splitlines():
                tutorial.type(line)
        elif language == "yaml":
            Path("mine.yaml").write_text(text)
            tutorial.type("contrastive check mine.yaml")
    sys.modules.pop("contrastive_focal", None)
    assert tutorial.ran.count("pytest") == 2
    assert "contrastive plugin check contrastive-focal" in tutorial.ran
    assert code_lines(Path("contrastive_focal.py")) < 30
