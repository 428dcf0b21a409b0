"""A bounded run of scripts/fuzz.py: random recipes and damaged images, from fixed seeds."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))
import fuzz  # noqa: E402
from fuzz_recipes import Words, recipe_text  # noqa: E402

from contrastive.errors import ContrastiveError, DataError, Mistake, RecipeError, Where  # noqa: E402
from contrastive.recipe.reader import read_yaml  # noqa: E402
from contrastive.registry import load_registry  # noqa: E402


@pytest.mark.ci
def test_random_recipes_give_sentences_with_places(tmp_path):
    outcome = fuzz.fuzz_recipes(5, tmp_path)
    seen: set[str] = set()
    for number in range(100):  # one in twenty is valid
        seen.add(outcome(number))
        if number >= 20 and "valid" in seen:
            break
    assert seen == {"valid", "RecipeError (2)"}


@pytest.mark.filterwarnings("ignore")  # Pillow tells of what is odd in a file
def test_damaged_images_decode_or_are_unreadable(tmp_path):
    outcome = fuzz.fuzz_images(5, tmp_path)
    assert {outcome(number) for number in range(300)} == {"decoded", "unreadable"}


@pytest.mark.slow
def test_a_recipe_through_the_real_process(tmp_path):
    text = recipe_text(fuzz.random_source(5, 0), Words(load_registry()))
    assert fuzz.process_outcome(text, tmp_path / "r.yaml").startswith("process: exit code ")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_text_is_read_or_refused(content):
    told = ""
    try:
        read_yaml(content, "r.yaml")
    except RecipeError as error:
        told = str(error)
    assert told.isprintable()


def _raise(error: Exception):
    raise error


@pytest.mark.parametrize(
    ("error", "broken"),
    [
        (ZeroDivisionError("x"), "ZeroDivisionError: x"),
        (RecipeError([]), "an empty message"),
        (type("Odd", (ContrastiveError,), {"exit_code": 7})("x"), "exit code 7"),
        (RecipeError([Mistake(Where("elsewhere", 1, 1), "", "x")]), "without a location"),
    ],
)
def test_a_broken_promise_is_found(tmp_path, monkeypatch, error, broken):
    monkeypatch.setattr(fuzz, "load_recipe", lambda *_: _raise(error))
    with pytest.raises(fuzz.BrokenPromise, match=broken):
        fuzz.recipe_outcome("a: 1\n", tmp_path / "r.yaml", None)
    monkeypatch.setattr(fuzz, "load_recipe", lambda *_: _raise(DataError("no images")))
    assert fuzz.recipe_outcome("a: 1\n", tmp_path / "r.yaml", None) == "DataError (2)"


def dying(_seed: int, _folder: Path) -> fuzz.Outcome:
    return lambda number: os.kill(os.getpid(), signal.SIGKILL) if number == 1 else "fine"


def test_a_child_that_dies_is_reported_and_another_continues(monkeypatch):
    """Forked, so that neither child imports anything again."""
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: fork)
    assert [*fuzz.outcomes(dying, 0, range(3))] == [
        (0, "fine", False),
        (1, "the process died (-9)", True),
        (2, "fine", False),
    ]
