"""Messages and ``--help`` follow the rules of English in CONTRIBUTING that a regular expression can check."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from contrastive.cli import _parser

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("contrastive", "plugins")

#: What a message must not contain -> the remedy.
RULES = {
    r"\banew\b": "again",
    r"\balike\b": "equally, evenly, the same",
    r"\bbeside\b": "next to, besides",
    r"\bfor ever\b": "forever",
    r"\bso many\b": "the number",
    r"\bbe it\b": "whether",
    r"\bmend(s|ed)?\b": "fix, recover from",
    r"\b(say|says|said)\b": "set, report, declare, is",
    r"\b(tell|tells|told)\b": "report, show, identify",
    r"\basks?\b": "run, check, need, request",
    r"\bminds?\b": "account for, check",
    r"\bjudge[sd]?\b": "evaluate, score",
    r"(?<!\bthere )\b(is|are) no (?!longer\b|more\b)\w+": "is not a ..., or what is wrong",
    r"\bleave \S+( \S+)? away\b": "drop, remove",
    r"\b(ms|seconds?|s|[KMG]iB|images?|steps|epochs|values?|rows?|results?|one|once|twice|times|GPUs?)"
    r" an? (second|minute|step|epoch|image|row|batch|GPU|class|process|run|seed|check|view|side)\b": "per",
}

#: Calls whose literal arguments people read: their names, or the end of their names.
CALLS = ("print", "warn", "warning", "info", "log", "fail", "require", "skip", "add_mistake", "Mistake")
ENDINGS = ("Error", "Warning", "Exit", "Failed", "Skipped")
#: Keywords of argparse that ``--help`` shows.
KEYWORDS = ("help", "description", "epilog")

#: Variables that hold a message, or part of one.
VARIABLES = ("advice", "detail", "explanation", "hint", "message", "reason", "remedy", "why")


def literals(node: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of the string literals below a node; ``{}`` stands for what an f-string inserts."""
    match node:
        case ast.Constant(value=str(text)):
            yield node.lineno, text
        case ast.JoinedStr(values=parts):
            texts = [part.value if isinstance(part, ast.Constant) else "{}" for part in parts]
            yield node.lineno, "".join(str(text) for text in texts)
            for part in parts:
                if isinstance(part, ast.FormattedValue):
                    yield from literals(part.value)
        case _:
            for child in ast.iter_child_nodes(node):
                yield from literals(child)


def messages(tree: ast.AST) -> set[tuple[int, str]]:
    """(line, text) of every literal that is raised, printed, logged, shown as help or part of a message."""
    lines: set[tuple[int, str]] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Raise(exc=ast.AST() as exception):
                lines |= {*literals(exception)}
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name in VARIABLES:
                lines |= {*literals(value)}
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
                is_message = name in CALLS or name.endswith(ENDINGS)
                for argument in node.args if is_message else ():
                    lines |= {*literals(argument)}
                for keyword in node.keywords:
                    if is_message or keyword.arg in KEYWORDS:
                        lines |= {*literals(keyword.value)}
    return lines


def violations(text: str) -> list[str]:
    """Each breach of a rule in a text, with the remedy."""
    matches = ((re.search(rule, text), remedy) for rule, remedy in RULES.items())
    return [f"'{match[0]}' -> {remedy}" for match, remedy in matches if match]


def sources() -> list[str]:
    """Every Python file of the framework and its plugins, without tests."""
    paths = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return sorted(path.relative_to(ROOT).as_posix() for path in paths if "tests" not in path.parts)


def violations_in(file: str) -> list[str]:
    """``file:line: breach`` for every message of a file."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return [
        f"{file}:{line}: {breach}" for line, text in sorted(messages(tree)) for breach in violations(text)
    ]


def helps(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """(command, text of its ``--help``) of a parser and all its commands, without line breaks."""
    yield parser.prog, " ".join(parser.format_help().split())
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from helps(inner)


def test_messages():
    assert [line for file in sources() for line in violations_in(file)] == []


@pytest.mark.parametrize(("command", "text"), [pytest.param(*pair, id=pair[0]) for pair in helps(_parser())])
def test_help(command, text):
    assert violations(text) == []


@pytest.mark.parametrize(
    ("code", "breach"),
    [
        ("raise UsageError(f'{x} is no number')", "'is no number'"),
        ("errors.UsageError('x is ' + 'kept for ever')", "'for ever'"),
        ("self.add_mistake('loss', f'{a} says {b}')", "'says'"),
        ("command.add_argument('--x', help='images a second')", "'images a second'"),
        ("advice = 'say negatives: in_batch'", "'say'"),
        ("print('0.3 ms a step')", "'ms a step'"),
        ("require(ok, f'{name} is once a step')", "'once a step'"),
    ],
)
def test_a_breach_is_found(code, breach):
    (text,) = [text for _, text in messages(ast.parse(code)) if violations(text)]
    assert violations(text)[0].startswith(breach)


@pytest.mark.parametrize(
    "code",
    [
        "x = 'is no message'",
        "raise UsageError('it is no longer valid')",
        "print('one image per step')",
        "fail('there is no such file')",
    ],
)
def test_other_text_is_not(code):
    assert not [text for _, text in messages(ast.parse(code)) if violations(text)]
