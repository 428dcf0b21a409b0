"""A target that is the online network itself, without gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from contrastive.parts import Backbone, Head, Target


class StopGrad(Target):
    """The online network itself; its keys carry no gradient (SimSiam, Chen and He 2021)."""

    detached = True

    def join(self, backbone: Backbone, heads: Mapping[str, Head]) -> None:
        """Nothing to keep: its keys are those of the online network."""

    def forward(
        self,
        views: Mapping[int, Tensor],
        online: Mapping[int, Tensor],
        encode: Callable[[Tensor], Tensor],
    ) -> dict[int, Tensor]:
        keys = {view: online[view].detach() for view in views if view in online}
        with torch.no_grad():
            return keys | {view: encode(pixels) for view, pixels in views.items() if view not in keys}
