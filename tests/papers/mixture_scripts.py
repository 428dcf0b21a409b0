"""The training step of mixtures of methods, by hand, from the papers' formulas; see ``method_scripts``."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.papers import decorrelation_scripts as decorrelation
from tests.papers import negatives_scripts as negatives
from tests.papers import siamese_scripts as siamese
from tests.papers.method_scripts import BYOL, MoCo, Script, entries


class BYOLWithDCL(BYOL):
    """A share of the decoupled loss of each prediction and the keys of both views of other images."""

    def loss(self, s, x, step):
        p, k = self.online(s, x).p, [self.average(s, each) for each in x]
        second = self.recipe.losses[1]
        t = second.part.params["temperature"]
        keys = torch.cat([negatives.unit(each) for each in k])
        count, losses = len(x[0]), []
        for i, query in enumerate(torch.cat([negatives.unit(each) for each in p])):
            partner = (i + count) % (2 * count)
            scores = keys @ query / t
            others = [j for j in range(2 * count) if j not in (i, partner)]
            losses.append(scores[others].exp().sum().log() - scores[partner])
        return siamese.byol(p, k) + second.weight * torch.stack(losses).mean()


class FastBYOL(Script):
    """FastSiam's loss on the averaged encoder's embeddings, as a sum over views of 2 - 2 cos."""

    def loss(self, s, x, step):
        k = [self.average(s, each) for each in x]
        return self.weight * 2 * len(x) * (1 + siamese.fast_siam(self.online(s, x).p, k))


class MoCoHardNegative(MoCo):
    """Hard negative sampling with one positive, and the queue's entries as negatives."""

    starts_full = True

    def formula(self, q: Tensor, k: Tensor, queue: Tensor, t: float) -> Tensor:
        losses = []
        for query, key in zip(negatives.unit(q), negatives.unit(k), strict=True):
            p, n = (key @ query / t).exp(), (queue @ query / t).exp()
            losses.append(negatives.hard_row(p, n, t, self.params["class_share"], self.params["hardness"]))
        return torch.stack(losses).mean()


class SimCLRWithVICReg(Script):
    """Both on one embedding: NT-Xent on its direction, and VICReg on it as it is."""

    def loss(self, s, x, step):
        z, p = self.online(s, x).z, self.recipe.aims[1].losses[0].part.params
        spread = decorrelation.vicreg(*z, p["invariance"], p["variance"], p["covariance"])
        return negatives.nt_xent(z, self.params["temperature"]) + spread


class SupConWithQueue(MoCo):
    """The positives of a query are its own key and the queue's entries of its label."""

    def loss(self, s, x, step):
        k = self.average(s, x[1], self.recipe.target.params["groups"])
        queue, own = entries(s, self.queue), s[f"{self.queue}.label"][s[f"{self.queue}.valid"]]
        self.entries = {self.queue: negatives.unit(k)}
        losses = []
        q, t = negatives.unit(self.online(s, x[:1]).z[0]), self.params["temperature"]
        for query, key, label in zip(q, negatives.unit(k), self.labels, strict=True):
            scores = torch.cat([key[None], queue]) @ query / t
            positive = torch.cat([torch.tensor([True]), own == label])
            losses.append((scores.exp().sum().log() - scores[positive]).mean())
        return torch.stack(losses).mean()

    def after_step(self, s, step):
        place, name = int(s[f"{self.queue}.pointer"]), f"{self.queue}.label"
        super().after_step(s, step)
        s[name] = s[name].clone()
        for label in self.labels:
            s[name][place] = label
            place = (place + 1) % len(s[name])
