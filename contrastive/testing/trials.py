"""Trials for protocols: features of three overlapping classes, and pictures of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from contrastive.data import Reader
from contrastive.evaluation import EncoderTrial, SplitImages
from contrastive.parts import Images, ImageTable
from contrastive.testing.materials import generator, splits
from contrastive.testing.networks import SmallEncoder
from contrastive.testing.subjects import IN_CHANNELS, IN_FEATURES
from contrastive.testing.surroundings import fixed_seed
from contrastive.values import Feature, Features

SIDE = 8  # of the pictures that a protocol sees, in pixels


class FeaturePictures(ImageTable):
    """A picture of each feature vector: its values spread over the pixels by a fixed map."""

    def __init__(self, *parts: Features):
        h = torch.cat([part.vectors for part in parts])  # [n, F]
        spread = torch.randn(h.shape[1], IN_CHANNELS * SIDE**2, generator=generator(5))
        self._pixels = (255 * torch.sigmoid(h @ spread)).to(torch.uint8).view(-1, IN_CHANNELS, SIDE, SIDE)
        self.ids, self.labels = (
            torch.cat([getattr(part, name) for part in parts]).numpy() for name in ("ids", "labels")
        )
        self.channels, self.size = IN_CHANNELS, (SIDE, SIDE)

    def decode(self, index: int) -> Tensor:
        return self._pixels[index]

    def name(self, index: int) -> str:
        return f"picture {index}"


class FeatureTrial(EncoderTrial):
    """A trial with fixed features, both as h and as z, whose images are pictures of them."""

    def __init__(self, fit: Features, validation: Features, test: Features | None = None):
        reader = Reader(SIDE, torch.device("cpu"), workers=0)
        train = FeaturePictures(fit, validation)
        rows = np.split(np.arange(len(train)), [len(fit)])
        test_images = (
            None if test is None else SplitImages(reader, FeaturePictures(test), np.arange(len(test)))
        )
        with fixed_seed(0):
            encoder, head = SmallEncoder().eval(), nn.Linear(IN_FEATURES, IN_FEATURES).eval()
        fit_images, validation_images = (SplitImages(reader, train, each) for each in rows)
        super().__init__(encoder, head, fit_images, validation_images, test_images)
        self._features_by_images = {id(self.fit): fit, id(self.validation): validation, id(self.test): test}

    def features_of(self, images: Images, feature: Feature = "h") -> Features:
        features = self._features_by_images[id(images)]
        assert features is not None
        return features


def trial(with_test: bool = True) -> FeatureTrial:
    """The trial of :func:`splits`."""
    features = splits()
    return FeatureTrial(*features) if with_test else FeatureTrial(*features[:2])
