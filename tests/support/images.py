"""A data set of noise and a pipeline that only shifts it, for tests of loading; loaders of both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from contrastive.data import TrainLoader, augment
from contrastive.errors import UnreadableImage
from contrastive.parts import ImageTable
from contrastive.rng import Key, hash_ids

SIDE = 8


class Images(ImageTable):
    """n images, each filled with noise that its id decides; ``bad`` rows do not decode."""

    def __init__(self, n: int, bad=(), varying: bool = False, labels: bool = True, channels: int = 3):
        self.ids = np.arange(n, dtype=np.int64) * 7 + 100
        self.labels = np.arange(n) % 5 if labels else None
        self.channels, self.bad, self.varying = channels, frozenset(bad), varying
        self.size = None if varying else (SIDE, SIDE)
        self.decoded = 0

    def shape(self, index: int) -> tuple[int, int]:
        return (SIDE + index % 3, SIDE + index % 4) if self.varying else (SIDE, SIDE)

    def decode(self, index: int) -> torch.Tensor:
        self.decoded += 1
        if index in self.bad:
            raise UnreadableImage(self.name(index), "truncated")
        generator = torch.Generator().manual_seed(int(index))
        shape = (self.channels, *self.shape(index))
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)

    def name(self, index: int) -> str:
        return f"{index}.jpg"


@dataclass(frozen=True)
class Fake:
    """Shifts every image by a hash of its key; ``stage`` is the part done in workers: ``crop`` or ``all``."""

    stage: str = "crop"
    size: tuple[int, int] | None = (4, 4)

    @property
    def per_sample(self) -> bool:
        return self.stage == "all"

    @property
    def crops_first(self) -> bool:
        return self.stage == "crop"

    def _shift(self, ids, key: Key) -> np.ndarray:
        return (hash_ids(np.asarray(ids), key.seed, key.epoch, key.view) % np.uint64(50)).astype(np.uint8)

    def for_image(self, id, key):  # noqa: A002
        return FakeView(self, id, key)

    def before(self, image, id, key):  # noqa: A002
        return image[:, :4, :4] + int(self._shift(np.array([id]), key)[0])

    def after(self, pixels, ids, key):
        assert len(ids) == len(pixels)
        return pixels.float() / 255

    def __call__(self, images, ids, key):
        shift = torch.from_numpy(self._shift(ids, key))[:, None, None, None]
        return self.after(images[:, :, :4, :4] + shift, ids, key)


@dataclass(frozen=True)
class FakeView:
    """The view of one image that ``pipeline`` makes."""

    pipeline: Fake
    id: int
    key: Key

    def reduction(self, size) -> int:
        return 1

    def before(self, image) -> torch.Tensor:
        return self.pipeline.before(image.pixels, self.id, self.key)


def loader(table, stage="crop", **options) -> TrainLoader:
    settings = {"batch_size": 8, "seed": 3, "workers": 0, "max_unreadable": 1.0} | options
    return TrainLoader(table, [Fake(stage), Fake(stage)], **settings)


def views(train: TrainLoader, epoch: int, start: int = 0, stage: str = "crop") -> list[list[torch.Tensor]]:
    pipelines = [Fake(stage), Fake(stage)]
    return [augment(b, pipelines, seed=3, epoch=epoch, device="cpu") for b in train.epoch(epoch, start)]


def assert_equal(one: list, other: list) -> None:
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.ids, b.ids)
        assert a.unreadable == b.unreadable
        assert type(a.images) is type(b.images)
        for x, y in zip(a.images, b.images, strict=True):
            assert torch.equal(x, y)
