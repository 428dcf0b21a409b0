"""Counts in messages agree with their nouns: ``contrastive.text.quantity`` writes them, never "1 images"."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from contrastive.text import quantity

ROOT = Path(__file__).resolve().parents[1]

#: Nouns that messages count.
NOUNS = (
    "bands|batches|bits|bytes|candidates|channels|checks|classes|chunks|columns|comparisons|configurations|"
    "elements|entries|epochs|evaluations|features|files|folders|groups|hosts|ids|images|items|keys|labels|"
    "layers|levels|minutes|names|negatives|others|parameters|parts|pixels of|plugins|points of|prefixes|"
    "problems|processes|queries|recipes|rows|runs|seconds|seeds|splits|steps|tensors|values|vectors|views|"
    "weights|workers"
)
_VERBS = "has|no|returns|holds|with|like|the|unpickles|lets|cuts|takes|cannot|must|be|for|and|in|spans"
_WORD = rf"(?!(?:{_VERBS}) )[a-z-]+ "
_COUNTED = re.compile(rf"\{{(\d+)\}} (?:{_WORD}){{0,2}}?(?:{NOUNS})\b(?!/)")
#: What stands before a noun and is no count: a word, a rate, a limit above one.
NOT_COUNTS = {
    "role": "which images: fit, validation or test",
    "other": "the name of a split",
    "sizes": "a list of sizes",
    "dtype": "a type",
    "have": "a verb",
    "command": "the name of a command",
    "m['images_per_second']": "a rate",
    "report['images_per_second']": "a rate",
    "millions": "with a fraction",
    "env['SLURM_STEP_NUM_TASKS']": "two or more",
    "_BATCH": "a constant",
}


def counts(code: str) -> Iterator[tuple[int, str, str]]:
    """(line, expression, text) of every f-string that puts a noun in the plural after an expression."""
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.JoinedStr):
            continue
        text, expressions = "", []
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                text += f"{{{len(expressions)}}}"
                expressions.append(ast.unparse(part.value))
            else:
                text += str(part.value)
        for match in _COUNTED.finditer(text):
            yield node.lineno, expressions[int(match[1])], match[0]


def is_count(expression: str) -> bool:
    is_limit = expression.isupper() or expression.endswith(".MAX")
    return not (is_limit or expression in NOT_COUNTS or expression.startswith(("quantity(", "byte_count(")))


def sources() -> list[str]:
    """Every Python file of the framework and its plugins, without tests."""
    paths = (path for folder in ("contrastive", "plugins") for path in (ROOT / folder).rglob("*.py"))
    return sorted(path.relative_to(ROOT).as_posix() for path in paths if "tests" not in path.parts)


def test_every_count_agrees_with_its_noun():
    wrong = [
        f"{file}:{line}: {expression!r} in {text!r}; use contrastive.text.quantity"
        for file in sources()
        for line, expression, text in counts((ROOT / file).read_text(encoding="utf-8"))
        if is_count(expression)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("f'{epochs} epochs'", ["epochs"]),
        ("f'after {len(a)} unreadable images'", ["len(a)"]),
        ("f'{n:,} more files here'", ["n"]),
        ("f'{rate:.0f} images/s'", []),
        ("f'{quantity(n, \"image\")} here'", []),
        ("f'{path} is a folder'", []),
    ],
)
def test_a_count_is_found(code, expected):
    assert [e for _, e, _ in counts(code) if is_count(e)] == expected


def test_quantities():
    assert [quantity(n, "image") for n in (0, 1, 2, 1234)] == [
        "0 images",
        "1 image",
        "2 images",
        "1,234 images",
    ]
    assert [quantity(n, "entry", "entries") for n in (1, 2)] == ["1 entry", "2 entries"]
