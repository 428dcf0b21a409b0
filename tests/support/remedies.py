"""Messages that give a remedy, as the syntax tree of the source has them, and how a test follows one.

A remedy is a clause that begins with a command: "...; set train.cache to none", "pip install ...". It counts
wherever its literal stands (raised, reported, returned by a helper), except in docstrings and ``--help``.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("contrastive", "plugins")

#: Verbs that begin a remedy.
VERBS = (
    "add|allocate|annotate|arrange|build|call|change|check|choose|clamp|compute|continue|convert|"
    "copy|correct|create|declare|define|delete|derive|detach|develop|do not|download|draw"
    "|drop|encode|end|evaluate|export|extract|free|freeze|give|guard|hash|implement|increase|install"
    "|keep|launch|leave|lengthen|let|list|lower|make|mark|move|name|omit|open|pass"
    "|pin|pip install|point|process each|pull|put|quote|raise|read|reduce|register|remove|"
    "rename|repair|repeat|replace|restore|return|run|save|seed its|separate|set|"
    "shorten|show|split|start|store|take|train|try|uninstall|unpack|update|"
    "upgrade|use|wait|write"
)
#: What may stand before the verb: nothing, punctuation, or words that join clauses.
_BEFORE = r"(?:^(?: *[;,.] *)?|[;.:(] |, (?:or |and |then |otherwise )?|\b(?:or|and) |\{\} (?-i:(?=[A-Z]))|`)"
_COMMAND = re.compile(rf"{_BEFORE}({VERBS})\b(?![-_:(=/'.`])", re.IGNORECASE)
#: Words after a verb that make it a noun or the end of a sentence.
_NOUN = re.compile(
    r"\s*(?:$|[.,;:)](?:\s|$)|is\b|are\b|of\b(?!:)|has\b|was\b|and further\b|images?\b|->|"
    r"\(\{|(?:\{\} )?needs\b|wrote\b|rule\b|\w+ object\b|memory$)"
)
#: The key or the name at the start of a part's message, which a recipe's path may state already.
_KEY = re.compile(r"^(?:\w+(?:\\s\+|\\\.))?\w+(?:\\\[\.\*\?\\\])?:\\s\+")
#: Keywords whose texts describe and never complain.
_DESCRIPTIONS = ("help", "description", "epilog", "usage")


@dataclass(frozen=True, order=True)
class Message:
    """A literal with a remedy: its file relative to the root, its line, and its text; ``{}`` is inserted."""

    file: str
    line: int
    text: str

    @property
    def pattern(self) -> re.Pattern[str]:
        """Matches a message that was made from the literal."""
        pieces = [re.escape(one_line(piece)) for piece in re.split(r"\{\w*\}", self.text)]
        whole = ".*?".join(piece.replace("\\ ", r"\s+") for piece in pieces)
        return re.compile(re.sub(_KEY, r"(?:\g<0>)?", whole, count=1), re.DOTALL)


def one_line(text: str) -> str:
    """A text without line breaks, which a terminal or a source may put anywhere."""
    return re.sub(r"\s+", " ", text)


def gives_remedy(text: str) -> bool:
    """Whether a clause of a text begins with a command."""
    return any(not _NOUN.match(text, match.end()) for match in _COMMAND.finditer(text))


def _literals(node: ast.AST) -> Iterator[tuple[int, str]]:
    match node:
        case ast.Constant(value=str(text)):
            yield node.lineno, text
        case ast.JoinedStr(values=parts):
            yield node.lineno, "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in parts)
            for part in parts:
                if isinstance(part, ast.FormattedValue):
                    yield from _literals(part.value)
        case ast.Expr(value=ast.Constant()):  # a docstring
            return
        case ast.keyword(arg=name) if name in _DESCRIPTIONS:
            return
        case ast.Call(func=ast.Name(id="command")):  # of the command line: its summary
            return
        case _:
            for child in ast.iter_child_nodes(node):
                yield from _literals(child)


def messages_in(code: str, file: str) -> list[Message]:
    """The messages with a remedy in the code of a file."""
    found = (Message(file, line, text) for line, text in _literals(ast.parse(code)) if " " in text.strip())
    return [message for message in found if gives_remedy(message.text)]


@cache
def messages() -> tuple[Message, ...]:
    """Every message with a remedy in the framework and its plugins, without tests."""
    paths = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    files = [path.relative_to(ROOT).as_posix() for path in paths if "tests" not in path.parts]
    return tuple(message for file in files for message in messages_in((ROOT / file).read_text("utf-8"), file))


def matching(file: str, words: str) -> list[Message]:
    """The messages of a file (or of one whose path ends so) that contain some words."""
    own = (m for m in messages() if m.file == file or m.file.endswith(f"/{file}"))
    return [message for message in own if words in message.text]


@dataclass(frozen=True)
class Remedy:
    """A message, how to provoke it, and its remedy applied.

    Attributes:
        file: of the message; the end of its path suffices.
        words: of the message, in which no other message of the file has them.
        attempt: what the user does, with a value; it raises the message or returns it, or returns what is
            not text if all is well.
        wrong: the value that provokes it, or a function that returns it.
        right: the value that follows the remedy, or a function of the message, which may also act.
        then: words of the message that comes next, if the remedy alone is not the end.
    """

    file: str
    words: str
    attempt: Callable[[Any], Any]
    wrong: Any
    right: Any
    then: str = field(default="")

    def __str__(self) -> str:
        return f"{self.file}: {self.words}"

    def follow(self) -> None:
        """Provoke the message, apply the remedy, and check that it is gone and nothing else is wrong."""
        (message,) = matching(self.file, self.words)
        before = outcome(self.attempt, self.wrong() if callable(self.wrong) else self.wrong)
        assert message.pattern.search(before), f"{message.text!r} was not provoked, but {before!r}"
        after = outcome(self.attempt, self.right(before) if callable(self.right) else self.right)
        assert not message.pattern.search(after), f"its remedy leaves it: {after!r}"
        assert self.then in after if self.then else not after, f"its remedy leads to {after!r}"


def outcome(attempt: Callable[[Any], Any], value: Any) -> str:
    """The text that an attempt raises or returns, in one line; empty if it returns anything else."""
    try:
        result = attempt(value)
    except (Exception, SystemExit) as error:
        return one_line(str(error)) or type(error).__name__
    return one_line(result).strip() if isinstance(result, str) else ""


def number(message: str, before: str) -> str:
    """The number after some words of a message."""
    return re.search(rf"{re.escape(before)} (\d+)", message)[1]


def first_listed(message: str, before: str = "one of: ") -> str:
    """The first of the names that a message lists."""
    return re.search(rf"{re.escape(before)}([\w-]+)", message)[1]


def require_extra(message: str, packages: tuple[str, ...]) -> None:
    """Checks that ``pip install 'contrastive-framework[x]'`` in a message installs one of the packages."""
    match = re.search(r"contrastive-framework\[(\w+)\]", message)
    assert match, message
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    needs = [need.lower().replace("_", "-") for need in extras[match[1]]]
    assert any(need.startswith(packages) for need in needs), needs
