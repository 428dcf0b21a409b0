"""MoCo's parts: the queue of keys, and batch norm that does not give the positive away.

Source: He et al. 2020, "Momentum contrast for unsupervised visual representation learning" (v1), and
Chen et al. 2020, "Improved baselines with momentum contrastive learning" (v2). The averaged encoder is
the core's target ``ema``.

Shape letters: b images of a process's batch, B of all processes, D embedding width, K keys of a batch
(all target views of all processes), S size of the queue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from contrastive.comparison import Comparison
from contrastive.distributed import broadcast, gather, local, world_size
from contrastive.errors import UsageError
from contrastive.kinds import InFeatures, hookimpl
from contrastive.parts import Negatives, Target, TargetWrapper
from contrastive.values import Memory

contrastive_api = 1


class Queue(Negatives):
    """Keys of earlier batches, oldest out first: MoCo's dictionary as a queue.

    Keys are stored as they were compared, those of all processes in one order, and only after the
    losses have seen the batch, so that a positive is never its own negative. Entries not yet written
    are no candidates: the first step has no negatives from here. Any batch size fits any ``size``.
    Source: He et al. 2020, section 3.2 and algorithm 1.

    Args:
        size: how many keys are kept (the papers: 65,536 on ImageNet).
        same_image: what a key of the query's own image, from an earlier epoch, is: a negative, as in
            the papers, or ignored.
    """

    z: Tensor  # [S, D]
    image: Tensor  # [S] int64
    label: Tensor  # [S] int64
    valid: Tensor  # [S] bool
    pointer: Tensor  # [] int64, the entry to be written next

    def __init__(
        self,
        in_features: InFeatures,
        size: Annotated[int, Field(ge=1)] = 4096,
        same_image: Literal["negative", "ignore"] = "negative",
    ):
        super().__init__()
        self.same_image = same_image
        self.register_buffer("z", torch.zeros(size, in_features))
        self.register_buffer("image", torch.full((size,), -1))
        self.register_buffer("label", torch.full((size,), -1))
        self.register_buffer("valid", torch.zeros(size, dtype=torch.bool))
        self.register_buffer("pointer", torch.tensor(0))

    def memory(self) -> Memory:
        """All S entries; those not yet written are not valid."""
        return Memory(self.z, self.image, self.label, self.valid, self.same_image == "ignore")

    @torch.no_grad()
    def after_batch(self, comparison: Comparison) -> None:
        """Write the K keys of the batch over the oldest entries; of more than S, the last S stay."""
        keys, size = comparison.keys, len(self.valid)
        surplus = max(0, len(keys.z) - size)
        order = torch.arange(surplus, len(keys.z), device=self.pointer.device)
        entries = (self.pointer + order) % size  # each at most once; the device alone knows them
        self.z.index_copy_(0, entries, keys.z[surplus:].to(self.z.dtype))
        self.image.index_copy_(0, entries, keys.image[surplus:])
        self.label.index_copy_(0, entries, keys.label[surplus:])
        self.valid.index_fill_(0, entries, True)
        self.pointer.add_(len(keys.z)).remainder_(size)


class _RegroupedBatch(TargetWrapper):
    """A target that encodes the batch in other company than the queries', so that batch statistics do
    not tell which key is the positive (He et al. 2020, section 3.3). ``label`` is its name in recipes."""

    label: str

    def bind(self, encoder: nn.Module) -> None:
        """Raises UsageError where the wrapped target runs no encoder of its own."""
        if not self.of.encodes:
            raise UsageError(
                f"{self.label} regroups the batch that the target's own encoder sees, and the target in 'of' "
                "has none; say of: {name: ema}."
            )
        super().bind(encoder)

    @classmethod
    def example(cls, folder: Path) -> dict[str, Any]:
        """Around a moving average."""
        return {"of": {"name": "ema"}}


class ShuffleBN(_RegroupedBatch):
    """Shuffles the batch across processes before the target in ``of`` encodes it, and the keys back.

    Each process then normalises keys by statistics of other images than its queries. Every view is
    shuffled alike, and on every process by the same permutation. For several processes; ``split_bn``
    serves one. Source: He et al. 2020, section 3.3.

    Args:
        of: the target that encodes, such as ``ema``.
    """

    label = "shuffle_bn"
    needs = frozenset({"processes"})

    def __init__(self, of: Target):
        super().__init__(of)

    def forward(
        self,
        views: Mapping[int, Tensor],
        online: Mapping[int, Tensor],
        encode: Callable[[Tensor], Tensor],
    ) -> dict[int, Tensor]:
        first = next(iter(views.values()))
        order = broadcast(torch.randperm(world_size() * len(first), device=first.device))  # [B]
        here, back = local(order), local(order.argsort())  # [b]
        shuffled_views = {view: gather(pixels)[here] for view, pixels in views.items()}
        return {view: gather(z)[back] for view, z in self.of(shuffled_views, {}, encode).items()}


class SplitBN(_RegroupedBatch):
    """Encodes the batch in random groups, each with batch statistics of its own: for a single device.

    A key is normalised with the images of its group alone, which a query cannot know: the protection
    of ``shuffle_bn`` without a second process. The queries keep the statistics of their whole batch, to
    which a group adds 1/groups. Source: He et al. 2020, section 3.3, and the authors' demonstration on
    CIFAR-10, where both encoders normalise in 8 groups.

    Args:
        of: the target that encodes, such as ``ema``.
        groups: how many groups; a batch of fewer than two images a group makes fewer.
    """

    label = "split_bn"

    def __init__(self, of: Target, groups: Annotated[int, Field(ge=2)] = 8):
        super().__init__(of)
        self.groups = groups

    def forward(
        self,
        views: Mapping[int, Tensor],
        online: Mapping[int, Tensor],
        encode: Callable[[Tensor], Tensor],
    ) -> dict[int, Tensor]:
        first = next(iter(views.values()))
        order = torch.randperm(len(first), device=first.device)  # [b]
        groups = order.tensor_split(max(1, min(self.groups, len(first) // 2)))
        keys = [self.of({v: pixels[group] for v, pixels in views.items()}, {}, encode) for group in groups]
        back = order.argsort()
        return {view: torch.cat([part[view] for part in keys])[back] for view in views}


@hookimpl
def register_negatives(register: Callable[[str, Any], None]) -> None:
    register("queue", Queue)


@hookimpl
def register_target(register: Callable[[str, Any], None]) -> None:
    register("shuffle_bn", ShuffleBN)
    register("split_bn", SplitBN)
