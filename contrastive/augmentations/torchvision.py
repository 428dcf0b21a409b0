"""Any torchvision v2 transform as an operation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from contrastive.augmentations.pipeline import Operation, Params, to_uint8
from contrastive.errors import UsageError, did_you_mean
from contrastive.rng import Draws

# Transforms that reject uint8. All others take it, and it is faster.
_WANT_FLOAT = frozenset({"GaussianNoise"})

# Transforms that make no view -> what serves instead. Images are tensors from the start, uint8 or in [0, 1].
_BACKBONE = "set the backbone's mean and std, which are applied to views in [0, 1]"
_TENSORS = "the images are tensors already; remove it"
_NO_VIEW = {
    "Normalize": _BACKBONE,
    **dict.fromkeys(("ToTensor", "PILToTensor", "ToPILImage", "ToDtype"), _TENSORS),
}

# Trials per transform: they detect one that changes the size of every fourth image with probability 0.99.
_TRIALS = 16


class TorchvisionTransform(Operation):
    """A transform of torchvision.transforms.v2, drawn image by image.

    Most transforms draw once per call, so each image has its own call. Torch's global generator is seeded
    from the image's key and restored afterwards.

    Args:
        transform: class name in ``torchvision.transforms.v2``, such as ``RandomPosterize``.
        options: its arguments; those that are transforms themselves (of ``RandomApply``, ``RandomChoice``)
            are again maps with ``transform`` and ``options``.

    Raises:
        UsageError: there is no such transform, it does not accept these options, or its output is not an
            image in [0, 1] with the same number of channels.
    """

    per_sample = True

    def __init__(self, transform: str, options: dict[str, Any] | None = None):
        options = options or {}
        self._transform = _transform(transform, options)
        self.name = f"torchvision.{transform}"
        self.size = _fixed_size(transform, options.get("size"))
        self._dtype = torch.float32 if transform in _WANT_FLOAT else torch.uint8

    def output_size(self, size: tuple[int, int] | None) -> tuple[int, int] | None:
        """As in :class:`Operation`; found by trial for ``Resize``, ``Pad`` and zooms."""
        if self.size is not None or size is None:
            return self.size
        blank = torch.zeros(3, *size, dtype=self._dtype)
        with torch.random.fork_rng(devices=[]):
            views = (self._one(blank, seed) for seed in range(_TRIALS))
            size, *others = {(view.shape[1], view.shape[2]) for view in views}
        return None if others else size

    def draw(self, rng: Draws) -> Params:
        """``seed`` uint64 [b]."""
        return {"seed": rng.bits()}

    def render(self, pixels: Tensor, params: Params) -> Tensor:
        """float [b, C, h, w] in [0, 1] -> the same, via uint8 for nearly all transforms."""
        images = pixels if self._dtype.is_floating_point else to_uint8(pixels)
        with torch.random.fork_rng(devices=[]):
            return torch.stack(
                [self._one(image, int(seed)) for image, seed in zip(images, params["seed"], strict=True)]
            )

    def _one(self, image: Tensor, seed: int) -> Tensor:
        torch.default_generator.manual_seed(seed)
        try:
            output = self._transform(image)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(
                f"{self.name} fails on an image of shape {list(image.shape)}: {error}"
            ) from error
        if not (isinstance(output, Tensor) and output.ndim == 3 and len(output) == len(image)):
            raise UsageError(
                f"{self.name} does not turn one image into one image of {len(image)} channel(s)."
            )
        if not output.is_floating_point():
            return output.to(torch.float32).div_(255)
        if not ((output >= 0) & (output <= 1)).all():
            raise UsageError(
                f"{self.name} returns values outside [0, 1], the range of the pixels that backbones take."
            )
        return output.to(torch.float32)


def _transform(name: str, options: dict[str, Any]) -> Any:
    """The transform of that name, with the transforms in its options."""
    from torchvision.transforms import v2  # takes 3 s, so only when needed

    kind = getattr(v2, name, None)
    if not (isinstance(kind, type) and issubclass(kind, v2.Transform)):
        names = [name for name in dir(v2) if isinstance(getattr(v2, name), type)]
        raise UsageError(f"torchvision.transforms.v2 has no transform '{name}'.{did_you_mean(name, names)}")
    if name in _NO_VIEW:
        raise UsageError(f"torchvision's {name} makes no view: {_NO_VIEW[name]}.")
    try:
        return kind(**{key: _argument(value) for key, value in options.items()})
    except (TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"torchvision's {name} does not accept {options}: {error}") from error


def _argument(value: Any) -> Any:
    if isinstance(value, list):
        return [_argument(entry) for entry in value]
    if isinstance(value, dict) and isinstance(value.get("transform"), str):
        return _transform(value["transform"], value.get("options", {}))
    return value


def _fixed_size(transform: str, size: Any) -> tuple[int, int] | None:
    """(h, w) if the transform fixes it: crops, and Resize to a pair (one number is the shorter side)."""
    if not (transform.endswith("Crop") or transform == "Resize") or size is None:
        return None
    if isinstance(size, int):
        return (size, size) if transform.endswith("Crop") else None
    return (size[0], size[-1]) if len(size) == 2 or transform.endswith("Crop") else None
