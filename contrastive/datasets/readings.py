"""How a data set reads its files, if it has a choice: optional methods that a data set may have."""

from __future__ import annotations

from contrastive.parts import Dataset


def reading_of(dataset: Dataset) -> str | None:
    """What ``dataset.reading()`` returns: which files are which split and which are not read, in one line."""
    return _text_of(dataset, "reading")


def former_fingerprint_of(dataset: Dataset) -> str | None:
    """What ``dataset.former_fingerprint()`` returns: the fingerprint of the same files as an earlier version
    of the data set read them."""
    return _text_of(dataset, "former_fingerprint")


def _text_of(dataset: Dataset, method: str) -> str | None:
    """What a method returns; None if the data set lacks it."""
    text = getattr(dataset, method, lambda: None)()
    return None if text is None else str(text)
