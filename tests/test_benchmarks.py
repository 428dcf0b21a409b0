"""The page of performance and the benchmarks that fill it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from benchmarks.__main__ import MARKED, NAMES, quoted
from benchmarks.harness import Row, environment

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"


def test_every_benchmark_has_its_place_on_the_page():
    marked = [match[2] for match in MARKED.finditer(PAGE.read_text())]
    assert sorted(marked) == sorted(NAMES)


def test_tables_are_quoted_between_their_markers(tmp_path):
    row = Row("a", "s", 1.0, "peer", 2.0, 2.0, 1.5, 2.5, asked=1)
    content = {"environment": environment(), "rows": [{**asdict(row), "met": row.met}]}
    (tmp_path / "one.json").write_text(json.dumps(content))
    page = "<!-- table: one -->\nold\n<!-- /table -->\ntext\n<!-- table: two -->\nkept\n<!-- /table -->\n"
    filled = quoted(page, tmp_path)
    assert "old" not in filled
    assert "| a | 1 s | peer | 2 s | 2.00 (1.50 to 2.50) | 1 | yes |" in filled
    assert "text\n<!-- table: two -->\nkept\n" in filled
    assert quoted(filled, tmp_path) == filled
