"""The documentation site: every page is in the navigation, every link leads somewhere, no name is missing."""

from __future__ import annotations

import copy
import importlib
import posixpath
import re
import tomllib
from pathlib import Path

import docs_site
import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def entries(nav) -> list[str]:
    """The pages of a navigation, in order."""
    if isinstance(nav, str):
        return [nav]
    return [page for entry in (nav.values() if isinstance(nav, dict) else nav) for page in entries(entry)]


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """Every page of the site, reference aside: address -> Markdown as the site gets it."""
    sources = {path.relative_to(DOCS).as_posix(): path for path in DOCS.rglob("*.md")}
    sources |= {page: ROOT / source for page, source in docs_site.repository_pages().items()}
    markdown = {page: path.read_text(encoding="utf-8") for page, path in sources.items()}
    markdown["examples.md"] = docs_site.examples_page()
    return {page: docs_site.with_site_links(text, page) for page, text in markdown.items()}


def test_the_navigation_holds_every_page_once(pages):
    nav = copy.deepcopy(CONFIG["nav"])
    docs_site.add_methods(nav)
    assert sorted(entries(nav)) == sorted(pages)


def test_every_relative_link_leads_to_a_page_or_a_picture(pages):
    broken = []
    for page, text in pages.items():
        prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", prose):
            path = "".join(link).partition("#")[0]
            target = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
            if path and ":" not in path and target not in pages and not (DOCS / target).is_file():
                broken.append(f"{page}: {''.join(link)}")
    assert not broken


@pytest.mark.parametrize(
    ("page", "text", "on_the_site"),
    [
        ("index.md", "[losses](docs/losses.md#writing-one)", "[losses](losses.md#writing-one)"),
        ("index.md", "[the `plugins`](plugins/README.md)", "[the `plugins`](plugins/packages.md)"),
        ("index.md", "![views](docs/images/views.png)", "![views](images/views.png)"),
        ("index.md", '<img src="docs/images/views.png">', '<img src="images/views.png">'),
        ("index.md", "[![v](docs/images/views.png)](docs/data.md)", "[![v](images/views.png)](data.md)"),
        ("plugins/loss.md", "[contributing](../../CONTRIBUTING.md)", "[contributing](../contributing.md)"),
        (
            "methods.md",
            "[moco](../plugins/contrastive-moco/README.md)",
            "[moco](plugins/contrastive-moco.md)",
        ),
        ("plugins/contrastive-moco.md", "[up](../../README.md)", "[up](../index.md)"),
        ("methods.md", "[a loss](../examples/own_loss.py)", "[a loss](examples.md)"),
        ("methods.md", "[`pyproject`](../pyproject.toml), text", "`pyproject`, text"),
        (
            "methods.md",
            "[here](#there), [there](https://example.org/a)",
            "[here](#there), [there](https://example.org/a)",
        ),
        ("methods.md", "```\n[x](../pyproject.toml)\n```\n", "```\n[x](../pyproject.toml)\n```\n"),
        ("methods.md", "[gone](../nowhere.md)", "[gone](../nowhere.md)"),  # mkdocs --strict reports it
    ],
)
def test_links_are_corrected_for_the_site(page, text, on_the_site):
    assert docs_site.with_site_links(text, page) == on_the_site


def test_the_reference_has_every_public_name():
    pages = docs_site.reference_pages()
    assert {"contrastive", "contrastive.losses", "contrastive.parts"} <= set(docs_site.public_modules())
    for name in docs_site.public_modules():
        module = importlib.import_module(name)
        public = docs_site.public_names(module)
        assert {n for n in getattr(module, "__all__", ()) if hasattr(module, n)} <= set(public)
        for entry in public:
            heading = rf"^(## {entry}|      heading: {entry})$"
            assert re.search(heading, pages[f"reference/{name}.md"], re.MULTILINE), (name, entry)


def test_an_object_is_described_once_whoever_offers_it():
    blocks = re.findall(r"^::: (\S+)$", "\n".join(docs_site.reference_pages().values()), re.MULTILINE)
    assert len(blocks) == len(set(blocks))
    assert "contrastive.losses.nt_xent.NTXent" in blocks


def test_docstrings_lose_what_markdown_does_not_know():
    assert docs_site.plain("See :func:`a.b` and :class:`~c.D`. Write::\n\n    ``x``") == (
        "See `a.b` and `c.D`. Write:\n\n    ``x``"
    )


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]


@pytest.mark.parametrize("file", sorted(ROOT.glob(".github/**/*.yml")), ids=lambda file: file.name)
def test_files_for_github_are_yaml(file):
    assert yaml.safe_load(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("picture", sorted(DOCS.glob("images/*")), ids=lambda picture: picture.name)
def test_pictures_are_small(picture):
    assert picture.suffix == ".png"
    assert picture.stat().st_size <= 150 * 2**10


@pytest.mark.parametrize("diagram", sorted(DOCS.glob("methods/diagrams/*")), ids=lambda path: path.name)
def test_diagrams_are_small_and_load_nothing(diagram):
    text = diagram.read_text(encoding="utf-8")
    assert diagram.suffix == ".svg"
    assert len(text) <= 24 * 2**10
    assert not re.search(r"https?:(?!//www\.w3\.org/2000/svg\b)|@import|url\((?!#)", text)
