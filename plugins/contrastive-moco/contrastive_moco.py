"""Parts of MoCo: the queue of keys, and batch norm that does not reveal the positive.

Source: He et al. 2020, "Momentum contrast for unsupervised visual representation learning" (v1), and
Chen et al. 2020, "Improved baselines with momentum contrastive learning" (v2). The averaged encoder is
the framework's target ``ema``.

Shape letters: b images of a process's batch, B of all processes, D embedding width, K keys of a batch
(all target views of all processes), V target views, S size of the queue, C channels of a layer.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from contrastive.comparison import Comparison
from contrastive.distributed import broadcast, gather, local, world_size
from contrastive.errors import UsageError
from contrastive.kinds import Addition, InFeatures, hookimpl
from contrastive.parts import Backbone, Head, Negatives, Request, Target, TargetWrapper
from contrastive.ring import RingBuffer
from contrastive.values import Memory
from contrastive.views import View

contrastive_api = 2


class Queue(RingBuffer, Negatives):
    """Keys of earlier batches, first in, first out: MoCo's dictionary as a queue.

    Keys of all processes are stored as they were compared, in the same order everywhere, and only after
    the losses have used the batch, so that a positive is never its own negative. Entries not yet written
    are not candidates: the queue offers no negatives at the first step. Any batch size fits any ``size``.
    Source: He et al. 2020, section 3.2 and algorithm 1; of patches, Wang et al. 2021 (DenseCL).

    Args:
        size: number of keys in the queue (the papers: 65,536 on ImageNet).
        same_image: how to treat a key of the query's own image from an earlier epoch: as a negative, as
            in the papers, or ignored.
        pool: of patches, whether a view of an image enters as one key, the mean of its patches' keys before
            they are normalised (DenseCL, section 3.3 and its code), instead of as all of them.
    """

    image: Tensor  # [S] int64
    label: Tensor  # [S] int64

    def __init__(
        self,
        in_features: InFeatures,
        size: Annotated[int, Field(ge=1)] = 4096,
        same_image: Literal["negative", "ignore"] = "negative",
        pool: Annotated[bool, Addition()] = False,
    ):
        super().__init__(size, in_features)
        self.same_image, self.pool = same_image, pool
        self.register_buffer("image", torch.full((size,), -1))
        self.register_buffer("label", torch.full((size,), -1))

    def memory(self) -> Memory:
        """All S entries; those not yet written are not valid."""
        return Memory(self.z, self.image, self.label, self.valid, self.same_image == "ignore")

    @torch.no_grad()
    def after_batch(self, comparison: Comparison) -> None:
        """Overwrite the oldest entries with the K keys of the batch; of more than S, with the last S."""
        keys = comparison.keys
        z, image, label = keys.z, keys.image, keys.label
        if self.pool:
            z, image, label = _mean_keys(comparison), image[:: keys.positions], label[:: keys.positions]
        entries = self.push(z)
        self.image.index_copy_(0, entries, image[-len(entries) :])
        self.label.index_copy_(0, entries, label[-len(entries) :])


def _mean_keys(comparison: Comparison) -> Tensor:
    """The mean key of each view of each image of all processes, as keys are compared: [V B, D]."""
    keys = [comparison.target_keys[view].to(comparison.own_keys.z.dtype) for view in comparison.key_views]
    means = torch.stack([z.mean(1) if z.ndim == 3 else z for z in keys], 1)  # [b, V, D]
    z = comparison.gather(means).transpose(0, 1).flatten(0, 1)
    return functional.normalize(z, dim=1) if comparison.normalised else z


#: What encodes some views: view -> pixels [b, C, h, w], to objective -> view -> keys.
Encode = Callable[[Mapping[int, Tensor]], dict[str, dict[int, Tensor]]]


class _RegroupedBatch(TargetWrapper):
    """A target that encodes the keys in other groups than the queries, so that batch statistics do not
    reveal the positive (He et al. 2020, section 3.3). ``label`` is its name in recipes."""

    label: str
    own_statistics = True

    def join(self, backbone: Backbone, heads: Mapping[str, Head]) -> None:
        """Raises UsageError if the wrapped target has no encoder of its own."""
        self._check()
        self.of.join(backbone, heads)
        self.prepare()

    def bind(self, encoder: nn.Module) -> None:
        """Raises UsageError if the wrapped target has no encoder of its own."""
        self._check()
        super().bind(encoder)
        self.prepare()

    def _check(self) -> None:
        if not self.of.encodes:
            raise UsageError(
                f"{self.label} regroups the batch of the target's own encoder, but the target in 'of' has "
                "none; set of: {name: ema}."
            )

    def prepare(self) -> None:
        """Called once, with the wrapped target's encoder in place."""

    def give(self, requests: Mapping[str, Request]) -> dict[str, dict[int, Tensor]]:
        """The keys of every objective, all from the same groups."""
        views = {number: view for request in requests.values() for number, view in request.views.items()}

        def encode(pixels: Mapping[int, Tensor]) -> dict[str, dict[int, Tensor]]:
            some = {number: View(x, field=views[number].field) for number, x in pixels.items()}
            own = {
                name: {number: some[number] for number in request.views if number in some}
                for name, request in requests.items()
            }
            return self.of.give(
                {name: replace(requests[name], views=own[name], online={}) for name in requests if own[name]}
            )

        has_patches = any(request.level == "patch" for request in requests.values())
        return self.regroup({number: view.data for number, view in views.items()}, encode, has_patches)

    def forward(
        self,
        views: Mapping[int, Tensor],
        online: Mapping[int, Tensor],
        encode: Callable[[Tensor], Tensor],
    ) -> dict[int, Tensor]:
        return self.regroup(views, lambda pixels: {"": self.of(pixels, {}, encode)}, False)[""]

    @abstractmethod
    def regroup(
        self, views: Mapping[int, Tensor], encode: Encode, has_patches: bool
    ) -> dict[str, dict[int, Tensor]]:
        """Encode views in other groups; their keys, in the order of the views.

        Args:
            views: view -> pixels [b, C, h, w].
            encode: the wrapped target.
            has_patches: whether some keys are of patches, [b, N, D].
        """

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

    def regroup(
        self, views: Mapping[int, Tensor], encode: Encode, has_patches: bool
    ) -> dict[str, dict[int, Tensor]]:
        first = next(iter(views.values()))
        order = broadcast(torch.randperm(world_size() * len(first), device=first.device))  # [B]
        here, back = local(order), local(order.argsort())  # [b]
        keys = encode({view: gather(pixels)[here] for view, pixels in views.items()})
        return {name: {view: gather(z)[back] for view, z in own.items()} for name, own in keys.items()}


