"""A target whose keys are pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor
from torch.nn import functional as F

from contrastive.kinds import InChannels, PatchSize
from contrastive.parts import Backbone, Head, Target


class OwnPixels(Target):
    """Each patch's own pixels, at level patch (MAE, He et al. 2022; SimMIM, Xie et al. 2022).

    Args:
        per_patch: less their mean and divided by their standard deviation (MAE).
    """

    detached = True
    fixed = True
    needs = frozenset({"patches"})

    def __init__(self, in_channels: InChannels, patch_size: PatchSize, per_patch: bool = True):
        super().__init__()
        self.patch_size, self.per_patch = patch_size, per_patch
        self.features = in_channels * patch_size**2

    def join(self, backbone: Backbone, heads: Mapping[str, Head]) -> None:
        """Nothing to keep: pixels do not follow the encoder."""

    def forward(
        self,
        views: Mapping[int, Tensor],
        online: Mapping[int, Tensor],
        encode: Callable[[Tensor], Tensor],
    ) -> dict[int, Tensor]:
        """Pixels [b, C, h, w] -> [b, N, C p^2]."""
        return {view: self._patches(pixels) for view, pixels in views.items()}

    def _patches(self, pixels: Tensor) -> Tensor:
        x = F.unfold(pixels, self.patch_size, stride=self.patch_size).mT
        if not self.per_patch:
            return x
        return (x - x.mean(2, keepdim=True)) / (x.var(2, keepdim=True) + 1e-6).sqrt()
