"""What a protocol is given: features of h and z, whole images and training batches, and the witness."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from contrastive.data import Reader
from contrastive.data.tables import MemoryTable
from contrastive.datasets import ImageFolder
from contrastive.errors import Interrupted, UsageError
from contrastive.evaluation import EncoderTrial, SplitImages, Witness
from contrastive.parts import EvaluationTransform, ImageTable
from contrastive.testing.networks import SmallEncoder
from contrastive.testing.trials import trial
from tests.support.tiny import write_data


def reader(**more) -> Reader:
    return Reader(12, torch.device("cpu"), workers=0, **more)


@pytest.fixture(scope="module")
def folder(tiny_data: Path) -> ImageTable:
    return ImageFolder(tiny_data).table("train")


def rows_of(table: ImageTable, *rows: int, **more) -> SplitImages:
    return SplitImages(reader(**more), table, np.array(rows))


def test_features_are_h_and_of_the_head_z_encoded_once(folder):
    encoder, head, calls = SmallEncoder().eval(), nn.Linear(8, 4), []
    encoder.register_forward_hook(lambda *_: calls.append(1))
    asked = [rows_of(folder, *rows) for rows in ((0, 50, 100), (1, 2), (3,))]
    with torch.no_grad():
        given = EncoderTrial(encoder, head, *asked)
        h, z = given.features("h"), given.features("z")
        assert len(calls) == 3
        for images, of_h, of_z in zip(asked, h, z, strict=True):
            squares = [EvaluationTransform(12).apply(folder.decode(row)) for row in images.rows]
            pixels = torch.stack(squares) / 255
            torch.testing.assert_close(of_h.vectors, encoder(pixels))
            torch.testing.assert_close(of_z.vectors, head(encoder(pixels)))
            for features in (of_h, of_z):
                assert features.ids.tolist() == folder.ids[images.rows].tolist()
                assert features.labels.tolist() == folder.labels[images.rows].tolist()
    assert given.train.rows.tolist() == [0, 50, 100, 1, 2]
    assert EncoderTrial(encoder, None, *asked[:2]).features()[2] is None


def test_features_of_a_part_are_its_own(folder):
    """Parts come and go: none is taken for an earlier one that had its place in memory."""
    given = EncoderTrial(nn.Flatten(), None, rows_of(folder, *range(20)), rows_of(folder, 30))
    for place in range(20):
        features = given.features_of(given.fit.take(np.array([place])))
        assert features.ids.tolist() == [folder.ids[place]]


def test_z_without_a_head_is_refused(folder):
    with pytest.raises(UsageError, match="this encoder has none; set feature: h"):
        EncoderTrial(nn.Flatten(), None, rows_of(folder, 0), rows_of(folder, 1)).features("z")


@pytest.mark.parametrize("held", [True, False])
def test_batches_are_whole_labelled_and_follow_from_the_images_alone(folder, held):
    table = MemoryTable(folder) if held else folder
    rows = [0, 1, 2, 40, 41, 42, 80, 81]
    made = list(islice(rows_of(table, *rows).batches(3), 4))
    for pixels, labels in made:
        assert pixels.shape == (3, 3, 12, 12)
        assert pixels.dtype == torch.float32
        assert 0 <= pixels.min() < pixels.max() <= 1
        assert labels.shape == (3,)
    assert sorted({int(label) for _, labels in made for label in labels}) == [0, 1, 2]
    assert not torch.equal(made[0][0], made[2][0]), "the second epoch has another order and other crops"
    torch.manual_seed(9)
    for (pixels, labels), (again, same) in zip(made, rows_of(table, *rows).batches(3), strict=False):
        assert torch.equal(pixels, again)
        assert torch.equal(labels, same)
    (few, _) = next(rows_of(table, 0, 1).batches(64))
    assert len(few) == 2, "of all images where they are fewer"


def test_labels_of_batches_belong_to_their_images(folder):
    class Coloured(ImageTable):
        ids = np.array([50, 3, 999, 7])
        labels = np.array([0, 1, 2, 3])
        size = (12, 12)

        def decode(self, index):
            return torch.full((3, 12, 12), int(self.labels[index]) * 60, dtype=torch.uint8)

        def name(self, index):
            return str(index)

    for pixels, labels in islice(rows_of(Coloured(), 3, 1, 0, 2).batches(2), 6):
        assert (pixels.mean((1, 2, 3)) * 255 / 60).round().tolist() == labels.tolist()
    ((pixels, labels),) = rows_of(Coloured(), 2, 0).whole()
    assert (pixels.mean((1, 2, 3)) * 255 / 60).round().tolist() == labels.tolist() == [2, 0]


def test_images_that_do_not_decode_are_left_out_and_named(tmp_path):
    root = write_data(tmp_path, train=3, test=1)
    broken = sorted((root / "train").rglob("*.png"))[4]
    broken.write_bytes(b"no image")
    images = SplitImages(reader(), ImageFolder(root).table("train"), np.arange(9))
    assert sum(len(labels) for _, labels in images.whole()) == 8
    assert all(len(labels) == 9 - 1 for _, labels in islice(images.batches(8), 2))
    assert any(broken.name in name for name in images.reader.unreadable)


@pytest.mark.parametrize("read", [lambda images: images.whole(), lambda images: images.batches(2)])
def test_an_interrupt_is_heard_at_the_next_batch(folder, read, monkeypatch):
    monkeypatch.setattr("contrastive.data.reading.BATCH", 2)
    asked = [False]
    batches = read(rows_of(folder, 0, 1, 2, 3, interrupted=lambda: asked[0]))
    next(batches)
    asked[0] = True
    with pytest.raises(Interrupted):
        next(batches)


# -- the witness --------------------------------------------------------------------------------------


def changes(change) -> str | None:
    given = trial()
    witness = Witness(given.modules)
    change(given)
    return witness.difference()


def warm(given: EncoderTrial) -> None:
    given.encoder.train()(torch.rand(4, 3, 8, 8))
    given.encoder.eval()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda given: given.encoder(torch.rand(4, 3, 8, 8)), None),
        (lambda given: given.encoder.convolution.weight.data.add_(1e-6), "convolution.weight"),
        (lambda given: nn.init.zeros_(given.head.bias), "bias"),
        (warm, "norm.running_mean"),
        (lambda given: given.head.train(), "its mode (it is left in training)"),
        (lambda given: given.encoder.register_buffer("more", torch.zeros(1)), "the names of its weights"),
    ],
)
def test_the_witness_names_what_is_not_as_it_was(change, named):
    assert changes(change) == named
