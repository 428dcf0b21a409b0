"""Tables of a page, which sort by any column at a click."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from contrastive.pages.cells import Cell, CellTable


def _name(index: int, name: str) -> str:
    return escape(name)


def sortable_table(table: CellTable, label: Callable[[int, str], str] = _name) -> str:
    """A table as HTML; ``page.js`` sorts it.

    Args:
        table: its title is not shown.
        label: number and text of a row's first cell -> its HTML.
    """
    headings = "".join(
        f'<th scope="col"><button type="button">{escape(column.title)}</button></th>'
        for column in table.columns
    )
    lines = "".join(
        f"<tr>{_cell(name, label(index, name.text), 'th')}"
        + "".join(_cell(cell, _text(cell), "td") for cell in cells)
        + "</tr>"
        for index, (name, *cells) in enumerate(table.rows)
    )
    head = f"<thead><tr>{headings}</tr></thead>"
    return f'<div class="wide"><table class="sortable">{head}<tbody>{lines}</tbody></table></div>'


def _cell(cell: Cell, content: str, tag: str) -> str:
    value = "" if cell.value is None else escape(str(cell.value))
    scope = ' scope="row"' if tag == "th" else ""
    return f'<{tag}{scope} data-value="{value}">{content}</{tag}>'


def _text(cell: Cell) -> str:
    if cell.verdict is not None:
        return f'<span class="{cell.verdict.replace(" ", "-")}">{escape(cell.text)}</span>'
    return escape(cell.text) if cell.value is not None else f'<span class="absent">{escape(cell.text)}</span>'
