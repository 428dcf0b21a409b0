"""Labelled images of several parts, read in chunks."""

from __future__ import annotations

import pytest
import torch

from contrastive.protocols.labelled_rows import LabelledRows
from contrastive.protocols.labels import join_labelled
from contrastive.values import Features


def parts() -> list[Features]:
    """Three parts, of which one has labels on some images only and one holds no image."""
    generator = torch.Generator().manual_seed(0)
    labels = [[1, 2, 0, 1, 1], [], [-1, 3, -1, 0, 2, -1, 1]]
    return [
        Features(
            torch.randn(len(of_part), 3, generator=generator),
            torch.tensor(of_part, dtype=torch.int64),
            torch.arange(len(of_part)) + 100 * number,
        )
        for number, of_part in enumerate(labels)
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_chunks_are_the_labelled_rows_in_order(size: int):
    rows = LabelledRows.of("linear", "fit", *parts())
    vectors, labels = (torch.cat([getattr(part, name) for part in parts()]) for name in ("vectors", "labels"))
    expected, has_label = vectors[labels >= 0], labels >= 0
    assert torch.equal(torch.cat(list(rows.chunks(size))), expected)
    pairs = list(rows.labelled_chunks(size))
    assert torch.equal(torch.cat([chunk_labels for _, chunk_labels in pairs]), labels[has_label])
    assert all(len(chunk) == len(of_chunk) <= size for chunk, of_chunk in pairs)
    assert torch.equal(rows.copy(), expected)
    assert torch.equal(rows.copy(torch.neg), -expected)
    assert (len(rows), rows.width, rows.nbytes) == (9, 3, 9 * 3 * 4)


def test_a_copy_is_not_shared_and_a_single_part_is():
    part = parts()[0]
    rows = LabelledRows.of("linear", "fit", part)
    rows.copy().zero_()
    assert part.vectors.abs().min() > 0
    assert rows.in_one() is part.vectors
    joined = join_labelled("linear", "fit", *parts())
    assert joined.ids.tolist() == [0, 1, 2, 3, 4, 201, 203, 204, 206]
    assert joined.labels.tolist() == [1, 2, 0, 1, 1, 3, 0, 2, 1]
