"""Python blocks of README and docs run, page by page, in an empty folder; links and the tree are right."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from types import ModuleType

import module_tree
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contrastive.backbones import Timm
from contrastive.commands.duplicates import duplicates
from contrastive.commands.embed import embed
from tests.support.curation import picture, recompressed, scene
from tests.support.tiny import write_data

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
#: Its blocks are files that a reader edits; tests/test_plugin_docs.py types the whole page.
TUTORIAL = ROOT / "docs" / "plugins.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


#: Blocks that need a package which tests do without, and these packages: they compile, and are not run.
OTHER_BLOCK = re.compile(r"^```py\n(.*?)^```", re.MULTILINE | re.DOTALL)
NOT_INSTALLED = {"fiftyone"}


def write_features() -> None:
    """What ``contrastive embed`` makes of the images in ``photos``."""
    write_data(Path("photos"), train=3, test=2)
    Timm(3, 16, "resnet10", stem="small", options={"width": 0.125}).export("encoder")
    dataset = {"name": "image_folder", "root": "photos"}
    embed("encoder", "features.parquet", neighbours=4, overrides={"dataset": dataset})


def write_pairs() -> None:
    """What ``contrastive duplicates`` makes of a scene in three sizes and of one that is in two splits."""
    scenes = {
        "train/a.png": recompressed(scene(1), 48, 48, 90),
        "train/b.png": scene(1),
        "train/c.png": recompressed(scene(1), 80, 80, 90),
        "train/d.png": scene(2),
        "test/e.png": recompressed(scene(2), 48, 48, 90),
        **{f"train/other{seed}.png": scene(seed) for seed in range(10, 30)},
    }
    for name, image in scenes.items():
        Path("images", name).parent.mkdir(parents=True, exist_ok=True)
        picture(image).save(Path("images", name))
    features = [[float(row), 1.0] for row in range(len(scenes))]
    pq.write_table(pa.table({"id": [*scenes], "features": features}), "scenes.parquet")
    dataset = {"name": "image_folder", "root": "images", "labels": False}
    duplicates("scenes.parquet", "pairs.parquet", overrides={"dataset": dataset, "train.cache": "none"})


#: Page -> what makes the files that it starts from.
PREPARATIONS = {"curation.md": write_pairs, "embeddings.md": write_features}


def blocks(page: Path) -> list[str]:
    """The page's Python blocks, each after as many empty lines as stand above it, so that a traceback
    gives the line of the page."""
    text = page.read_text(encoding="utf-8")
    return ["\n" * text.count("\n", 0, match.start(1)) + match[1] for match in BLOCK.finditer(text)]


#: Pages whose blocks train for seconds.
TRAIN = {"backbones.md", "patches.md", "runs.md"}


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
    PREPARATIONS.get(page.name, lambda: None)()
    module = ModuleType("docs_page")  # a real module, so that annotations of its classes can be evaluated
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks(page):
        exec(compile(block, str(page), "exec", dont_inherit=True), vars(module))


@pytest.mark.parametrize("page", [page for page in PAGES if OTHER_BLOCK.search(page.read_text())], ids=str)
def test_blocks_that_are_not_run_compile_and_need_another_package(page):
    for code in OTHER_BLOCK.findall(page.read_text(encoding="utf-8")):
        tree = ast.parse(code)
        imports = {
            alias.name.partition(".")[0]
            for node in tree.body
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert imports & NOT_INSTALLED
        compile(tree, str(page), "exec")


def test_the_projector_gets_every_image_of_the_embeddings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_features()
    values = {}
    for block in blocks(ROOT / "docs" / "embeddings.md"):
        exec(block, values)
    (config,) = Path("projector").rglob("projector_config.pbtxt")
    assert all(name in config.read_text() for name in ("tensors.tsv", "metadata.tsv", "sprite.png"))
    (tensors,) = Path("projector").rglob("tensors.tsv")
    (metadata,) = Path("projector").rglob("metadata.tsv")
    for file in (tensors, Path("vectors.tsv")):
        np.testing.assert_allclose(np.loadtxt(file), values["features"], rtol=1e-4)
    lines = metadata.read_text().splitlines()
    assert lines == Path("metadata.tsv").read_text().splitlines()
    assert lines[0] == "name\tsplit\tlabel"
    assert len(lines) == 16
    atlas = pq.read_table("atlas.parquet")
    names = atlas["name"].to_pylist()
    for own, row in zip(atlas["neighbours"].to_pylist(), values["rows"], strict=True):
        assert [names[index] for index in own["ids"]] == row["neighbours"]


def test_one_image_of_each_group_of_duplicates_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pairs()
    values = {}
    exec(blocks(ROOT / "docs" / "curation.md")[0], values)
    assert sorted(values["keep"]) == [("test", "test/e.png"), ("train", "train/c.png")]
    assert sorted(name for _, name in values["drop"]) == ["train/a.png", "train/b.png", "train/d.png"]


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
