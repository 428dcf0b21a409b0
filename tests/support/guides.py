"""A guide that is easy to follow by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor
from torch.nn import functional as F

from contrastive.parts import Backbone, Head, Request, Target


class Pixels(Target):
    """A fixed target whose keys are pixels: of whole images, or of patches of 2 pixels."""

    detached = True
    fixed = True

    def __init__(self) -> None:
        super().__init__()
        self.views: list[int] = []  # those that it was asked for

    def join(self, backbone: Backbone, heads: Mapping[str, Head]) -> None:
        """Nothing to keep."""

    def give(self, requests: Mapping[str, Request]) -> dict[str, dict[int, Tensor]]:
        self.views += [view for request in requests.values() for view in request.views]
        return {
            name: {number: self._vectors(view.data, request.level) for number, view in request.views.items()}
            for name, request in requests.items()
        }

    def forward(
        self,
        views: Mapping[int, Tensor],
        online: Mapping[int, Tensor],
        encode: Callable[[Tensor], Tensor],
    ) -> dict[int, Tensor]:
        return {view: self._vectors(pixels, "image") for view, pixels in views.items()}

    @staticmethod
    def _vectors(pixels: Tensor, level: str) -> Tensor:
        return pixels.flatten(1) if level == "image" else F.unfold(pixels, 2, stride=2).mT
