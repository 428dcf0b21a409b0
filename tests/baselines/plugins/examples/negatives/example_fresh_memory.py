"""The source of negatives ``fresh_memory``."""

import torch
from pydantic import PositiveInt

from contrastive import Comparison, hookimpl
from contrastive.kinds import InFeatures
from contrastive.parts import Negatives
from contrastive.values import Memory, Progress

contrastive_api = 1


class FreshMemory(Negatives):
    """Keys of the last batches that are forgotten after some steps (after XBM, Wang et al. 2020).

    Args:
        size: how many keys are kept.
        lifetime: optimizer steps after which a key is stale.
    """

    def __init__(self, in_features: InFeatures, size: PositiveInt = 512, lifetime: PositiveInt = 8):
        super().__init__()
        self.lifetime = lifetime
        self.register_buffer("z", torch.zeros(size, in_features))
        self.register_buffer("image", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("label", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("age", torch.full((size,), lifetime))

    def memory(self) -> Memory:
        return Memory(self.z, self.image, self.label, self.age < self.lifetime)

    def after_batch(self, comparison: Comparison) -> None:
        keys, size = comparison.keys, len(self.z)
        self.z = torch.cat([self.z, keys.z.detach().to(self.z.dtype)])[-size:]
        self.image = torch.cat([self.image, keys.image])[-size:]
        self.label = torch.cat([self.label, keys.label])[-size:]
        self.age = torch.cat([self.age, torch.zeros_like(keys.image)])[-size:]

    def after_step(self, progress: Progress) -> None:
        self.age = self.age + 1


@hookimpl
def register_negatives(register):
    register("fresh_memory", FreshMemory)
