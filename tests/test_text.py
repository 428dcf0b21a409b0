"""Numbers and lists as people read them."""

from __future__ import annotations

import pytest

from contrastive.text import abbreviate, byte_count, count_and_names, duration, percent, quantity


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (59.6, "1 min 0 s"), (3600, "1 h 0 min"), (-1, "0 s")]
)
def test_duration(seconds, words):
    assert duration(seconds) == words


def test_percent():
    assert percent(0.71249) == "71.2 %"


def test_a_quantity_agrees_with_its_number():
    assert [quantity(n, "step") for n in (0, 1, 1234)] == ["0 steps", "1 step", "1,234 steps"]


def test_a_list_is_shortened_to_five():
    assert abbreviate("abcde") == "a, b, c, d, e"
    assert abbreviate("abcdef", "; ") == "a; b; c; d; e; ..."
    assert count_and_names("abcdef", "file") == "6 files (a, b, c, d, e, ...)"
    assert count_and_names(["a"], "file") == "1 file (a)"


def test_bytes_are_in_the_unit_that_fits():
    assert byte_count(3 * 2**19) == "1.5 MiB"
    assert byte_count(5 * 2**29) == "2.5 GiB"
