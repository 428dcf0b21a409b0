"""Broken sources of negatives."""

import torch

from contrastive.kinds import InFeatures
from contrastive.parts import Negatives
from contrastive.values import Memory

SIZE = 20


class _Queue(Negatives):
    """A queue that is whole."""

    def __init__(self, in_features: InFeatures):
        super().__init__()
        self.register_buffer("z", torch.zeros(SIZE, in_features))
        self.register_buffer("image", torch.full((SIZE,), -1))
        self.register_buffer("label", torch.full((SIZE,), -1))
        self.register_buffer("valid", torch.zeros(SIZE, dtype=torch.bool))

    def memory(self):
        return Memory(self.z, self.image, self.label, self.valid)

    def after_batch(self, comparison):
        keys = comparison.keys
        self.put(keys.z, keys.image, keys.label)

    def put(self, z, image, label):
        new = (z, image, label, torch.ones(len(z), dtype=torch.bool))
        for buffer, values in zip((self.z, self.image, self.label, self.valid), new, strict=True):
            buffer.copy_(torch.cat([buffer, values.to(buffer.dtype)])[-SIZE:])


class OwnPositive(_Queue):
    """Ignores entries of a row's own image, but keeps places for ids: own positives are negatives."""

    def memory(self):
        return Memory(self.z, self.image, self.label, self.valid, ignore_same_image=True)

    def after_batch(self, comparison):
        keys = comparison.keys
        self.put(keys.z, torch.arange(len(keys.z)), keys.label)


class ValidFromStart(_Queue):
    """Offers zeros before anything has been put in."""

    def __init__(self, in_features: InFeatures):
        super().__init__(in_features)
        self.valid.fill_(True)


class KeepsQueries(_Queue):
    """Keeps the online network's predictions instead of the keys."""

    def after_batch(self, comparison):
        queries = comparison.queries
        self.put(
            comparison.gather(queries.z), comparison.gather(queries.image), comparison.gather(queries.label)
        )


class PositionOutside(_Queue):
    """A ring whose position is a plain attribute."""

    position = 0

    def put(self, z, image, label):
        for row in range(len(z)):
            place = (self.position + row) % SIZE
            self.z[place], self.image[place], self.label[place] = z[row], image[row], label[row]
            self.valid[place] = True
        self.position += len(z)


class Grows(Negatives):
    """Keeps every key forever."""

    def __init__(self, in_features: InFeatures):
        super().__init__()
        self.register_buffer("z", torch.zeros(0, in_features))

    def memory(self):
        unknown = torch.full((len(self.z),), -1)
        return Memory(self.z, unknown, unknown, unknown < 0)

    def after_batch(self, comparison):
        self.z = torch.cat([self.z, comparison.keys.z.to(self.z.dtype)])


class LocalQueue(_Queue):
    """Every process keeps its own keys alone."""

    def after_batch(self, comparison):
        keys = comparison.own_keys
        self.put(keys.z, keys.image, keys.label)


FAULTS = {
    OwnPositive: "own image",
    ValidFromStart: "unfilled",
    KeepsQueries: "entries",
    PositionOutside: "state_dict",
    Grows: "memory",
    LocalQueue: "processes",
}
