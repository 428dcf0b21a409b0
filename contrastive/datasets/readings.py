"""How a data set reads its files, if it has a choice: optional methods that a data set may have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from contrastive.parts import Dataset, Split
from contrastive.text import quantity


def reading_line(splits: Iterable[tuple[Split, str, int, str]], remarks: Mapping[str, Sequence[str]]) -> str:
    """How a data set is read: ``train: a/ (9 images, 2 classes); test: b/ (3, labelled); not read: c/ (1)``.

    Args:
        splits: each split, where it comes from, its number of images, and what their labels are.
        remarks: further lists by what they are of, such as ``not read``; empty ones are left out.
    """
    texts: list[str] = []
    for split, source, count, labels in splits:
        images = f"{count:,}" if texts else quantity(count, "image")
        texts.append(f"{split}: {source} ({images}, {labels})")
    texts += [f"{title}: {', '.join(items)}" for title, items in remarks.items() if items]
    return "; ".join(texts)


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
