"""A name is the noun that the thing is: no bare participles."""

from __future__ import annotations

import ast

import pytest
from participles import EXCEPTIONS, is_participle, names, participles


def test_no_name_is_a_participle():
    assert not participles(), "a name is the noun that the thing is; give these another"


def test_words_that_are_allowed_would_not_pass_otherwise():
    assert all(word == word.lower() and reason for word, reason in EXCEPTIONS.items())
    assert len(EXCEPTIONS) <= 22, "the list is to stay short"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("found", True),
        ("_found", True),
        ("Asked", True),
        ("LAUNCHED", True),
        ("resolved", True),
        ("due", True),
        ("seed", False),
        ("embed", False),
        ("trained", False),
        ("read", False),
        ("is_finished_in", False),
        ("CheckFailed", False),
        ("memory_told", False),
        ("_", False),
    ],
)
def test_participles_are_told_from_other_words(name, expected):
    assert is_participle(name) is expected


def test_names_are_seen_wherever_they_are_given():
    code = """
import numpy as a
class B:
    c: int
    def d(self, e, *f, g=1, **h):
        self.i = j = 1
        k: int = 2
        for l, (m, *n) in []:
            pass
        with open(o) as p:
            lambda q: 0
        try: pass
        except OSError as r: pass
        match s:
            case [t, *u]: pass
        return (v := 1), [w for w in x]
async def y(): ...
"""
    given = {name for name, _ in names(ast.parse(code))}
    assert given == set("aBcdefghijklmnpqrtuvwy") | {"self"}
