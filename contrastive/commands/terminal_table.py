"""Tables of cells on a terminal, as wide as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from contrastive.pages import CellTable


@dataclass(frozen=True)
class TerminalTable:
    """A table of cells for rich: framed if it fits the terminal, else with every name on a line of its own
    above the cells of its row, so that no cell is broken."""

    table: CellTable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        indices = [i for i, column in enumerate(self.table.columns) if column.on_terminal]
        lines = [[self.table.columns[i].title for i in indices]]
        lines += [[row[i].text for i in indices] for row in self.table.rows]
        widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
        rules = 3 * len(widths) + 1  # a line and two spaces per column, and the last line
        if sum(widths) + rules <= options.max_width:
            yield self._frame(lines)
        else:
            yield from self._stack(lines, widths)

    def _frame(self, lines: Sequence[Sequence[str]]) -> Table:
        (label, *titles), *rows = lines
        table = Table(title=self.table.title)
        table.add_column(label)
        for title in titles:
            table.add_column(title, justify="right")
        for row in rows:
            table.add_row(*map(Text, row))
        return table

    def _stack(self, lines: Sequence[Sequence[str]], widths: Sequence[int]) -> Iterator[Text]:
        (_, *titles), *rows = lines
        yield Text(self.table.title, style="table.title")
        yield Text(_align(titles, widths[1:]), style="bold")
        for name, *cells in rows:
            yield Text(name)
            yield Text(_align(cells, widths[1:]))
        yield Text()  # a blank line before the next table, which no frame sets apart


def _align(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "".join("  " + " " * (width - cell_len(c)) + c for c, width in zip(cells, widths, strict=True))
