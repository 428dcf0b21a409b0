"""YAML text -> nodes with file, line and column, and back.

PyYAML scans and parses; values are resolved by the core schema of YAML 1.2, because PyYAML's own 1.1
reads ``1e-3`` as text, ``on`` and ``no`` as booleans, ``010`` as 8 and ``12:30`` as 750. Duplicate
keys, tags, merge keys and documents after the first are refused, and size, depth and the number of
nodes (aliases expanded) are bounded, so that no file can exhaust the machine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

from contrastive.errors import Mistake, RecipeError, Where
from contrastive.recipe.nodes import Node

Keys = tuple[str, ...]

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_NODES = 20_000

_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
#: Tag, pattern and possible first letters of what a plain scalar may be, other than text.
_CORE = (
    ("null", _NULL, "~nN"),
    ("bool", _BOOL, "tTfF"),
    ("int", _INT, "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
)


def resolve_scalar(text: str) -> Any:
    """The value of a plain scalar under the core schema of YAML 1.2 (section 10.3.2 of its specification)."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text, base)
    if _FLOAT.fullmatch(text):
        number = text.lower()
        return float(number.replace(".inf", "inf").replace(".nan", "nan"))
    return text


def read_yaml(content: bytes | str, file: str, whole: bool = True) -> tuple[Node, list[Mistake]]:
    """The tree of one YAML document, and the mistakes that leave it readable (duplicate keys).

    Raises RecipeError if it is not readable at all. If ``whole`` is false, the text is a value of
    ``--set``, whose lines and columns mean nothing to the user.
    """
    text = _decode(content, file)
    builder = _Builder(file, whole)
    try:
        return builder.document(yaml.parse(text, Loader=yaml.SafeLoader)), builder.mistakes
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        position = (before.count("\n"), len(before) - before.rfind("\n") - 1)
        raise builder.refusal(position, "a character that YAML forbids; is this a text file?") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = (mark.line, mark.column) if mark else (0, 0)
        raise builder.refusal(position, _syntax(str(error.problem or error.context))) from None


def comment_in(text: str) -> str:
    """The first comment in a text that :func:`read_yaml` has read; empty if there is none."""
    tokens = yaml.scan(text, Loader=yaml.SafeLoader)
    scalars = [(t.start_mark.index, t.end_mark.index) for t in tokens if isinstance(t, yaml.ScalarToken)]
    for match in re.finditer(r"(?<!\S)#[^\n]*", text):
        if not any(start <= match.start() < end for start, end in scalars):
            return match[0]
    return ""


def _decode(content: bytes | str, file: str) -> str:
    if len(content) > MAX_BYTES:
        message = f"is larger than {MAX_BYTES // 1024} KiB, too large for a recipe; is it the right file?"
        raise _error(Where(file), message)
    if isinstance(content, str):
        return content
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _error(Where(file), "is not UTF-8 text; a recipe is a YAML text file") from None


def _syntax(problem: str) -> str:
    if "'\\t'" in problem:
        return "a tab; YAML is indented with spaces"
    hints = {
        "mapping values are not allowed": "a ':' that is not allowed; check the indentation, or add quotes",
        "expected <block end>": "wrong indentation; entries of a map or list start in the same column",
        "could not find expected ':'": "a key without ':'; write 'key: value'",
    }
    for start, hint in hints.items():
        if start in problem:
            return f"not valid YAML: {hint}"
    return f"not valid YAML ({problem}); check brackets, quotes and indentation here"


def _error(where: Where, message: str) -> RecipeError:
    return RecipeError([Mistake(where, "", message)])


def _depth(node: Node) -> int:
    """The depth of nesting: 0 for a scalar."""
    children = node.value.values() if node.is_map else node.value if node.is_list else ()
    return 1 + max(map(_depth, children), default=0) if node.is_map or node.is_list else 0


