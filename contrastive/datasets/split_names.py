"""Splits by the names that data sets give them, and which of them is the test split."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from contrastive.parts import Split

AUTO = "auto"
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_SPLIT_NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_NUMBER = re.compile(r"[ ._-]*[0-9]+$")
#: Words of a name: ``trainA`` has two, ``TRAIN_SET`` too.
_WORD = re.compile(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![a-z])")
_SUFFIX = re.compile(r"(set|split|data|s?daten|images?|imgs?)$")
Source = TypeVar("Source")


def split_of_name(name: str) -> Split | None:
    """The split that a name stands for, in any case and with digits at its end."""
    return _SPLIT_NAMES.get(_NUMBER.sub("", name.lower()))


def similar_split(name: str) -> Split | None:
    """The split that a word of another name stands for: ``train_set``, ``testA``, ``Testdaten``.

    Such a name may stand for a split or for a class.
    """
    if split_of_name(name) is not None:
        return None
    words = (_SUFFIX.sub("", word.lower()) for word in _WORD.findall(name))
    return next((_SPLIT_NAMES[word] for word in words if word in _SPLIT_NAMES), None)


def choose_splits(
    parameters: Mapping[Split, str | None],
    explicit: Mapping[Split, Source],
    guess: Mapping[Split, Source],
    is_labelled: Callable[[Split, Source], bool],
) -> dict[Split, Source]:
    """Where each split that exists comes from.

    The test split is the first labelled source, test or else validation; without labels the first of them.
    What then remains is the validation split if it has labels.

    Args:
        parameters: split -> ``auto``, or what the recipe says; only ``auto`` takes a guess.
        explicit: split -> the source that its parameter names, the train split among them.
        guess: split -> the source whose name stands for it.
        is_labelled: whether a source, read as a split, has labels.
    """
    sources = dict(explicit)
    if parameters["test"] == AUTO:
        order = [guess[split] for split in SPLITS[:0:-1] if split in guess]
        if order:
            sources["test"] = next((source for source in order if is_labelled("test", source)), order[0])
    validation = guess.get("validation")
    if (
        validation is not None
        and parameters["validation"] == AUTO
        and validation not in sources.values()
        and is_labelled("validation", validation)
    ):
        sources["validation"] = validation
    return {split: sources[split] for split in SPLITS if split in sources}
