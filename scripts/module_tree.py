"""The tree of contrastive/ with one line per module, which is the first sentence of its docstring.

python scripts/module_tree.py          print it
python scripts/module_tree.py --page   rewrite it in docs/architecture.md
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "contrastive"
PAGE = ROOT / "docs" / "architecture.md"
MARKS = re.compile(r"(<!-- tree -->\n).*?(<!-- /tree -->)", re.DOTALL)
#: Packages from the ground up, in the order of imports.
ORDER = (
    "registry", "recipe", "comparison", "parts", "datasets", "augmentations", "backbones", "heads", "targets",
    "negatives", "losses", "optimizers", "callbacks", "protocols", "data", "training", "evaluation", "build",
    "runs", "curation", "pages", "testing", "commands",
)  # fmt: skip


def summary(path: Path) -> str:
    """The first paragraph of a module's docstring, in one line without its full stop."""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(doc.partition("\n\n")[0].split()).removesuffix(".").replace("``", "`").replace("|", "\\|")


def modules(folder: Path) -> Iterator[tuple[str, str]]:
    """(path below contrastive/, summary) of a package and of what is in it."""
    yield f"**{folder.relative_to(PACKAGE).as_posix()}/**", summary(folder / "__init__.py")
    for path in sorted(folder.glob("*.py")):
        if path.name != "__init__.py":
            yield path.relative_to(PACKAGE).as_posix(), summary(path)
    for inner in sorted(path.parent for path in folder.glob("*/__init__.py")):
        yield from modules(inner)


def tree() -> str:
    """A table of every module of the package."""
    rows = [(path.name, summary(path)) for path in sorted(PACKAGE.glob("*.py"))]
    rows += [row for name in ORDER for row in modules(PACKAGE / name)]
    lines = [f"| {path if path.startswith('**') else f'`{path}`'} | {text} |" for path, text in rows]
    return "\n".join(["| module | holds |", "|---|---|", *lines]) + "\n"


def main() -> None:
    if sys.argv[1:] == ["--page"]:
        PAGE.write_text(MARKS.sub(lambda match: match[1] + tree() + match[2], PAGE.read_text()))
        return
    print(tree(), end="")


if __name__ == "__main__":
    main()
