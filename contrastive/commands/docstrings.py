"""Prose and docstrings for a terminal: wrapped to its width, without the marks of reStructuredText."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

#: Columns that prose fills at most, however wide the terminal is.
PROSE_WIDTH = 100

#: ``:class:`X```, ``:class:`~a.b.X``` (which shows X alone) and ``:ref:`X <target>```.
_ROLE = re.compile(r":[a-z]+(?::[a-z]+)?:`(~?)([^`<]+?)(?:\s*<[^`>]*>)?`")
_LITERAL = re.compile(r"``(.+?)``")
_TABLE_BORDER = re.compile(r"\s*=+(\s+=+)+\s*")
#: What starts a paragraph of its own although no blank line stands before it: an item of a list, or an entry
#: of a section such as ``Raises:``.
_ITEM = re.compile(r"\s*([-*]|\d+\.) |\s+\w[\w.]*( \([^)]*\))?: ")


def without_marks(text: str) -> str:
    """The text without roles and double backticks: ``:class:`~contrastive.Run``` becomes ``Run``."""
    names = _ROLE.sub(lambda match: match[2].rpartition(".")[2] if match[1] else match[2], text)
    return _LITERAL.sub(r"\1", names)


def hanging(label: str, text: str, column: int, width: int) -> str:
    """``label``, and ``text`` wrapped to ``width`` columns beginning at ``column``. Long words stay whole."""
    margin = " " * column
    lines = _wrap(text, max(width, column + 20), margin, margin)
    return "\n".join([f"{label:<{column}}{lines[0][column:]}", *lines[1:]]) if lines else label


def print_lines(console: Console, lines: str, bold: int = 0, dim: bool = False) -> None:
    """Print lines that are wrapped already, the first ``bold`` characters in bold."""
    text = Text(lines, style="dim" if dim else "")
    text.stylize("bold", 0, bold)
    console.print(text, soft_wrap=True, highlight=False)


def terminal_text(doc: str, width: int, table_width: int | None = None) -> str:
    """A docstring (indentation removed) for a terminal.

    Paragraphs are wrapped to ``width`` columns. A table stays one if it fits into ``table_width`` columns
    (default: ``width``), else its rows follow one another as records. Code after ``::`` stays as it is.
    """
    lines, blocks = doc.splitlines(), []
    while lines:
        if not lines[0].strip():
            blocks.append(lines.pop(0).strip())
        elif _TABLE_BORDER.fullmatch(lines[0]):
            blocks.append(_table(_pop_table(lines), width, table_width or width))
        else:
            paragraph = _pop_paragraph(lines)
            code = paragraph[-1].endswith("::")
            if code:
                paragraph[-1] = paragraph[-1][:-1]
            blocks.append(_paragraph(paragraph, width))
            if code:
                blocks += _pop_code(lines, _indent(paragraph[0]))
    return "\n".join(blocks)


def _wrap(text: str, width: int, first: str = "", rest: str = "") -> list[str]:
    """Lines of at most ``width`` columns, with the indentation of the first and of the others."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _pop_paragraph(lines: list[str]) -> list[str]:
    """Take the first paragraph: lines up to a blank line, a table, an item, a heading's end or a dedent."""
    paragraph = [lines.pop(0)]
    while lines and lines[0].strip() and not _TABLE_BORDER.fullmatch(lines[0]) and not _ITEM.match(lines[0]):
        if paragraph[-1].endswith(":") and _indent(lines[0]) > _indent(paragraph[0]):
            break
        if _indent(lines[0]) < _indent(paragraph[-1]):
            break
        paragraph.append(lines.pop(0))
    return paragraph


def _paragraph(lines: Sequence[str], width: int) -> str:
    first, rest = _indent(lines[0]), _indent(lines[min(1, len(lines) - 1)])
    text = without_marks(" ".join(line.strip() for line in lines))
    return "\n".join(_wrap(text, width, " " * first, " " * rest))


def _pop_code(lines: list[str], indent: int) -> list[str]:
    code = []
    while lines and (not lines[0].strip() or _indent(lines[0]) > indent):
        code.append(lines.pop(0).rstrip())
    return code


def _pop_table(lines: list[str]) -> list[str]:
    """Take the lines of a table, up to its last border."""
    table = [lines.pop(0)]
    while lines and lines[0].strip():
        table.append(lines.pop(0))
    return table


def _table(lines: Sequence[str], width: int, table_width: int) -> str:
    """A simple table of reStructuredText, whose first row names the columns."""
    starts = [match.start() for match in re.finditer("=+", lines[0])]
    ends = [*starts[1:], None]
    rows = [
        [without_marks(line[start:end]).strip() for start, end in zip(starts, ends, strict=True)]
        for line in lines
        if not _TABLE_BORDER.fullmatch(line)
    ]
    sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if sum(sizes) + 2 * (len(sizes) - 1) <= table_width:
        rows.insert(1, ["-" * size for size in sizes])
        return "\n".join(
            "  ".join(cell.ljust(size) for cell, size in zip(row, sizes, strict=True)).rstrip()
            for row in rows
        )
    heading, *records = rows
    return "\n".join(_record(heading, record, width) for record in records)


def _record(heading: Sequence[str], cells: Sequence[str], width: int) -> str:
    """One row of a table: its first cell, and below it the others that are not empty, each with its name."""
    fields = [f"{name}: {cell}" for name, cell in zip(heading[1:], cells[1:], strict=True) if cell]
    return "\n".join([*_wrap(cells[0], width), *_wrap(", ".join(fields), width, "  ", "  ")])
