"""Names that are a bare participle, such as ``found``; a name should be a noun.

    python scripts/participles.py  # every one, with its lines

The script reads every name that the code defines: variables, parameters, attributes, functions and classes
that are one word, in any case, with or without leading underscores.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("contrastive", "plugins", "benchmarks", "scripts", "examples")

#: Participles that do not end in -ed, but for those that are also the plain verb or a noun (read, bound).
IRREGULAR = set(
    """
    asked begun bent broken brought built caught chosen done drawn driven due fallen fed felt forgotten fought
    found given gone got grown heard held hidden hung judged kept known laid led left lent lit lost made meant
    met paid said seen sent shot shown sold sought spent spoilt spoken stood struck stuck sunk swept swung
    taken taught thought thrown told torn understood withdrawn woken won worn written
    """.split()  # noqa: SIM905 - seventy quoted words would fill a page
)
#: Words in -ed that are not participles.
OTHER_WORDS = {"embed", "need", "red", "seed", "speed"}
#: Participle -> why a name may be it: promises to users, terms of the field, and plain yes-or-no adjectives.
EXCEPTIONS = {
    "debiased": "the name of a loss, from its paper",
    "detached": "an attribute that targets declare, and torch's word",
    "enabled": "a yes-or-no adjective",
    "evaluated": "a method that callbacks write",
    "expected": "a term of statistics and tests",
    "failed": "a yes-or-no adjective, and a key of reports",
    "fixed": "an attribute that targets declare",
    "finished": "a yes-or-no adjective",
    "frozen": "a yes-or-no adjective",
    "fused": "a parameter of torch's optimizers",
    "hidden": "a hidden layer, and a value in recipes",
    "injected": "the mark of parameters that the builder supplies",
    "interrupted": "an exception that users catch, and a yes-or-no adjective",
    "labelled": "a yes-or-no adjective",
    "mirrored": "a mark of views",
    "normalised": "an attribute that losses declare",
    "pretrained": "timm's word",
    "required": "a yes-or-no adjective",
    "skipped": "an attribute of image tables, and a key of metrics.jsonl",
    "stopped": "a yes-or-no adjective, and a key of checkpoints",
    "trained": "a yes-or-no adjective, and a key of summaries",
    "untrained": "a yes-or-no adjective, and a key of summaries",
}
#: (file, participle) -> why this file alone may use it.
PROMISES = {
    ("contrastive/comparison/comparison.py", "aligned"): "a method that losses call",
    ("contrastive/testing/framework.py", "asked"): "an attribute of checks and results, and a report key",
    ("contrastive/testing/framework.py", "unchecked"): "an attribute that parts declare",
    ("contrastive/testing/subjects.py", "unchecked"): "an attribute that parts declare",
    (
        "plugins/contrastive-clusters/contrastive_clusters/deepcluster.py",
        "unchecked",
    ): "an attribute that parts declare",
    ("plugins/contrastive-neighbours/contrastive_neighbours/target.py", "unchecked"): "the same",
    ("plugins/contrastive-negatives/contrastive_negatives.py", "weighted"): "a parameter of recipes",
    (
        "plugins/contrastive-negatives/contrastive_negatives.py",
        "Guided",
    ): "the name of a source, from its paper",
}


class Occurrence(NamedTuple):
    """One participle: its file, its line and its spelling there."""

    file: str
    line: int
    name: str


def is_participle(name: str) -> bool:
    """Whether a name is a single word, and a participle that no exception allows."""
    word = name.strip("_")
    if not re.fullmatch(r"[A-Z]?[a-z]+|[A-Z]+", word):
        return False
    word = word.lower()
    regular = word.endswith("ed") and not word.endswith("eed")
    return (regular or word in IRREGULAR) and word not in OTHER_WORDS and word not in EXCEPTIONS


def names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that a syntax tree defines, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.arg(arg=name):
                yield name, node.lineno
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node.lineno
            case ast.ExceptHandler(name=str(name)) | ast.alias(asname=str(name)):
                yield name, node.lineno
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name, node.lineno


def participles(root: Path = ROOT) -> list[Occurrence]:
    """Every participle of the project, sorted by file and line."""
    occurrences = []
    files = [path for folder in FOLDERS for path in (root / folder).rglob("*.py")]
    for path in sorted(path for path in files if "tests" not in path.relative_to(root).parts):
        file = path.relative_to(root).as_posix()
        for name, line in names(ast.parse(path.read_text(encoding="utf-8"))):
            if is_participle(name) and (file, name) not in PROMISES:
                occurrences.append(Occurrence(file, line, name))
    return sorted(occurrences)


def main() -> None:
    print(*(f"{file}:{line}: {name}" for file, line, name in participles()), sep="\n")


if __name__ == "__main__":
    main()
