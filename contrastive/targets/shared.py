"""A target that is the online network itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from contrastive.parts import Backbone, Head, Target


class SharedEncoder(Target):
    """The online network itself: its embeddings are the keys, with their gradient (SimCLR)."""

    def join(self, backbone: Backbone, heads: Mapping[str, Head]) -> None:
        """Nothing to keep: its keys are those of the online network."""

    def forward(
        self,
        views: Mapping[int, Tensor],
        online: Mapping[int, Tensor],
        encode: Callable[[Tensor], Tensor],
    ) -> dict[int, Tensor]:
        return {view: online[view] if view in online else encode(pixels) for view, pixels in views.items()}