class _Builder:
    """Builds nodes from parser events, and counts them, aliases at their full size."""

    def __init__(self, file: str, whole: bool):
        self.file, self.whole = file, whole
        self.mistakes: list[Mistake] = []
        self._nodes = 0
        self._anchors: dict[str, tuple[Node, int] | None] = {}  # node and size; None while under construction

    def refusal(self, position: tuple[int, int], message: str) -> RecipeError:
        return _error(self._where(position), message)

    def document(self, events: Iterator[yaml.Event]) -> Node:
        next(events)  # stream start
        first = next(events)
        if isinstance(first, yaml.StreamEndEvent):
            return Node(None, self._where((0, 0)), is_absent=True)
        node = self._node(next(events), events, (), 0)
        next(events)  # document end
        after = next(events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise self._refuse(after, "a second document ('---'); a recipe is one document")
        return node

    def _node(self, event: Any, events: Iterator[yaml.Event], path: Keys, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        self._count(1, event)
        self._check_depth(depth, event)
        if event.tag not in (None, "!"):
            raise self._refuse(event, f"a tag ({event.tag}); a recipe holds plain values only")
        before = self._nodes
        if event.anchor:
            self._anchors[event.anchor] = None
        if isinstance(event, yaml.MappingStartEvent):
            node = self._map(event, events, path, depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._list(event, events, path, depth)
        else:
            node = self._scalar(event)
        if event.anchor:
            self._anchors[event.anchor] = node, self._nodes - before + 1
        return node

    def _alias(self, event: yaml.AliasEvent, depth: int) -> Node:
        if event.anchor not in self._anchors:
            raise self._refuse(event, f"'*{event.anchor}' has no anchor '&{event.anchor}' before it")
        anchor = self._anchors[event.anchor]
        if anchor is None:
            raise self._refuse(event, f"'*{event.anchor}' is inside the value it names")
        node, size = anchor
        self._count(size, event)
        self._check_depth(depth + _depth(node), event)
        return node

    def _map(
        self, start: yaml.MappingStartEvent, events: Iterator[yaml.Event], path: Keys, depth: int
    ) -> Node:
        value: dict[str, Node] = {}
        keys: dict[str, Where] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self._refuse(event, "a key must be a word; check the indentation and brackets here")
            key, where = self._text(event), self._where_of(event)
            if key == "<<" and event.implicit[0]:
                raise self._refuse(event, "a merge key ('<<'); use `extends: other.yaml` to inherit")
            child = self._node(next(events), events, (*path, key), depth + 1)
            if event.implicit[0] and child.is_absent:
                key, child = self._without_space(key, child, where, path, is_flow=bool(start.flow_style))
            if key in value:
                first = f" (first at line {keys[key].line})" if self.whole else ""
                message = f"this key is written twice{first}; keep one"
                self.mistakes.append(Mistake(where, ".".join((*path, key)), message))
                continue
            value[key], keys[key] = child, where
        return Node(value, self._where_of(start), keys)

    def _without_space(
        self, key: str, child: Node, where: Where, path: Keys, is_flow: bool
    ) -> tuple[str, Node]:
        """The key and value of a plain key without a value, as they were probably meant.

        Adds a mistake for ``{width:0.5}``, where YAML reads the key ``width:0.5``, and for ``{width}``.
        """
        word, colon, text = key.partition(":")
        if colon:
            message = (
                f"YAML reads '{key}' as a key without a value; write '{word}: {text.strip()}', with a space"
            )
            self.mistakes.append(Mistake(where, ".".join((*path, word)), message))
            return word, Node(resolve_scalar(text.strip()), child.where)
        if is_flow:
            message = f"this key has no value; write '{key}: VALUE', or '{key}: null' for none"
            self.mistakes.append(Mistake(where, ".".join((*path, key)), message))
        return key, child

    def _list(self, start: yaml.Event, events: Iterator[yaml.Event], path: Keys, depth: int) -> Node:
        items: list[Node] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(self._node(event, events, (*path, str(len(items))), depth + 1))
        return Node(items, self._where_of(start))

    def _scalar(self, event: yaml.ScalarEvent) -> Node:
        text = self._text(event)
        if not event.implicit[0]:  # quoted
            return Node(text, self._where_of(event))
        if not text:
            return Node(None, self._where_of(event), is_absent=True)
        value = resolve_scalar(event.value) if len(event.value) <= 1000 else event.value
        if isinstance(value, int) and abs(value) >= 2**63:
            raise self._refuse(event, f"{event.value[:20]}... is beyond 64 bits; quote it if it is text")
        if isinstance(value, float) and math.isinf(value) and "inf" not in event.value.lower():
            raise self._refuse(event, f"{event.value} is beyond the range of a number")
        return Node(value, self._where_of(event), source=event.value)

    def _text(self, event: yaml.ScalarEvent) -> str:
        if any("\ud800" <= letter <= "\udfff" for letter in event.value):
            raise self._refuse(event, "half a character (a lone surrogate); write the whole one")
        return event.value

    def _count(self, nodes: int, event: yaml.Event) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise self._refuse(
                event, f"more than {MAX_NODES} values (aliases expanded); a recipe is far smaller"
            )

    def _check_depth(self, depth: int, event: yaml.Event) -> None:
        if depth > MAX_DEPTH:
            raise self._refuse(
                event, f"nested more than {MAX_DEPTH} levels deep; a recipe is flatter than that"
            )

    def _refuse(self, event: yaml.Event, message: str) -> RecipeError:
        return _error(self._where_of(event), message)

    def _where_of(self, event: yaml.Event) -> Where:
        mark = event.start_mark
        return self._where((mark.line, mark.column) if mark else (0, 0))

    def _where(self, position: tuple[int, int]) -> Where:
        return Where(self.file, position[0] + 1, position[1] + 1) if self.whole else Where(self.file)


class _Dumper(yaml.SafeDumper):
    """Quotes exactly those texts that :func:`resolve_scalar` would not read as text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own name

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Text that is not printable (line breaks of every kind) is double-quoted, which escapes it."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _represent_text)
for _tag, _pattern, _first in _CORE:
    _Dumper.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern.pattern})$"), list(_first)
    )
_Dumper.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^$"), [""])


class _NarrowDumper(_Dumper):
    """Writes maps that do not fit into one line in block style; lists break between their items."""

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        node = super().represent_mapping(tag, mapping, flow_style)
        if len(str(mapping)) > self.best_width:
            node.flow_style = False
        return node


def write_yaml(value: Any, width: int | None = None) -> str:
    """YAML text that :func:`read_yaml` reads back as the same value; innermost maps and lists take one line.

    With ``width`` it suits a terminal of that many columns: the last 20 are left for keys and indentation.
    """
    dumper, columns = (_Dumper, 110) if width is None else (_NarrowDumper, max(width - 20, 20))
    return yaml.dump(
        value, Dumper=dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=columns
    )
