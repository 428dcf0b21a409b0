"""The training step of methods with prototypes or statistics of the batch, by hand; see ``method_scripts``.

What is random is watched: a script is given what the method drew.
"""

from __future__ import annotations

import torch

from tests.papers import decorrelation_scripts as decorrelation
from tests.papers import swav_scripts as clusters
from tests.papers.method_scripts import Script, perceptron

PROTOTYPES, QUEUE = "losses.0.prototypes", "losses.0.queue"
CENTROIDS, MEMORY = "losses.0.centroids", "losses.0.memory"


class SwAV(Script):
    """The queue has room for one batch: it fills in the first step, and is used in the others."""

    def loss(self, s, x, step):
        c = s[PROTOTYPES]
        torch.testing.assert_close(c.norm(dim=1), torch.ones(len(c), dtype=c.dtype))
        z, p = self.online(s, x).z, self.params
        queues = list(s[QUEUE]) if step else [z[0][:0].detach()] * 2
        self.queue = torch.stack(
            [clusters.enqueue(own, each, p["queue"]) for own, each in zip(queues, z, strict=False)]
        )
        return clusters.swav(z, c, queues, p["epsilon"], 3, p["temperature"])

    def frozen(self, key, step):
        return key == PROTOTYPES and step / self.steps < self.params["frozen"]

    def after_step(self, s, step):
        s[PROTOTYPES], s[QUEUE] = clusters.unit(s[PROTOTYPES]), self.queue


class DeepCluster(Script):
    """Each step is an epoch of the same images. Without clusters, in the first one, the loss is 0."""

    is_new = False
    watches = (("contrastive_clusters.deepcluster", "kmeans"),)

    def loss(self, s, x, step):
        z = self.online(s, x).z
        self.z = [clusters.unit(each).detach() for each in z]
        if not step:
            return 0 * sum(each.sum() for each in z)
        return clusters.deepcluster_v2(z, self.centroids, self.clusters, self.params["temperature"])

    def after_step(self, s, step):
        counts = self.params["prototypes"]
        starts = [arguments[1] for arguments in self.draws[0].arguments[-len(counts) :]]
        memory = [self.z[number % 2] for number in range(len(counts))]  # the large crops in turn
        for start, own in zip(starts, memory, strict=True):
            assert (torch.cdist(start, own).min(1).values < 1e-9).all(), "centroids start from entries"
        sets = [clusters.spherical_k_means(*pair) for pair in zip(memory, starts, strict=True)]
        self.centroids, self.clusters = (list(each) for each in zip(*sets, strict=True))
        s[CENTROIDS] = torch.cat(self.centroids)


class BarlowTwins(Script):
    def loss(self, s, x, step):
        return decorrelation.barlow_twins(*self.online(s, x).z, self.params["off_diagonal"])


class VIbCReg(Script):
    """Both views pass on their own, and each moves the running statistics of the whitening."""

    rate = 0.01

    channels = 4

    def head(self, s, h):
        y = perceptron(h, s, "head.mlp")
        self.passes.append(y.detach())
        z = decorrelation.iter_norm(y, self.channels)
        return z * s["head.norm.weight"] + s["head.norm.bias"]

    def loss(self, s, x, step):
        self.passes = []
        a, b = (self.head(s, self.features(s, each)) for each in x)
        p = self.params
        return decorrelation.vibcreg(a, b, p["invariance"], p["variance"], p["covariance"])

    def after_step(self, s, step):
        for y in self.passes:
            groups = y.split(self.channels, 1)
            for name, own in (
                ("mean", torch.stack([group.mean(0) for group in groups])[:, None]),
                ("whitening", torch.stack([decorrelation.newton_whitening(group) for group in groups])),
            ):
                key = f"head.norm.{name}"
                s[key] = 0.9 * s[key] + 0.1 * own.reshape(s[key].shape)


class WMSE(Script):
    rest = ("head.layers.3.bias",)  # whitening subtracts the mean
    watches = (("contrastive_decorrelation.whitening", "WMSE._sub_batches"),)

    def loss(self, s, x, step):
        cuts = self.draws[0].results[-1]
        size, count = self.params["sub_batch"], len(x[0])
        for cut in cuts:
            assert sorted(torch.cat(list(cut)).tolist()) == list(range(count))
            assert [len(rows) for rows in cut] == [size] * (count // size)
        assert len(cuts) == self.params["iterations"]
        return decorrelation.w_mse(self.online(s, x).z, cuts, self.params["shrinkage"])


class TiCo(Script):
    """The recipe's loss has 1 - cos where the script has -cos."""

    def loss(self, s, x, step):
        p, name = self.params, "losses.0.second_moment"
        q = self.online(s, x[:1]).z[0]
        loss, self.table = decorrelation.tico(q, self.average(s, x[1]), s[name], p["momentum"], p["contrast"])
        return loss + 1

    def after_step(self, s, step):
        super().after_step(s, step)
        s["losses.0.second_moment"] = self.table


class FroSSL(Script):
    def loss(self, s, x, step):
        return decorrelation.frossl(self.online(s, x).z, self.params["invariance"])


class MMCR(Script):
    def loss(self, s, x, step):
        return decorrelation.mmcr(self.online(s, x).z, self.params["compression"])


class EMPSSL(Script):
    def loss(self, s, x, step):
        z, p = self.online(s, x).z, self.params
        return decorrelation.emp_ssl(z, p["epsilon"], p["similarity"])


class DirectCLR(Script):
    def loss(self, s, x, step):
        width = self.recipe.head.params["dim"]
        return decorrelation.direct_clr(*self.online(s, x).h, width, self.params["temperature"])


class LeJEPA(Script):
    """The first two views are global."""

    watches = (("contrastive_decorrelation.sketches", "directions"),)

    def directions(self, width: int) -> torch.Tensor:
        """That the method drew for this step: other ones than for the last."""
        last = self.draws[0].results[-1]
        assert last.shape == (width, self.params["slices"])
        torch.testing.assert_close(last.norm(dim=0), torch.ones(len(last.T), dtype=last.dtype))
        assert not any(last.equal(earlier) for earlier in self.draws[0].results[:-1])
        return last

    def loss(self, s, x, step):
        z, p = self.online(s, x).z, self.params
        axes = self.directions(z[0].shape[1])
        return decorrelation.lejepa(z, 2, axes, p["regularisation"], p["t_max"], 2 * p["knots"] - 1)


class VISReg(LeJEPA):
    def loss(self, s, x, step):
        z, p = self.online(s, x).z, self.params
        weights = (p["regularisation"], p["scale"], p["shape"], p["centre"])
        return decorrelation.visreg(z, 2, self.directions(z[0].shape[1]), *weights)
