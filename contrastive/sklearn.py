"""An encoder as a transformer of scikit-learn (extra ``sklearn``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from contrastive.curation import PathTable, QueryEncoder
from contrastive.datasets.decoding import pixels, reason
from contrastive.errors import UnreadableImage, UsageError
from contrastive.parts import ImageTable, ReducedImage, Reduction
from contrastive.registry import load_registry
from contrastive.runs import require_own_keys
from contrastive.text import count_and_names

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "contrastive.sklearn needs scikit-learn: pip install 'contrastive-framework[sklearn]'.",
        name=error.name,
    ) from error

#: One image: a path, an image of Pillow, or uint8 [H, W] or [H, W, C] with C of 1, 3 (RGB) or 4 (RGBA).
ImageLike = str | Path | Image.Image | np.ndarray
_Item = Path | Image.Image | np.ndarray


class Encoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Images -> features h, as ``contrastive embed`` writes them.

    Nothing is fitted: the encoder is trained already, so ``transform`` works without ``fit``. The network is
    loaded when it is first needed. It is no part of a pickle or a clone, which load it again by its name.

    Args:
        encoder: a run folder, an exported folder, a file of weights, a timm model with its tag, or
            ``hf_hub:OWNER/NAME``. A path wins over a name.
        overrides: as for ``--set``: ``{"backbone.model": NAME}`` of a file of weights.
    """

    def __init__(self, encoder: str | Path, overrides: Mapping[str, Any] | Sequence[str] = ()):
        self.encoder = encoder
        self.overrides = overrides

    def fit(self, images: Any = None, y: Any = None) -> Encoder:
        """Load the encoder; images and labels are not read. Raises UsageError if it cannot be loaded."""
        require_own_keys(str(self.encoder), self.overrides)
        self._network = (self._key, QueryEncoder.alone(self.encoder, load_registry(), self.overrides))
        return self

    def transform(self, images: Iterable[ImageLike]) -> np.ndarray:
        """The features of images, float32 [N, F], in their order.

        Args:
            images: N of them, of any size, each a path, an image of Pillow, or an array uint8 [H, W] (grey),
                [H, W, 3] (RGB) or [H, W, 4] (RGBA); an array uint8 [N, H, W] or [N, H, W, C]; or a column of
                paths. They are read as the encoder's evaluation reads images.

        Raises:
            UsageError: the encoder cannot be loaded, there are no images, or one of them cannot be read; the
                message has its path, or its number.
        """
        table = _ImageList(_images(images), self._query_encoder.channels)
        features, unreadable = self._query_encoder.features(table)
        if unreadable:
            raise UsageError(
                f"{count_and_names(unreadable, 'image')} cannot be read; repair or remove what is named here."
            )
        return features.vectors.cpu().numpy()

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.no_validation, tags.requires_fit = True, False
        return tags

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key != "_network"}

    @property
    def _n_features_out(self) -> int:
        return self._query_encoder.backbone.features

    @property
    def _key(self) -> str:
        """What the parameters were when the network was loaded."""
        return repr((str(self.encoder), self.overrides))

    @property
    def _query_encoder(self) -> QueryEncoder:
        if getattr(self, "_network", ("",))[0] != self._key:
            self.fit()
        encoder: QueryEncoder = self._network[1]
        return encoder


class _ImageList(PathTable):
    """Images given as paths or as pixels."""

    def __init__(self, images: Sequence[_Item], channels: int):
        super().__init__([image if isinstance(image, Path) else Path() for image in images], channels)
        self.images = images

    def decode(self, index: int) -> Tensor:
        image = self.images[index]
        if isinstance(image, Path):
            return super().decode(index)
        if isinstance(image, np.ndarray):
            image = _picture(image, self.name(index))
        try:
            return pixels(image, self.channels)
        except Exception as error:  # a lazy image of Pillow is read here
            raise UnreadableImage(self.name(index), reason(error)) from None

    def decode_reduced(self, index: int, reduction: Reduction) -> ReducedImage:
        is_file = isinstance(self.images[index], Path)
        return (PathTable if is_file else ImageTable).decode_reduced(self, index, reduction)

    def name(self, index: int) -> str:
        return super().name(index) if isinstance(self.images[index], Path) else f"image {index}"


def _images(images: Any) -> list[_Item]:
    """The images as a list, paths as :class:`Path`. Raises UsageError if there are none, or not a list."""
    if isinstance(images, str | Path | Image.Image):
        raise UsageError("transform takes several images; put the one image into a list.")
    if hasattr(images, "to_numpy"):  # a column of a table
        images = images.to_numpy()
    if isinstance(images, np.ndarray) and images.dtype.kind in "OUT" and images.ndim > 1:
        images = images.reshape(-1) if images.size == len(images) else images
    listing = [Path(image) if isinstance(image, str) else image for image in images]
    if not listing:
        raise UsageError("transform takes one image or more, not an empty list.")
    for index, image in enumerate(listing):
        if not isinstance(image, Path | Image.Image | np.ndarray):
            raise UsageError(
                f"image {index} is a {type(image).__name__}; give a path, an image of Pillow or an array."
            )
    return listing


def _picture(array: np.ndarray, name: str) -> Image.Image:
    """uint8 [H, W] or [H, W, C] as an image of Pillow."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not is_image or not array.size:
        raise UnreadableImage(
            name, f"{array.dtype} {list(array.shape)}, not uint8 [H, W], [H, W, 3] or [H, W, 4]"
        )
    return Image.fromarray(array)
