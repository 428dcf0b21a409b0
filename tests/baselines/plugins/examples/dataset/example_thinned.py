"""The data set ``thinned``."""

import hashlib

from pydantic import PositiveInt
from torch import Tensor

from contrastive import hookimpl
from contrastive.parts import Dataset, ImageTable, Split

contrastive_api = 1


class Thinned(Dataset):
    """Every n-th training image of another data set, and all its test images: for studies of data size.

    Args:
        of: the other data set.
        every: n.
    """

    def __init__(self, of: Dataset, every: PositiveInt = 10):
        self.of, self.every = of, every

    @classmethod
    def example(cls, folder):
        return {"of": "fashion_mnist_sample"}

    def table(self, split: Split) -> ImageTable | None:
        table = self.of.table(split)
        return Rows(table, self.every) if table is not None and split == "train" else table

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.of.fingerprint()} thinned {self.every}".encode()).hexdigest()


class Rows(ImageTable):
    """Every n-th row of a table; each keeps its id, so its views are those it has in the whole."""

    def __init__(self, of: ImageTable, every: int):
        self.of, self.every, self.ids, self.skipped = of, every, of.ids[::every], of.skipped
        self.labels = None if of.labels is None else of.labels[::every]
        self.channels, self.size = of.channels, of.size

    def decode(self, index: int) -> Tensor:
        return self.of.decode(index * self.every)

    def name(self, index: int) -> str:
        return self.of.name(index * self.every)


@hookimpl
def register_dataset(register):
    register("thinned", Thinned)
