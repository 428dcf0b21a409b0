"""Broken data sets."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from contrastive.parts import Dataset, ImageTable, ReducedImage


class _Table(ImageTable):
    size = (8, 8)

    def __init__(self, file: Path):
        self.file = file
        self.ids = np.arange(10, dtype=np.int64)

    def decode(self, index):
        return torch.from_numpy(np.load(self.file)[index])

    def name(self, index):
        return f"row {index}"


class _Images(Dataset):
    """Images that are whole.

    Args:
        file: a numpy file.
    """

    table_class = _Table

    def __init__(self, file: Path):
        self.file = Path(file)

    def table(self, split):
        return self.table_class(self.file) if split == "train" else None

    def fingerprint(self):
        return hashlib.sha256(self.file.read_bytes()).hexdigest()

    @classmethod
    def example(cls, folder):
        np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 255, (10, 3, 8, 8), np.uint8))
        return {"file": str(folder / "images.npy")}


class UnstableIds(_Images):
    """Ids that are drawn whenever the table is opened.

    Args:
        file: a numpy file.
    """

    def table(self, split):
        table = super().table(split)
        if table is not None:
            table.ids = np.random.default_rng().permutation(1000)[: len(table)]
        return table


class RepeatedIds(_Images):
    """Ids that count within each of two shards.

    Args:
        file: a numpy file.
    """

    def table(self, split):
        table = super().table(split)
        if table is not None:
            table.ids = table.ids % 5
        return table


class OpensEarly(_Images):
    """Reads the file when it is built.

    Args:
        file: a numpy file.
    """

    def __init__(self, file: Path):
        super().__init__(file)
        self.count = len(np.load(file))


class HashesTimes(_Images):
    """A fingerprint of size and time.

    Args:
        file: a numpy file.
    """

    def fingerprint(self):
        status = self.file.stat()
        return hashlib.sha256(f"{status.st_size} {status.st_mtime}".encode()).hexdigest()


class _FloatTable(_Table):
    def decode(self, index):
        return super().decode(index) / 255


class DecodesFloats(_Images):
    """Decodes to floats in [0, 1].

    Args:
        file: a numpy file.
    """

    table_class = _FloatTable


class _HalvedTable(_Table):
    def decode_reduced(self, index, reduction):
        return ReducedImage(self.decode(index)[:, ::2, ::2], (8, 8), 2)


class HalvesWhateverIsAsked(_Images):
    """Decodes at half the size even if the whole image is needed.

    Args:
        file: a numpy file.
    """

    table_class = _HalvedTable


class _OpenTable(_Table):
    def __init__(self, file: Path):
        super().__init__(file)
        self.opened = file.open("rb")


class KeepsFileOpen(_Images):
    """Its table holds an open file, which no worker can be sent.

    Args:
        file: a numpy file.
    """

    table_class = _OpenTable


FAULTS = {
    UnstableIds: "ids stable",
    RepeatedIds: "ids unique",
    OpensEarly: "opens nothing",
    HashesTimes: "fingerprint",
    DecodesFloats: "decode",
    HalvesWhateverIsAsked: "reduced",
    KeepsFileOpen: "pickles",
}
