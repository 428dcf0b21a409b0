"""Docstrings as text for a terminal."""

from __future__ import annotations

import inspect

import pytest

from contrastive import heads
from contrastive.commands.docstrings import hanging, terminal_text, without_marks

DOC = """\
Words of a paragraph that is
wrapped by its author, with ``code`` and :class:`~contrastive.Run`.

- an item of a list that goes
  on in a second line
- another item

Source::

    x  =  1

    y = 2
After the code.

Raises:
    UsageError: where there is
        no such thing.
    ValueError: never.
"""

TABLE = """\
======  ==========
paper   dims
======  ==========
SimCLR  [2048, 128]
MoCo
======  ==========
"""


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("``a`` and ``b: [1, 2]``", "a and b: [1, 2]"),
        (":class:`contrastive.Run`, :meth:`~contrastive.Run.load`", "contrastive.Run, load"),
        (":ref:`the guide <guide>`, :py:func:`f`", "the guide, f"),
        ("2 * a ** b, `x`, x_", "2 * a ** b, `x`, x_"),
    ],
)
def test_marks_go_and_words_stay(text: str, plain: str):
    assert without_marks(text) == plain


def test_paragraphs_items_code_and_sections_keep_their_form():
    assert (
        terminal_text(DOC, 40)
        == """\
Words of a paragraph that is wrapped by
its author, with code and Run.

- an item of a list that goes on in a
  second line
- another item

Source:

    x  =  1

    y = 2
After the code.

Raises:
    UsageError: where there is no such
        thing.
    ValueError: never."""
    )


def test_a_table_that_fits_stays_one():
    table = ["paper   dims", "------  -----------", "SimCLR  [2048, 128]", "MoCo"]
    assert terminal_text(TABLE, 19).splitlines() == table
    assert terminal_text(TABLE, 10, 19).splitlines() == table


def test_a_table_that_does_not_fit_becomes_records():
    assert terminal_text(TABLE, 18).splitlines() == ["SimCLR", "  dims: [2048,", "  128]", "MoCo"]


def test_the_table_of_the_heads():
    doc = inspect.getdoc(heads.MLP) or ""
    narrow, wide = terminal_text(doc, 80), terminal_text(doc, 100, 160)
    assert "SimSiam: predictor\n  dims: [512, 2048], batch_norm: hidden, last_bias: true\n" in narrow
    assert max(map(len, narrow.splitlines())) <= 80
    assert any(
        line.split("  ")[0] == "SimSiam: predictor" and line.endswith("true") for line in wide.splitlines()
    )
    assert "==" not in narrow + wide


def test_a_hanging_text_begins_at_its_column_and_keeps_long_words_whole():
    assert hanging("  name", "some words and more", 8, 28).splitlines() == [
        "  name  some words and more",
    ]
    assert hanging("  name", "some words and more than fit", 8, 28).splitlines() == [
        "  name  some words and more",
        "        than fit",
    ]
    assert hanging("  file", "/a/path/longer/than/the/line/is", 8, 28).endswith(
        "/a/path/longer/than/the/line/is"
    )
    assert hanging("  name", "", 8, 28) == "  name"
