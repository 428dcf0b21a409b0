"""Python blocks of README and docs run, page by page, in an empty folder; links and the tree are right."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import module_tree
import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
#: Its blocks are files that a reader edits; tests/test_plugin_docs.py types the whole page.
TUTORIAL = ROOT / "docs" / "plugins.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[str]:
    """The page's Python blocks, each after as many empty lines as stand above it, so that a traceback
    gives the line of the page."""
    text = page.read_text(encoding="utf-8")
    return ["\n" * text.count("\n", 0, match.start(1)) + match[1] for match in BLOCK.finditer(text)]


#: Pages whose blocks train for seconds.
TRAIN = {"runs.md", "patches.md"}


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=[pytest.mark.ci] * (page.name in TRAIN))
        for page in PAGES
        if blocks(page) and page != TUTORIAL
    ],
)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = ModuleType("docs_page")  # a real module, so that annotations of its classes can be evaluated
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks(page):
        exec(compile(block, str(page), "exec", dont_inherit=True), vars(module))


def test_blocks_keep_the_lines_of_the_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```python\na = 1\n```\ntext\n```python\nb = a\nraise SystemExit\n```\n")
    first, second = blocks(page)
    assert first.splitlines()[3] == "a = 1"
    assert second.splitlines()[8] == "raise SystemExit"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s#]+)", page.read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not broken


def test_readme_marks_its_test_command():
    """``.ci/run`` runs what stands between these markers, so the two cannot drift apart."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    marked = re.search(r"<!-- test-command -->\n```\w*\n(.+)\n```\n<!-- /test-command -->", text)
    assert marked
    assert "-m pytest" in marked[1]


def test_tree_of_the_architecture_page_is_the_package():
    found = module_tree.MARKS.search(module_tree.PAGE.read_text(encoding="utf-8"))
    assert found, f"{module_tree.PAGE} has no <!-- tree --> marks"
    assert found[0] == found[1] + module_tree.tree() + "<!-- /tree -->", "run scripts/module_tree.py --page"


def test_tree_has_every_package_and_module():
    packages = {path.parent.name for path in module_tree.PACKAGE.glob("*/__init__.py")}
    assert packages == set(module_tree.ORDER)
    modules = [path for path in module_tree.PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    assert module_tree.tree().count("\n| `") == len(modules) + 1  # with contrastive/__init__.py
