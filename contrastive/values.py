"""Plain values that travel between parts. Shape letters:

b images of a process's batch, B images of all processes, n images of a table, V views, C channels,
H W height and width, F features of the backbone (h), D embedding width (z), R rows of a comparison,
M entries of a memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any, Literal

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Progress:
    """How far training has got: optimizer steps taken before this one, and steps of the whole schedule.

    ``seed`` is the run's. What a part draws from it, the step and the ids of images (with
    :func:`contrastive.rng.derive`) is the same in a resumed run and for any number of processes.

    A part that follows ``steps`` or ``fraction`` declares it with a parameter ``schedule``, which is
    ``constant`` if it does not: a run may be extended if all its schedules are constant.
    """

    step: int = 0
    steps: int = 1
    seed: int = 0
    steps_per_epoch: int = 1

    @property
    def fraction(self) -> float:
        return self.step / max(1, self.steps)

    @property
    def epoch(self) -> float:
        """Epochs before this step, with the share of the current one."""
        return self.step / self.steps_per_epoch


@dataclass(frozen=True)
class Batch:
    """One batch of source images.

    ``images`` is uint8 [b, C, H, W] if all images have one size; if sizes vary it is a list of V
    tensors uint8 [b, C, h, w], one per view, already cropped by the worker. ``labels`` is int64 [b]
    with -1 for unknown, or None; it is None unless the recipe sets ``positives: label``.
    ``unreadable`` holds (id, reason) of the images that did not decode, and ``sizes`` the (H, W) of images
    whose views workers begin: there, the pixels no longer tell.
    """

    ids: Tensor  # [b] int64
    images: Tensor | list[Tensor]
    labels: Tensor | None = None  # [b] int64
    unreadable: list[tuple[int, str]] = field(default_factory=list)
    sizes: np.ndarray | None = None  # [b, 2] int

    def pin_memory(self) -> Batch:
        """The batch in pinned memory, from which a GPU copies while it computes; called by torch's loader."""
        views = self.images
        return replace(
            self,
            ids=self.ids.pin_memory(),
            images=[view.pin_memory() for view in views] if isinstance(views, list) else views.pin_memory(),
            labels=None if self.labels is None else self.labels.pin_memory(),
        )


@dataclass(frozen=True)
class Side:
    """Rows on one side of a comparison, ordered [view, image, position in the image]."""

    z: Tensor  # [R, D]
    image: Tensor  # [R] int64, the image's id
    view: Tensor  # [R] int64
    label: Tensor  # [R] int64, -1 unknown
    positions: int = 1  # rows of an image in a view; 1 if whole images are compared


@dataclass(frozen=True)
class Memory:
    """Entries from earlier batches, candidates of every query; they carry no gradient.

    An entry of the query's own image is a negative, as in MoCo's paper, unless ``ignore_same_image``.
    If positives are by label, an entry of the query's label is positive.
    """

    z: Tensor  # [M, D], as they were compared: normalised if the loss compares directions
    image: Tensor  # [M] int64, ids
    label: Tensor  # [M] int64, -1 unknown
    valid: Tensor  # [M] bool; other entries are not candidates
    ignore_same_image: bool = False


@dataclass(frozen=True)
class OwnCandidates:
    """Candidates that each query has for itself, all negative; they carry no gradient."""

    z: Tensor  # [R, m, D], in the form in which they are compared
    valid: Tensor  # [R, m] bool; others are not candidates


@dataclass(frozen=True)
class Guide:
    """Vectors of another network, by whose similarities candidates are left out; they carry no gradient.

    A key of another image is no negative of a query if the guide finds the two more similar than the query's
    bound. Entries of memories have no such vectors, so they stay.
    """

    queries: Mapping[int, Tensor]  # online view -> [b, G], of patches [b, n, G]
    keys: Mapping[int, Tensor]  # target view -> [b, G], of patches [b, N, G]
    #: Similarity of each row to its own key, the largest of several, [R] -> the row's bound [R].
    bounds: Callable[[Tensor], Tensor]


def never() -> bool:
    """False: the ``interrupted`` of work that cannot be interrupted."""
    return False


@dataclass(frozen=True)
class RunData:
    """The images of a run, as its callbacks see them."""

    images: int  # that it trains on
    batch_size: int  # images per optimizer step, over all processes and micro-batches
    channels: int  # 3 or 1
    image_size: int  # side in pixels of the images that evaluation encodes
    classes: tuple[str, ...] | None  # by label; None if the data set has no names
    fingerprint: str  # of the data set


@dataclass(frozen=True)
class ImageSample:
    """A few images that validate, whole and not augmented: the same ones whenever they are read."""

    pixels: Tensor  # [n, C, s, s] float32 in [0, 1], on the run's device
    labels: Tensor  # [n] int64, -1 unknown
    ids: Tensor  # [n] int64


#: What an evaluation protocol reads: features h of the backbone, the head's embedding z, the class token, the
#: mean of the patches, or class token and mean of patches side by side.
Feature = Literal["h", "z", "class", "patches", "class+patches"]
#: Those that are made of a backbone's tokens.
TOKEN_FEATURES: tuple[Feature, ...] = ("class", "patches", "class+patches")


@dataclass(frozen=True)
class Features:
    """Frozen features of a split: what an evaluation protocol sees."""

    vectors: Tensor  # [n, F] float32: h, or the feature that a protocol declares
    labels: Tensor  # [n] int64, -1 unknown
    ids: Tensor  # [n] int64

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def h(self) -> Tensor:
        """The former name of ``vectors``."""
        warnings.warn("Features.h is now Features.vectors", DeprecationWarning, stacklevel=2)
        return self.vectors


def _with_keyword_h(init: Callable[..., None]) -> Callable[..., None]:
    """``Features.__init__``, which takes ``vectors`` by its former name ``h`` too."""

    @wraps(init)
    def wrapper(self: Features, *values: Any, **keywords: Any) -> None:
        if "h" in keywords:
            warnings.warn("Features(h=...) is now Features(vectors=...)", DeprecationWarning, stacklevel=2)
            keywords["vectors"] = keywords.pop("h")  # dataclasses.replace(features, h=...) passes both
        init(self, *values, **keywords)

    return wrapper


Features.__init__ = _with_keyword_h(Features.__init__)  # type: ignore[method-assign]
