"""Broken losses."""

import torch
import torch.distributed as dist
from torch import Tensor

from contrastive.distributed import world_size
from contrastive.parts import Loss

TEMPERATURE = 0.5


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return 2 * gradient


class DoubledGradient(Loss):
    """A backward of its own that counts both views once more."""

    def compare(self, comparison):
        return _Doubled.apply(torch.stack([2 - 2 * (q * k).sum(1) for q, k in comparison.aligned()]).sum(0))


class RoundsToFloat32(Loss):
    """A .float() left over from mixed precision."""

    def compare(self, comparison):
        return (
            torch.stack([2 - 2 * (q * k).sum(1).float() for q, k in comparison.aligned()])
            .sum(0)
            .to(comparison.dtype)
        )


class DenseMatrix(Loss):
    """All similarities of a batch at once."""

    def compare(self, comparison):
        q, k = comparison.aligned()[0]
        return (q @ k.T / TEMPERATURE).logsumexp(1) - (q * k).sum(1) / TEMPERATURE + 0 * _all(comparison)


class OrderDependent(Loss):
    """Later images count more."""

    def compare(self, comparison):
        values = torch.stack([2 - 2 * (q * k).sum(1) for q, k in comparison.aligned()]).sum(0)
        return values * torch.linspace(0.5, 1.5, len(values), dtype=values.dtype)


class ReadsLabels(Loss):
    """Leaves out pairs of unknown class, and does not declare that it needs labels."""

    def compare(self, comparison):
        rows = comparison.rows(1 / TEMPERATURE)
        known = comparison.queries.label >= 0
        return (rows.negatives.lse[0] - rows.positives.mean / TEMPERATURE) * (1 + known)


class OverflowsInHalf(Loss):
    """Scores in float16 to save time: raw dot products of long vectors are beyond it."""

    normalised = False

    def compare(self, comparison):
        with torch.autocast("cpu", torch.float16):  # which leaves float64 as it is
            scores = [torch.bmm(q[:, None], k[:, :, None]).flatten() for q, k in comparison.aligned()]
        return torch.nn.functional.softplus(-torch.stack(scores).to(comparison.dtype)).sum(0)


class CentreOutside(Loss):
    """A running centre in a plain attribute."""

    def __init__(self):
        super().__init__()
        self.centre = torch.zeros(())

    def compare(self, comparison):
        return torch.stack([(q - self.centre - k).square().sum(1) for q, k in comparison.aligned()]).sum(0)

    def after_batch(self, comparison):
        self.centre = 0.9 * self.centre + 0.1 * comparison.keys.z.mean(0)


class EnqueuesBefore(Loss):
    """A queue inside the loss that takes the batch before it is compared: a key is its own negative."""

    def __init__(self):
        super().__init__()
        self.register_buffer("queue", torch.zeros(16, 8))

    def compare(self, comparison):
        new = comparison.keys.z.detach().to(self.queue)
        self.queue.copy_(torch.cat([self.queue, new])[-16:])
        q, k = comparison.aligned()[0]
        return (q @ self.queue.to(q).T).logsumexp(1) - (q * k).sum(1) + 0 * _all(comparison)


class GathersWithoutGradient(Loss):
    """Gathers keys by hand; what other processes' rows would teach them is lost."""

    def compare(self, comparison):
        (_, first), (_, second) = comparison.aligned()
        apart = _variance(_gathered(first)) + _variance(_gathered(second))
        return torch.stack([2 - 2 * (q * k).sum(1) for q, k in comparison.aligned()]).sum(0).mean() - apart


class MeanPerProcess(Loss):
    """A variance over the images of this process rather than of all."""

    def compare(self, comparison):
        z = torch.cat([k for _, k in comparison.aligned()])
        return torch.stack([2 - 2 * (q * k).sum(1) for q, k in comparison.aligned()]).sum(
            0
        ).mean() - _variance(z)


class Undocumented(Loss):
    """A loss with an undocumented parameter."""

    def __init__(self, sharpness: float = 2.0):
        super().__init__()
        self.sharpness = sharpness

    def compare(self, comparison):
        return torch.stack([(1 - (q * k).sum(1)) * self.sharpness for q, k in comparison.aligned()]).sum(0)


class Detaches(Loss):
    """Its queries are detached, so nothing is learnt from one side."""

    def compare(self, comparison):
        return torch.stack([2 - 2 * (q.detach() * k).sum(1) for q, k in comparison.aligned()[:1]]).sum(0)


def _all(comparison) -> Tensor:
    return sum(q.sum() for q, _ in comparison.aligned())


def _variance(z: Tensor) -> Tensor:
    return z.var(0).sum()


def _gathered(x: Tensor) -> Tensor:
    if world_size() == 1:
        return x
    pieces = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(pieces, x.detach().contiguous())
    pieces[dist.get_rank()] = x
    return torch.cat(pieces)


FAULTS = {
    DoubledGradient: "gradients",
    RoundsToFloat32: "float64",
    DenseMatrix: "memory",
    OrderDependent: "order",
    ReadsLabels: "labels",
    OverflowsInHalf: "half precision",
    CentreOutside: "state_dict",
    EnqueuesBefore: "pure",
    GathersWithoutGradient: "processes",
    MeanPerProcess: "processes",
    Undocumented: "documented",
    Detaches: "differentiable",
}
