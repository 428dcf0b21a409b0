"""The source of negatives ``my_negatives``."""

from typing import Annotated

import torch
from contrastive import Comparison, hookimpl
from contrastive.kinds import InFeatures
from contrastive.parts import Negatives
from contrastive.values import Memory
from pydantic import Field

contrastive_api = 1


class MyNegatives(Negatives):
    """The keys of the last batches of all processes, oldest out first.

    Args:
        size: how many keys are kept.
    """

    def __init__(self, in_features: InFeatures, size: Annotated[int, Field(gt=0)] = 1024):
        super().__init__()
        self.register_buffer("z", torch.zeros(size, in_features))  # [M, D]
        self.register_buffer("image", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("label", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("valid", torch.zeros(size, dtype=torch.bool))

    def memory(self) -> Memory:
        """Candidates of every query beside those of the batch."""
        return Memory(self.z, self.image, self.label, self.valid)

    def after_batch(self, comparison: Comparison) -> None:
        """Let the newest keys in, after the loss: a key is never its own query's negative."""
        keys, size = comparison.keys, len(self.z)
        self.z = torch.cat([self.z, keys.z.detach().to(self.z.dtype)])[-size:]
        self.image = torch.cat([self.image, keys.image])[-size:]
        self.label = torch.cat([self.label, keys.label])[-size:]
        self.valid = torch.cat([self.valid, torch.ones_like(keys.image, dtype=torch.bool)])[-size:]


@hookimpl
def register_negatives(register):
    register("my_negatives", MyNegatives)