class SplitBN(_RegroupedBatch):
    """Encodes the batch in random groups, each with its own batch statistics: for a single device.

    A key is normalised only with the images of its group, which a query cannot know: the protection of
    ``shuffle_bn`` without a second process. Queries use the statistics of the whole batch, to which a
    group contributes 1/groups. Source: He et al. 2020, section 3.3, and the authors' demonstration on
    CIFAR-10, where both encoders normalise in 8 groups.

    All groups pass the encoder at once, and its batch norms keep them apart. If keys are of patches, or the
    encoder has modules of other packages than torch, torchvision, timm and the framework, which may mix the
    images of a batch in ways of their own, each group passes alone, at the cost of that many times more
    calls.

    Args:
        of: the target that encodes, such as ``ema``.
        groups: number of groups; fewer for a batch with less than two images per group.
    """

    label = "split_bn"

    def __init__(self, of: Target, groups: Annotated[int, Field(ge=2)] = 8):
        super().__init__(of)
        self.groups = groups
        self.is_foldable = False

    def prepare(self) -> None:
        """Make the batch norms of the encoder able to keep groups apart."""
        modules = list(self.of.modules())
        self.is_foldable = all(map(_keeps_groups_apart, modules))
        for module in modules if self.is_foldable else ():
            if isinstance(module, _BatchNorm):
                module.__class__ = _folding(type(module))  # type: ignore[arg-type]  # types are hashable

    def regroup(
        self, views: Mapping[int, Tensor], encode: Encode, has_patches: bool
    ) -> dict[str, dict[int, Tensor]]:
        first = next(iter(views.values()))
        order = torch.randperm(len(first), device=first.device)  # [b]
        groups = order.tensor_split(max(1, min(self.groups, len(first) // 2)))
        if has_patches or not self.is_foldable:
            parts = [encode({v: x[group] for v, x in views.items()}) for group in groups]
            back = order.argsort()
            return {
                name: {view: torch.cat([part[name][view] for part in parts])[back] for view in own}
                for name, own in parts[0].items()
            }
        return self._regroup_together(views, encode, groups)

    def _regroup_together(
        self, views: Mapping[int, Tensor], encode: Encode, groups: Sequence[Tensor]
    ) -> dict[str, dict[int, Tensor]]:
        """Encode all groups in one pass per view."""
        runs, order = _runs_and_order(groups)
        layers = [module for module in self.of.modules() if isinstance(module, _Folding)]
        keys: dict[str, dict[int, Tensor]] = {}
        shares: list[list[tuple[_Share, ...]]] = []
        back = order.argsort()
        for view, pixels in views.items():
            with _groups_apart(layers, runs):
                for name, own in encode({view: pixels[order]}).items():
                    keys.setdefault(name, {}).update({number: z[back] for number, z in own.items()})
                shares.append([layer.shares for layer in layers])
        for (momentum, count), members in _updates(layers, shares).items():
            _update_running_statistics(momentum, count, members)
        return keys


# -- batch norm of several groups in one call -----------------------------------------------------------

#: Groups of one size: their number, and the images of each. The images of a run are interleaved: group g of n
#: has every n-th image from the g-th on. Groups then are channels: [n s, C, ...] in memory is [s, n C, ...].
Run = tuple[int, int]
#: Mean and variance [C] of a group.
Statistics = tuple[Tensor, Tensor]


def _runs_and_order(groups: Sequence[Tensor]) -> tuple[list[Run], Tensor]:
    """Groups of images [s], the larger ones first, as runs and an order [b] of all images."""
    runs: list[Run] = []
    parts: list[Tensor] = []
    for size in sorted({len(group) for group in groups}, reverse=True):
        members = [group for group in groups if len(group) == size]
        runs.append((len(members), size))
        parts.append(torch.stack(members, 1).flatten())
    return runs, torch.cat(parts)


class _Share:
    """What one batch norm needs for one run, and the statistics that it computes.

    Args:
        run: its groups.
        parameters: weight and bias [groups C], or None.
        spare: zeros [groups C] for mean and variance, or None if the layer keeps no running statistics.
    """

    def __init__(self, run: Run, parameters: Sequence[Tensor | None], spare: Sequence[Tensor] | None):
        self.groups, self.size = run
        self.weight, self.bias = parameters
        self.spare = spare
        self.statistics: list[Sequence[Tensor]] = []  # of each use of the layer

    def normalise(self, x: Tensor, eps: float) -> Tensor:
        """[groups s, C, ...] -> the same, each group by its own statistics."""
        wide = x.contiguous().view(self.size, self.groups * x.shape[1], *x.shape[2:])
        mean, variance = self._room()
        out = functional.batch_norm(wide, mean, variance, self.weight, self.bias, True, 1.0, eps)
        return out.reshape(x.shape)

    def _room(self) -> Sequence[Tensor | None]:
        """Where the layer's next use leaves its mean and variance."""
        if self.spare is None:
            return None, None
        room = [torch.zeros_like(t) for t in self.spare] if self.statistics else self.spare
        self.statistics.append(room)
        return room

    def by_group(self) -> Iterator[list[Statistics]]:
        """Of each group, the statistics of each use."""
        pairs = [[t.view(self.groups, -1).unbind() for t in pair] for pair in self.statistics]
        for group in range(self.groups):
            yield [(mean[group], variance[group]) for mean, variance in pairs]


class _Folding(_BatchNorm):
    """A batch norm that keeps the groups of a batch apart in training, within :func:`_groups_apart`.

    Modules get it as a base of their class (:func:`_folding`); their tensors and their names stay.
    """

    shares: tuple[_Share, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        if not self.shares or not _uses_batch(self):
            return super().forward(x)
        self._check_input_dim(x)
        parts = x.split([share.groups * share.size for share in self.shares])
        results = [share.normalise(part, self.eps) for share, part in zip(self.shares, parts, strict=True)]
        return self.finish(results[0] if len(results) == 1 else torch.cat(results))

    def finish(self, x: Tensor) -> Tensor:
        """What the layer does after normalising."""
        return x


class _FoldingWithActivation(_Folding):
    """timm's batch norm with an activation, likewise."""

    act: nn.Module
    drop: nn.Module

    def finish(self, x: Tensor) -> Tensor:
        return self.act(self.drop(x))


def _uses_batch(layer: _BatchNorm) -> bool:
    """Whether a batch norm normalises by the statistics of its batch."""
    return layer.training or (layer.running_mean is None and layer.running_var is None)


def _running(layer: _BatchNorm) -> list[Tensor]:
    """Mean and variance [C] that a batch norm updates in training, or none."""
    if layer.running_mean is None or layer.running_var is None or not layer.track_running_stats:
        return []
    return [layer.running_mean, layer.running_var]


def _base(layer_class: type[_BatchNorm]) -> type[_Folding] | None:
    """Which of the classes above can do the work of a batch norm; None if its forward pass is of its own."""
    if layer_class.forward is _BatchNorm.forward:
        return _Folding
    timm_layers = sys.modules.get("timm.layers")
    if timm_layers is not None and layer_class.forward is timm_layers.BatchNormAct2d.forward:
        return _FoldingWithActivation
    return None


@cache
def _folding(layer_class: type[_BatchNorm]) -> type[_BatchNorm]:
    """The class of a batch norm, able to keep groups apart."""
    base = _base(layer_class)
    assert base is not None
    return type(layer_class.__name__, (base, layer_class), {"__module__": __name__})


#: Packages whose modules treat images separately, except for those with running statistics.
_PACKAGES = ("torch.nn.", "torchvision.", "timm.", "contrastive.")


def _keeps_groups_apart(module: nn.Module) -> bool:
    """Whether a module treats every image separately, or is a batch norm that can keep groups apart."""
    if isinstance(module, _BatchNorm):
        return _base(type(module)) is not None
    statistics = {"running_mean", "running_var"} & dict(module.named_buffers(recurse=False)).keys()
    return type(module).__module__.startswith(_PACKAGES) and not statistics


@contextmanager
def _groups_apart(layers: Sequence[_Folding], runs: Sequence[Run]) -> Iterator[None]:
    """Within it, these layers keep the groups of these runs apart."""
    for layer, shares in zip(layers, zip(*(_shares(layers, run) for run in runs), strict=True), strict=False):
        layer.shares = shares
    try:
        yield
    finally:
        for layer in layers:
            layer.shares = ()


def _shares(layers: Sequence[_Folding], run: Run) -> list[_Share]:
    """The layers' shares of a run. A handful of calls makes the tensors of all layers."""
    groups, _ = run
    parameters = [t for layer in layers for t in (layer.weight, layer.bias) if t is not None]
    buffers = [t for layer in layers for t in _running(layer)]
    copies, spare = iter(()), iter(())
    if parameters:
        flat = torch.cat(list(chain.from_iterable([t] * groups for t in parameters)))
        copies = iter(flat.split([groups * len(t) for t in parameters]))
    if buffers:
        lengths = [groups * len(t) for t in buffers]
        spare = iter(buffers[0].new_zeros(sum(lengths)).split(lengths))
    return [
        _Share(
            run,
            [None if t is None else next(copies) for t in (layer.weight, layer.bias)],
            [next(spare) for _ in _running(layer)] or None,
        )
        for layer in layers
    ]


Members = list[tuple[_BatchNorm, list[Statistics]]]


def _updates(
    layers: Sequence[_BatchNorm], shares: Sequence[Sequence[tuple[_Share, ...]]]
) -> dict[tuple[float | None, int], Members]:
    """The updates of running statistics, in the order in which groups would pass one by one.

    Args:
        layers: of the encoder.
        shares: per view and layer, its shares of the runs.

    Returns:
        (momentum, number of updates) -> layers and their updates.
    """
    members: dict[tuple[float | None, int], Members] = {}
    for layer, *views in zip(layers, *shares, strict=True):
        updates = [
            pair
            for runs in zip(*views, strict=True)
            for uses in zip(*(share.by_group() for share in runs), strict=True)
            for pair in chain.from_iterable(uses)
        ]
        if updates:
            members.setdefault((layer.momentum, len(updates)), []).append((layer, updates))
    return members


@torch.no_grad()
def _update_running_statistics(momentum: float | None, count: int, members: Members) -> None:
    """Update running statistics as ``count`` forward passes would; ``momentum`` None is a cumulative mean."""
    running = [t for layer, _ in members for t in _running(layer)]
    numbers = [n for layer, _ in members if (n := layer.num_batches_tracked) is not None]
    passes = [[t for _, updates in members for t in updates[number]] for number in range(count)]
    torch._foreach_add_(numbers, count)
    if momentum is not None:
        for statistics in passes:
            torch._foreach_lerp_(running, statistics, momentum)
        return
    twice = [number for number in numbers for _ in range(2)]
    for average, number, *batches in zip(running, twice, *passes, strict=True):
        average.lerp_(torch.stack(batches).mean(0), (count / number).to(average))


@hookimpl
def register_negatives(register: Callable[[str, Any], None]) -> None:
    register("queue", Queue)


@hookimpl
def register_target(register: Callable[[str, Any], None]) -> None:
    register("shuffle_bn", ShuffleBN)
    register("split_bn", SplitBN)
