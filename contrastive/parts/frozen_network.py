"""A network that a part computes with and that training leaves as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from torch import Tensor, nn

N = TypeVar("N", bound=nn.Module)


class FrozenNetwork(nn.Module, Generic[N]):
    """Holds a network that is never trained: a teacher, or an extractor of features that a loss compares.

    The network is always in evaluation mode, whatever ``train()`` is called on, and needs no gradients.
    Device and type follow the part that holds it. To everything else it is not there: ``parameters``,
    ``buffers`` and ``state_dict`` leave it out, and so do optimizers, checkpoints and the exchange between
    processes. Each process reads it from its file, so mark the parameter that names the file with
    :class:`contrastive.kinds.Content`.

    Args:
        network: is changed in place.
    """

    def __init__(self, network: N):
        super().__init__()
        self._network = [network.eval().requires_grad_(False)]  # in a list, it is no part of this module

    @property
    def network(self) -> N:
        """The network itself; gradients pass through it to its input."""
        return self._network[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenNetwork[N]:
        """What ``to``, ``double`` and ``cuda`` call."""
        super()._apply(fn, recurse)
        self.network._apply(fn, recurse)
        return self
