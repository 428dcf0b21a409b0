"""The input of a protocol: one encoder, and the labelled images of a data set as features or as pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from contrastive.data import BATCH, Encoder, Reader
from contrastive.errors import UsageError
from contrastive.evaluation.features import feature_of
from contrastive.parts import Backbone, Images, ImageTable
from contrastive.values import TOKEN_FEATURES, Feature, Features
from contrastive.views import View

#: Features of the images fitted on, chosen on and tested on.
Splits = tuple[Features, Features, Features | None]


class SplitImages:
    """Labelled images of one split.

    Attributes:
        ids: int64 [n], unique.
        labels: int64 [n], -1 unknown.
    """

    def __init__(self, reader: Reader, table: ImageTable, rows: np.ndarray):
        self.reader, self.table, self.rows = reader, table, rows
        self.ids = table.ids[rows]
        self.labels = np.full(len(rows), -1) if table.labels is None else table.labels[rows].astype(np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def features(self, encode: Encoder) -> Features:
        """Features of the images that decode, un-augmented."""
        return self.reader.features(encode, self.table, self.rows)

    def take(self, positions: np.ndarray) -> SplitImages:
        """The images at these positions, int64 [m], in that order."""
        return SplitImages(self.reader, self.table, self.rows[positions])

    def whole(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All that decode, un-augmented: pixels float32 [b, C, s, s] in [0, 1] and labels int64 [b]."""
        labels = np.full(len(self.table), -1) if self.table.labels is None else self.table.labels
        for indices, pixels in self.reader.whole(self.table, self.rows):
            yield (
                self.reader.send(pixels),
                self.reader.send(torch.from_numpy(labels[indices].astype(np.int64))),
            )

    def batches(
        self, batch_size: int, scale: tuple[float, float] = (0.08, 1.0)
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Training batches without end: random crops that keep ``scale`` of the area, half of them mirrored.

        Order and crops depend only on the images. Every batch is full, or holds all images if they are fewer.

        Yields:
            (pixels float32 [b, C, s, s] in [0, 1], labels int64 [b]).
        """
        order = np.argsort(self.ids)
        for ids, pixels in self.reader.crops(self.table, self.rows, min(batch_size, len(self)), scale):
            labels = self.labels[order[np.searchsorted(self.ids, ids, sorter=order)]]
            yield pixels, self.reader.send(torch.from_numpy(labels))


class EncoderTrial:
    """One encoder, and the images on which a protocol evaluates it.

    Args:
        encoder: pixels float32 [b, C, s, s] in [0, 1] -> h [b, F], in evaluation mode.
        head: h -> z [b, D], or tokens -> z if it pools them; None if there is none.
        fit, validation, test: labelled images; ``test`` is None if the metrics are those of ``validation``.
        reads: the features that protocols will read; those that take tokens are made in one pass, with h.

    Attributes:
        encoder: never changed by a protocol, which trains a ``copy.deepcopy`` of it.
        fit, validation: the train split without the held-out tenth, and that tenth; or the whole train split
            and the validation split.
        train: the whole train split.
        test: read once, for the metrics; or None.
        labelled_ids: ids of the images whose labels a protocol used, if only some; see ``list_used``.
        remarks: of a protocol about its metrics; see ``remark``.
    """

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module | None,
        fit: SplitImages,
        validation: SplitImages,
        test: SplitImages | None = None,
        reads: Iterable[Feature] = (),
    ):
        self.encoder, self.head = encoder, head
        self.fit, self.validation, self.test = fit, validation, test
        self.train = fit
        if self._validates_with_train:
            self.train = SplitImages(fit.reader, fit.table, np.concatenate([fit.rows, validation.rows]))
        self.labelled_ids: np.ndarray | None = None
        self.remarks: list[str] = []
        self._features: dict[tuple[Feature, int], Features] = {}
        self._of_tokens: tuple[Feature, ...] = TOKEN_FEATURES
        if getattr(head, "pools", False):
            self._of_tokens = (*TOKEN_FEATURES, "z")
        of_tokens = [feature for feature in dict.fromkeys(reads) if feature in self._of_tokens]
        self._together: list[Feature] = ["h", *of_tokens] if of_tokens else []

    @property
    def modules(self) -> list[nn.Module]:
        """The modules that a protocol must leave unchanged."""
        return [self.encoder] if self.head is None else [self.encoder, self.head]

    def features(self, feature: Feature = "h") -> Splits:
        """Features of ``fit``, ``validation`` and ``test`` (None if that is None), encoded once for all
        protocols.

        Raises:
            UsageError: the encoder has no such feature, such as z without a head.
        """
        test = None if self.test is None else self.features_of(self.test, feature)
        return self.features_of(self.fit, feature), self.features_of(self.validation, feature), test

    @property
    def _validates_with_train(self) -> bool:
        return self.validation.table is self.fit.table

    def train_features(self, feature: Feature = "h") -> list[Features]:
        """Features of ``train``, in parts: of ``fit``, and of ``validation`` if it is a part of train."""
        parts = [self.fit, self.validation] if self._validates_with_train else [self.fit]
        return [self.features_of(images, feature) for images in parts]

    def features_of(self, images: Images, feature: Feature = "h") -> Features:
        """Features of images; those of ``fit``, ``validation`` and ``test`` are kept."""
        if not any(images is split for split in (self.fit, self.validation, self.test)):
            return self._make(images, [feature])[feature]
        key = (feature, id(images))  # which is theirs while this trial lives
        if key not in self._features:
            together = self._together if feature in self._together else [feature]
            of_pass = self._make(images, together)
            self._features |= {(name, id(images)): features for name, features in of_pass.items()}
        return self._features[key]

    def _make(self, images: Images, names: Sequence[Feature]) -> dict[Feature, Features]:
        """Features of images, in one pass."""
        if any(name in self._of_tokens for name in names):
            return self._of_one_pass(images, names)
        [name] = names
        return {name: images.features(self.encoder) if name == "h" else self._embed(images)}

    def _of_one_pass(self, images: Images, names: Sequence[Feature]) -> dict[Feature, Features]:
        """Features that are made of tokens, and h with them."""
        backbone = cast(Backbone, self.encoder)
        widths: list[int] = []

        def encode(pixels: Tensor) -> Tensor:
            tokens = backbone.tokens(View(pixels))
            parts = [feature_of(backbone, self.head, tokens, name).float() for name in names]
            widths[:] = [part.shape[1] for part in parts]
            return torch.cat(parts, 1)

        table = images.features(encode)
        if not len(table):
            return dict.fromkeys(names, table)
        columns = table.vectors.split(widths, 1)
        return {
            name: Features(part.contiguous(), table.labels, table.ids)
            for name, part in zip(names, columns, strict=True)
        }

    @torch.no_grad()
    def _embed(self, images: Images) -> Features:
        if self.head is None:
            raise UsageError("feature: z needs a head, and this encoder has none; set feature: h.")
        features = self.features_of(images)
        if not len(features):
            return features
        z = torch.cat([self.head(h).float() for h in features.vectors.split(BATCH)])
        return Features(z, features.labels, features.ids)

    def list_used(self, images: Images) -> None:
        """Note whose labels a protocol has used, if these are not all of train: the run lists them."""
        self.labelled_ids = np.sort(images.ids)

    def remark(self, text: str) -> None:
        """Note what a reader of a protocol's metrics must know: the run reports it next to them."""
        self.remarks.append(text)


class PixelTrial(EncoderTrial):
    """A trial of raw pixels, [b, C s s]: they take the place of whatever feature of an encoder is read.

    Args:
        fit, validation, test: as of an :class:`EncoderTrial`.
    """

    def __init__(self, fit: SplitImages, validation: SplitImages, test: SplitImages | None = None):
        super().__init__(nn.Flatten(), None, fit, validation, test)

    def features_of(self, images: Images, feature: Feature = "h") -> Features:
        """The pixels of images; raises UsageError for z."""
        return super().features_of(images, "h" if feature in TOKEN_FEATURES else feature)


class Witness:
    """A snapshot of an encoder, which finds out whether it has changed.

    Args:
        modules: in evaluation mode.
    """

    def __init__(self, modules: Sequence[nn.Module]):
        self._modules = list(modules)
        self._before = [tensor.clone() for _, tensor in self._state()]

    def _state(self) -> list[tuple[str, Tensor]]:
        return [item for module in self._modules for item in module.state_dict().items()]

    def difference(self) -> str | None:
        """The first weight, statistic or mode that has changed, in words; None if none has."""
        state = self._state()
        if len(state) != len(self._before):
            return "the names of its weights"
        for (name, now), before in zip(state, self._before, strict=True):
            if not torch.equal(now, before):
                return name
        training = any(part.training for module in self._modules for part in module.modules())
        return "its mode (it is left in training)" if training else None
