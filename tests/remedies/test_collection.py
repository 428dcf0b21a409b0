"""Every message that gives a remedy has a test that follows it, or a reason why none does.

A new message fails here until a test module of this folder lists a ``Remedy`` for it (the words that identify
it, what the user does, a value that provokes it, the value that follows it), or ``exemptions.py`` has a line.
"""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest

from tests.remedies.exemptions import EXEMPT
from tests.support.remedies import Remedy, gives_remedy, matching, messages, messages_in

#: The least share of messages whose remedy a test follows.
SHARE = 0.9


def remedies() -> list[Remedy]:
    """The remedies that the test modules of this folder list."""
    names = sorted(
        path.stem for path in Path(__file__).parent.glob("test_*.py") if path.stem != Path(__file__).stem
    )
    return [remedy for name in names for remedy in import_module(f"tests.remedies.{name}").REMEDIES]


FOLLOWED = [(remedy.file, remedy.words) for remedy in remedies()]
EXEMPTIONS = [(file, words) for file, reasons in EXEMPT.items() for words in reasons]


def texts(entries: list[tuple[str, str]]) -> set[tuple[str, str]]:
    """The messages that entries stand for, as (file, text)."""
    return {(m.file, m.text) for file, words in entries for m in matching(file, words)}


def test_every_message_is_followed_or_exempt():
    covered = texts([*FOLLOWED, *EXEMPTIONS])
    missing = [f"{m.file}:{m.line}: {m.text}" for m in messages() if (m.file, m.text) not in covered]
    assert missing == [], "add a Remedy to a test of this folder, or a line to exemptions.py"


def test_every_entry_stands_for_one_message():
    stale = [
        f"{file}: {words!r} is in {len({m.text for m in matching(file, words)})} messages"
        for file, words in [*FOLLOWED, *EXEMPTIONS]
        if len({m.text for m in matching(file, words)}) != 1
    ]
    assert stale == []
    assert [entry for entry, count in Counter([*FOLLOWED, *EXEMPTIONS]).items() if count > 1] == []


def test_most_are_followed(record_property):
    all_texts, followed = {(m.file, m.text) for m in messages()}, texts(FOLLOWED)
    record_property("remedies", f"{len(followed)} of {len(all_texts)} followed")
    assert len(followed) >= SHARE * len(all_texts), f"{len(followed)} of {len(all_texts)}"
    assert not texts(EXEMPTIONS) & followed


@pytest.mark.parametrize(
    "text",
    [
        "weights: {} does not exist. Give {}.",
        "it needs {}: pip install 'x[y]'",
        "{} is not a folder; name a new one.",
        "lower it to {} or less",
        "a loss must not do this: remove it, or use another.",
        "{} is wrong. Set train.cache to none.",
        "no gradient reaches it; do not detach in forward",
    ],
)
def test_a_remedy_is_found(text):
    assert gives_remedy(text)


@pytest.mark.parametrize(
    "text",
    [
        "the train split has no labels",
        "must be a list of callbacks, not {}",
        "names a file outside the data set",
        "{} images of the test split",
        "state_dict() does not return a dict",
        "it is of no use.",
    ],
)
def test_other_text_is_not(text):
    assert not gives_remedy(text)


def test_docstrings_and_help_are_not_messages():
    code = (
        '"""Use it."""\nparser.add_argument("--x", help="set x; use it")\nraise E(f"{x} is bad; use y {z}")\n'
    )
    assert [message.text for message in messages_in(code, "x.py")] == ["{} is bad; use y {}"]
