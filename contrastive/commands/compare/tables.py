"""The tables of a comparison on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from contrastive.commands.compare.cells import cost_table, metric_tables, views_table
from contrastive.commands.terminal_table import TerminalTable


def tables(comparison: Mapping[str, Any]) -> list[TerminalTable]:
    """A table per metric, one per metric of h and z, one of views, and one of the costs."""
    views = views_table(comparison)
    own = [*metric_tables(comparison), *([] if views is None else [views]), cost_table(comparison)]
    return [TerminalTable(table) for table in own]
