"""A ring buffer of vectors, for what parts keep of earlier batches: first in, first out."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RingBuffer(nn.Module):
    """The last S vectors that were pushed, in buffers, so that a resumed run continues bit for bit.

    Any number of vectors at a time fits any S. Entries not yet written are not ``valid``. If every process
    pushes the vectors of all processes in the same order, its buffers are the same on each.

    Args:
        size: S.
        width: D.
    """

    z: Tensor  # [S, D]
    valid: Tensor  # [S] bool
    pointer: Tensor  # [] int64, the next entry to write

    def __init__(self, size: int, width: int):
        super().__init__()
        self.register_buffer("z", torch.zeros(size, width))
        self.register_buffer("valid", torch.zeros(size, dtype=torch.bool))
        self.register_buffer("pointer", torch.tensor(0))

    def next_entries(self, count: int) -> Tensor:
        """The entries that the next ``count`` vectors overwrite, the oldest ones: [min(count, S)] int64.

        Of more than S vectors only the last S find one. Only the device knows the entries.
        """
        size = len(self.valid)
        order = torch.arange(max(0, count - size), count, device=self.pointer.device)
        return (self.pointer + order) % size

    @torch.no_grad()
    def push(self, z: Tensor) -> Tensor:
        """Overwrite the oldest entries with vectors z [n, D], in the buffers' dtype.

        Returns:
            The entries of the last min(n, S) of them, for what a subclass stores of each.
        """
        entries = self.next_entries(len(z))
        self.z.index_copy_(0, entries, z[-len(entries) :].to(self.z.dtype))
        self.valid.index_fill_(0, entries, True)
        self.pointer.add_(len(z)).remainder_(len(self.valid))
        return entries
