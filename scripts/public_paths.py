"""The public paths of a checkout: what its documentation, templates and plugins import from contrastive, and
what the documentation names by its path.

    python scripts/public_paths.py [CHECKOUT]          print them, ``module:name`` per line
    python scripts/public_paths.py --page              rewrite the list in docs/plugins.md

A path that was public once keeps working: ``tests/support/public_paths.txt`` holds those of commit 1a738a1,
and ``tests/test_public_paths.py`` imports each of them.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "plugins.md"
MARKS = re.compile(r"(<!-- public paths -->\n).*?(<!-- /public paths -->)", re.DOTALL)
_CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
#: In text: a path in backticks, and the names after it, as in `contrastive.kinds.InFeatures`, `InChannels`.
_PATH = re.compile(r"`[^`\n]*?\b(contrastive(?:\.\w+)+)[^`\n]*`((?:, `[A-Za-z_]\w*`)*)")
#: A table of what a module has, and the first cell of its rows.
_TABLE = re.compile(
    r"^\| [^|`]*\bof `(contrastive[\w.]*)`[^|`]* \|.*\n\|[-| :]+\n((?:\|.*\n?)+)", re.MULTILINE
)
_ROW = re.compile(r"^\| ([^|]*)", re.MULTILINE)
_IMPORT = re.compile(r"^[ \t]*(from contrastive(?:\.[\w.]+)? import (?:\([^)]*\)|[^\n(]+))", re.MULTILINE)


def sources(checkout: Path) -> Iterator[str]:
    """The Python code that users read: of pages, templates and plugins, without the plugins' own tests."""
    for page in (checkout / "README.md", checkout / "CONTRIBUTING.md", *checkout.glob("docs/**/*.md")):
        yield from _BLOCK.findall(page.read_text())
    for template in checkout.glob("contrastive/**/templates/*.txt"):
        yield template.read_text()
    for folder in ("plugins", "tests/plugins"):
        for path in checkout.glob(f"{folder}/*/*"):
            if path.suffix == ".py":
                yield path.read_text()
            elif path.suffix == ".md":
                yield from _BLOCK.findall(path.read_text())


def paths_in(code: str) -> Iterator[str]:
    """``module:name`` of what a piece of code imports from contrastive, or reads as its attribute."""
    for statement in _IMPORT.findall(code):
        node = ast.parse(statement.strip()).body[0]
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}:{alias.name}" for alias in node.names)
    for module, name in re.findall(r"\b(contrastive(?:\.testing)?)\.([A-Za-z_]\w*)\(", code):
        yield f"{module}:{name}"
    if re.search(r"^import contrastive\.timm_models", code, re.MULTILINE):
        yield "contrastive.timm_models:"


def pages(checkout: Path) -> Iterator[str]:
    """The text of the pages for users and authors, without code and the list of this script."""
    for page in (checkout / "README.md", *checkout.glob("docs/*.md"), *checkout.glob("docs/plugins/*.md")):
        yield _CODE.sub("", MARKS.sub("", page.read_text()))


def paths_in_text(text: str, checkout: Path) -> Iterator[str]:
    """``module:name`` of what a page names by its path, or in a table of what a module has."""
    for whole, others in _PATH.findall(text):
        module, names = _split(whole, checkout)
        if names:
            yield f"{module}:{names[0]}"
            yield from (f"{module}:{name}" for name in re.findall(r"\w+", others))
    for module, rows in _TABLE.findall(text):
        for row in _ROW.findall(rows):
            yield from (f"{module}:{name}" for name in re.findall(r"`([A-Za-z_]\w*)", row))


def _split(whole: str, checkout: Path) -> tuple[str, list[str]]:
    """The longest module that a path begins with, and the names after it."""
    words = whole.split(".")
    for length in range(len(words), 0, -1):
        path = checkout.joinpath(*words[:length])
        if path.with_suffix(".py").is_file() or path.is_dir():
            return ".".join(words[:length]), words[length:]
    return "contrastive", words[1:]


def public_paths(checkout: Path) -> list[str]:
    """Every public path of a checkout, sorted."""
    in_code = {path for code in sources(checkout) for path in paths_in(code)}
    return sorted(in_code.union(*(paths_in_text(text, checkout) for text in pages(checkout))))


def page_list(paths: list[str]) -> str:
    """The paths as a table for the plugin guide: module, names."""
    rows = [
        f"| `{module}` | {', '.join(f'`{name}`' for _, _, name in group if name)} |"
        for module, group in groupby((path.partition(":") for path in paths), key=lambda path: path[0])
    ]
    return "\n".join(["| module | names |", "|---|---|", *rows]) + "\n"


def main() -> None:
    paths = public_paths(ROOT)
    if sys.argv[1:] == ["--page"]:
        PAGE.write_text(MARKS.sub(lambda match: match[1] + page_list(paths) + match[2], PAGE.read_text()))
        return
    print("\n".join(public_paths(Path(sys.argv[1])) if sys.argv[1:] else paths))


if __name__ == "__main__":
    main()
