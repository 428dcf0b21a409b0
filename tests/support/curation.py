"""Tables of features and images for tests of curation."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from contrastive.curation import FeatureTable, ImageRows, SplitSource
from contrastive.curation.features import texts
from contrastive.errors import UnreadableImage
from contrastive.parts import ImageTable


class Pixels(ImageTable):
    """Images in memory, uint8 [3, H, W]; None does not decode."""

    def __init__(self, images: Sequence[Tensor | None], ids: Sequence[int] | None = None):
        self.images = [*images]
        self.ids = np.arange(len(images), dtype=np.int64) if ids is None else np.array(ids, dtype=np.int64)

    def decode(self, index: int) -> Tensor:
        image = self.images[index]
        if image is None:
            raise UnreadableImage(self.name(index), "broken")
        return image

    def name(self, index: int) -> str:
        return f"image {self.ids[index]}"


def scene(seed: int, height: int = 64, width: int = 64) -> Tensor:
    """A picture like a photograph: blurred noise of several scales in colour, uint8 [3, H, W]."""
    draws, image = torch.Generator().manual_seed(seed), torch.zeros(1, 3, height, width)
    for side in (2, 4, 8, 16, 32):
        noise = torch.randn(1, 3, side, side, generator=draws) / side**0.8
        image += torch.nn.functional.interpolate(noise, (height, width), mode="bicubic")
    image = 128 + 60 * (image[0] - image.mean()) / image.std()
    return image.clamp(0, 255).byte()


def picture(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def write_scenes(root: Path, train: int = 12, test: int = 4) -> None:
    """Scenes of two classes, ``root/{train,test}/<class>/<n>.png``: so many of each class."""
    for split, count in (("train", train), ("test", test)):
        for label, name in enumerate(("checks", "disc")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for n in range(count):
                picture(scene(100 * label + n + 50 * (split == "test"))).save(folder / f"{n}.png")


def recompressed(image: Tensor, height: int, width: int, quality: int = 60) -> Tensor:
    """An image resized and saved as a JPEG."""
    stream = io.BytesIO()
    picture(image).resize((width, height), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(stream))).permute(2, 0, 1).contiguous()


def table_of(
    images: dict[str, Sequence[Tensor]],
    vectors: Tensor | None = None,
    labels: Sequence[int] | None = None,
) -> FeatureTable:
    """A table of images by split; by default the features are pixels of 8 x 8."""
    sources = {split: SplitSource(Pixels(own)) for split, own in images.items()}
    splits = [split for split, own in images.items() for _ in own]
    rows = np.concatenate([np.arange(len(own)) for own in images.values()])
    if vectors is None:
        small = [
            torch.nn.functional.interpolate(image[None].float(), (8, 8), mode="bilinear", antialias=True)
            for own in images.values()
            for image in own
        ]
        vectors = torch.cat(small).flatten(1) - 128
    return FeatureTable(
        splits=texts(splits),
        ids=rows.astype(np.int64),
        names=texts([f"{split} {row}" for split, row in zip(splits, rows, strict=True)]),
        labels=np.full(len(rows), -1) if labels is None else np.array(labels),
        vectors=vectors.float(),
        images=ImageRows(sources, rows.astype(np.int64)),
    )


def vectors_table(vectors: Tensor, labels: Sequence[int] | None = None, split: str = "train") -> FeatureTable:
    """A table of features alone."""
    n = len(vectors)
    return FeatureTable(
        splits=texts([split] * n),
        ids=np.arange(n, dtype=np.int64),
        names=texts([f"image {row}" for row in range(n)]),
        labels=np.full(n, -1) if labels is None else np.array(labels),
        vectors=vectors.float(),
    )
