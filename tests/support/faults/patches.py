"""Broken losses and targets of patches, and an optimizer that decays what nothing reaches."""

from dataclasses import replace

import torch
from torch import nn

from contrastive.kinds import InChannels, PatchSize
from contrastive.optimizers import SGDPart
from contrastive.parts import Loss, Target
from contrastive.targets import EMA

SGD_ARGUMENTS = SGDPart.__doc__[SGDPart.__doc__.index("Args:") :]


def _squares(comparison):
    return torch.stack([2 - 2 * (q * k).sum(1) for q, k in comparison.aligned()]).sum(0)


class Spread(Loss):
    """Distances to the own keys, less their variance: that is whole."""

    def compare(self, comparison):
        keys = comparison.gather(torch.cat([k for _, k in comparison.aligned()]))
        return _squares(comparison).mean() - keys.var(0).sum()


class SpreadOfAll(Loss):
    """Takes the variance of all keys, those of patches that nothing is compared with too."""

    def compare(self, comparison):
        return _squares(comparison).mean() - comparison.keys.z.var(0).sum()


class RowByRow(Loss):
    """Takes the key in the same row for a query's own, whatever matches say."""

    def compare(self, comparison):
        keys = comparison.own_keys.z
        return 2 - 2 * (comparison.queries.z * keys.roll(len(keys) // 2, 0)).sum(1)


class OverVisible(Loss):
    """Compares a query with the mean of all patches of its image rather than with its own key."""

    def compare(self, comparison):
        keys, n = comparison.own_keys, comparison.queries.positions
        means = keys.z.unflatten(0, (-1, keys.positions)).mean(1)  # [views b, D]
        own = means.roll(len(means) // 2, 0).repeat_interleave(n, 0)
        return 2 - 2 * (comparison.queries.z * own).sum(1)


class HardestHalf(Loss):
    """The half of each image's patches that are farthest from their keys, that is whole."""

    def compare(self, comparison):
        distances = torch.cat([2 - 2 * (q * k).sum(1) for q, k in comparison.aligned()])
        of_image = self.by_image(distances, comparison.queries.positions)
        return of_image.topk((of_image.shape[1] + 1) // 2, 1).values.flatten()

    def by_image(self, distances, positions):
        return distances.unflatten(0, (-1, positions))


class HardestOfOthers(HardestHalf):
    """Takes rows for those of one position after another."""

    def by_image(self, distances, positions):
        return distances.unflatten(0, (positions, -1)).mT


class CentresItsPatches(Loss):
    """Of patches, subtracts the mean of this process's rows."""

    def compare(self, comparison):
        several = comparison.queries.positions > 1
        rows = [2 - 2 * ((q - q.mean(0) if several else q) * k).sum(1) for q, k in comparison.aligned()]
        return torch.cat(rows)


class PatchPixels(Target):
    """The mean colours of patches, that is whole."""

    detached = True
    fixed = True

    def __init__(self, in_channels: InChannels, patch_size: PatchSize):
        super().__init__()
        self.features, self.side = in_channels, patch_size

    def join(self, backbone, heads):
        """Nothing to keep."""

    def forward(self, views, online, encode):
        return {view: self.colours(x) for view, x in views.items()}

    def colours(self, x):
        return nn.functional.avg_pool2d(x, self.side).flatten(2).mT


class MirrorsKeys(PatchPixels):
    """Gives keys in the order of the mirrored view."""

    def colours(self, x):
        return super().colours(x.flip(3))


class SeesTheMask(EMA):
    """Encodes views as the online encoder sees them.

    Args:
        momentum: m.
        schedule: constant or cosine.
        layers: number of blocks.
        layer_norm: whether keys are normalised.
    """

    def give(self, requests):
        return super().give({name: self._masked(request) for name, request in requests.items()})

    def _masked(self, request):
        views = {}
        for number, view in request.views.items():
            pixels = view.data
            if view.marks.mask is not None:
                count = round(view.marks.mask.shape[1] ** 0.5)
                shown = (~view.marks.mask).unflatten(1, (count, count))[:, None].to(pixels.dtype)
                pixels = pixels * nn.functional.interpolate(shown, pixels.shape[2:])
            views[number] = replace(view, data=pixels)
        return replace(request, views=views)


class _Stock(Target):
    """A frozen network, which no checkpoint holds."""

    detached = True
    fixed = True

    def __init__(self, in_channels: InChannels):
        super().__init__()
        self.features = 4
        net = nn.Conv2d(in_channels, 4, 3, bias=False).double().requires_grad_(False)
        net.weight.copy_(torch.linspace(-1, 1, net.weight.numel()).view_as(net.weight))  # as if from a file
        self.hold(net)

    def hold(self, net):
        self.nets = [net]  # a list keeps it out of state_dict

    @property
    def net(self):
        return self.nets[0]

    def join(self, backbone, heads):
        """Nothing to keep."""

    @torch.no_grad()
    def forward(self, views, online, encode):
        return {view: self.net(x.double()).mean((2, 3)) for view, x in views.items()}


class Stock(_Stock):
    """A frozen network that is whole."""


class EntersCheckpoints(_Stock):
    """A module like any other, so that every checkpoint holds it."""

    def hold(self, net):
        self.module = net

    net = property(lambda self: self.module)


class TrainsItsStatistics(_Stock):
    """Follows the mode of the method: in training, keys depend on the batch."""

    def hold(self, net):
        super().hold(nn.Sequential(net, nn.BatchNorm2d(4, affine=False).double().eval()))

    def train(self, mode=True):
        self.net.train(mode)
        return super().train(mode)


class LearnsAfterAll(_Stock):
    """Moves its weights at every step."""

    def after_step(self, progress):
        for parameter in self.net.parameters():
            parameter.mul_(0.9)


class TrainsItsWeights(EntersCheckpoints):
    """Its weights are trainable, so that the optimizer decays them."""

    def hold(self, net):
        super().hold(net.requires_grad_(True))


class DecaysUnreached(SGDPart):
    __doc__ = f"Decays by hand, whether there is a gradient or not.\n\n    {SGD_ARGUMENTS}"

    def build(self, model, batch_size):
        optimizer = super().build(model, batch_size)

        def decay(optimizer, *_):
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.data.mul_(1 - 1e-3 * group["lr"])

        optimizer.register_step_post_hook(decay)
        return optimizer


FAULTS = {
    SpreadOfAll: "unmatched",
    HardestOfOthers: "order",
    CentresItsPatches: "processes",
    RowByRow: "own keys",
    OverVisible: "unmatched",
    MirrorsKeys: "patches",
    SeesTheMask: "whole views",
    EntersCheckpoints: "fixed",
    TrainsItsStatistics: "fixed",
    LearnsAfterAll: "fixed",
    TrainsItsWeights: "frozen",
    DecaysUnreached: "unreached",
}
WHOLE = (Spread, HardestHalf, PatchPixels, Stock)
