"""Parts of MoCo: the queue of keys, and batch norm that does not reveal the positive.

Source: He et al. 2020, "Momentum contrast for unsupervised visual representation learning" (v1), and
Chen et al. 2020, "Improved baselines with momentum contrastive learning" (v2). The averaged encoder is
the framework's target ``ema``.

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
    """Keys of earlier batches, first in, first out: MoCo's dictionary as a queue.

    Keys of all processes are stored as they were compared, in the same order everywhere, and only after
    the losses have used the batch, so that a positive is never its own negative. Entries not yet written
    are not candidates: the queue offers no negatives at the first step. Any batch size fits any ``size``.
    Source: He et al. 2020, section 3.2 and algorithm 1.

    Args:
        size: number of keys in the queue (the papers: 65,536 on ImageNet).
        same_image: how to treat a key of the query's own image from an earlier epoch: as a negative, as
            in the papers, or ignored.
    """

    z: Tensor  # [S, D]
    image: Tensor  # [S] int64
    label: Tensor  # [S] int64
    valid: Tensor  # [S] bool
    pointer: Tensor  # [] int64, the next entry to write

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
        """Overwrite the oldest entries with the K keys of the batch; of more than S, with the last S."""
        keys, size = comparison.keys, len(self.valid)
        surplus = max(0, len(keys.z) - size)
        order = torch.arange(surplus, len(keys.z), device=self.pointer.device)
        entries = (self.pointer + order) % size  # each at most once; only the device knows them
        self.z.index_copy_(0, entries, keys.z[surplus:].to(self.z.dtype))
        self.image.index_copy_(0, entries, keys.image[surplus:])
        self.label.index_copy_(0, entries, keys.label[surplus:])
        self.valid.index_fill_(0, entries, True)
        self.pointer.add_(len(keys.z)).remainder_(size)


class _RegroupedBatch(TargetWrapper):
    """A target that encodes the keys in other groups than the queries, so that batch statistics do not
    reveal the positive (He et al. 2020, section 3.3). ``label`` is its name in recipes."""

    label: str

    def bind(self, encoder: nn.Module) -> None:
        """Raises UsageError if the wrapped target has no encoder of its own."""
        if not self.of.encodes:
            raise UsageError(
                f"{self.label} regroups the batch of the target's own encoder, but the target in 'of' has "
                "none; set of: {name: ema}."
            )
        super().bind(encoder)

    @classmethod
    def example(cls, folder: Path) -> dict[str, Any]:
        """Around a moving average."""
        return {"of": {"name": "ema"}}


class ShuffleBN(_RegroupedBatch):
    """Shuffles the batch across processes before the target in ``of`` encodes it, then unshuffles the keys.

    Each process thus normalises keys by statistics of other images than its queries. All views and all
    processes use the same permutation. It needs several processes; use ``split_bn`` for one. Source: He et
    al. 2020, section 3.3.

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
    """Encodes the batch in random groups, each with its own batch statistics: for a single device.

    A key is normalised only with the images of its group, which a query cannot know: the protection of
    ``shuffle_bn`` without a second process. Queries use the statistics of the whole batch, to which a
    group contributes 1/groups. Source: He et al. 2020, section 3.3, and the authors' demonstration on
    CIFAR-10, where both encoders normalise in 8 groups.

    Args:
        of: the target that encodes, such as ``ema``.
        groups: number of groups; fewer for a batch with less than two images per group.
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
