"""What stands in for a target whose network is gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from contrastive.parts import Backbone, Head, Level, Request, Target


class Absent(Target):
    """Stands in for a frozen target whose weights are gone, in a trained run that is only evaluated.

    It is no part of recipes. All its keys are zeros.

    Args:
        widths: level -> width of the keys.
    """

    detached = True
    encodes = True
    fixed = True

    def __init__(self, widths: Mapping[Level, int]):
        super().__init__()
        self.widths = widths

    def width(self, level: Level) -> int:
        """The width that the target had."""
        return self.widths[level]

    def join(self, backbone: Backbone, heads: Mapping[str, Head]) -> None:
        """Nothing to keep."""

    def give(self, requests: Mapping[str, Request]) -> dict[str, dict[int, Tensor]]:
        """Zeros, [b, D] or [b, N, D]."""
        keys: dict[str, dict[int, Tensor]] = {}
        for name, request in requests.items():
            patches = () if request.grid is None else (request.grid[0] * request.grid[1],)
            width = self.widths[request.level]
            keys[name] = {
                number: view.data.new_zeros(len(view.data), *patches, width)
                for number, view in request.views.items()
            }
        return keys

    def forward(
        self,
        views: Mapping[int, Tensor],
        online: Mapping[int, Tensor],
        encode: Callable[[Tensor], Tensor],
    ) -> dict[int, Tensor]:
        return {view: pixels.new_zeros(len(pixels), self.widths["image"]) for view, pixels in views.items()}
