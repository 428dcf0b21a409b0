"""The target ``my_target``."""

import copy
from typing import Annotated

import torch
from contrastive import hookimpl
from contrastive.parts import Target
from contrastive.values import Progress
from pydantic import Field
from torch import Tensor, nn

contrastive_api = 1


class MyTarget(Target):
    """A copy of the online encoder, renewed every few steps (the target network of Mnih et al. 2015).

    Args:
        every: optimizer steps from one copy to the next.
    """

    detached = encodes = True

    def __init__(self, every: Annotated[int, Field(gt=0)] = 100):
        super().__init__()
        self.every = every

    def bind(self, encoder: nn.Module) -> None:
        """Make the copy; the online encoder stays in a list, out of this part's state."""
        self.online, self.encoder = [encoder], copy.deepcopy(encoder).requires_grad_(False)

    @torch.no_grad()
    def forward(self, views, online, encode) -> dict[int, Tensor]:
        """Keys of the views: view -> pixels [b, C, h, w] becomes view -> [b, D], without a gradient."""
        return {view: self.encoder(pixels) for view, pixels in views.items()}

    def after_step(self, progress: Progress) -> None:
        """Renew the copy once ``every`` steps have been taken since the last time."""
        if (progress.step + 1) % self.every == 0:
            self.encoder.load_state_dict(self.online[0].state_dict())


@hookimpl
def register_target(register):
    register("my_target", MyTarget)
