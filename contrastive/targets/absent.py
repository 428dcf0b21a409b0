"""What stands in for a target whose network is gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from contrastive.parts import Backbone, Head, Request, Target


class Absent(Target):
    """Stands in for a frozen target whose weights are gone, in a trained run that is only evaluated.

    It is no part of recipes. All its keys are zeros.

    Args:
        features: width of the keys.
    """

    detached = True
    encodes = True
    fixed = True

    def __init__(self, features: int):
        super().__init__()
        self.features: int = features

    def join(self, backbone: Backbone, heads: Mapping[str, Head]) -> None:
        """Nothing to keep."""

    def give(self, requests: Mapping[str, Request]) -> dict[str, dict[int, Tensor]]:
        """Zeros, [b, D] or [b, N, D]."""
        keys: dict[str, dict[int, Tensor]] = {}
        for name, request in requests.items():
            patches = () if request.grid is None else (request.grid[0] * request.grid[1],)
            keys[name] = {
                number: view.data.new_zeros(len(view.data), *patches, self.features)
                for number, view in request.views.items()
            }
        return keys

    def forward(
        self,
        views: Mapping[int, Tensor],
        online: Mapping[int, Tensor],
        encode: Callable[[Tensor], Tensor],
    ) -> dict[int, Tensor]:
        return {view: pixels.new_zeros(len(pixels), self.features) for view, pixels in views.items()}
