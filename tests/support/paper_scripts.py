"""SwAV, DINO, Barlow Twins, VICReg and NNCLR as plain scripts of one network, for tests.

Float64, written from the papers and their authors' code, in their order of events; they share no code with
the package. The network: a grid of mean pixels, a linear layer, batch norm and ReLU, and the paper's head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def unit(x: Tensor) -> Tensor:
    return x / (x * x).sum(1, keepdim=True).sqrt()


def batch_norm(x: Tensor, s: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.sum(0) / len(x)
    return centred / ((centred**2).sum(0) / len(x) + 1e-5).sqrt() * s[f"{name}.weight"] + s[f"{name}.bias"]


def encode(x: Tensor, s: dict[str, Tensor], of: str = "backbone") -> Tensor:
    n, channels, side, _ = x.shape
    grid = x.reshape(n, channels, 4, side // 4, 4, side // 4).mean((3, 5)).reshape(n, -1)
    y = batch_norm(grid @ s[f"{of}.linear.weight"].T + s[f"{of}.linear.bias"], s, f"{of}.norm")
    return y * (y > 0)


def two_layers(h: Tensor, s: dict[str, Tensor], of: str) -> Tensor:
    y = batch_norm(h @ s[f"{of}.layers.0.weight"].T, s, f"{of}.layers.1")
    return (y * (y > 0)) @ s[f"{of}.layers.3.weight"].T


def log_softmax(x: Tensor) -> Tensor:
    e = x - x.max(1, keepdim=True).values
    return e - e.exp().sum(1, keepdim=True).log()


def by_size(views: list[Tensor], encoder) -> list[Tensor]:
    """Views of one size pass together, as in the authors' multi-crop wrappers."""
    made, start = [], 0
    while start < len(views):
        same = [v for v in views[start:] if v.shape == views[start].shape]
        made += encoder(torch.cat(same)).split(len(views[0]))
        start += len(same)
    return made


class Script:
    """State by the names of the method's ``state_dict``, and what a paper does with it."""

    def __init__(self, state: dict[str, Tensor], steps: int):
        self.steps = steps
        kept = {k: v.clone() for k, v in state.items() if "running_" not in k and "num_batches" not in k}
        self.s = kept
        self.trained = [k for k in kept if not k.startswith("target.") and "centre" not in k]
        for name in self.trained:
            self.s[name].requires_grad_()

    def loss(self, views: list[Tensor], step: int) -> Tensor:
        raise NotImplementedError

    def without_gradient(self, step: int) -> list[str]:
        """Parameters that this step leaves."""
        return []

    def after_batch(self, number: int) -> None:
        pass

    def after_step(self, step: int) -> None:
        pass


class SwAV(Script):
    def loss(self, views, step):
        z = by_size(views, lambda x: self.project(encode(x, self.s)))
        scores = [unit(each) @ self.s["losses.0.prototypes"].T for each in z]
        total = 0.0
        for crop in (0, 1):
            q = self.sinkhorn(scores[crop].detach())
            others = [v for v in range(len(views)) if v != crop]
            terms = [-(q * log_softmax(scores[v] / 0.1)).sum(1).mean() for v in others]
            total = total + sum(terms) / len(others)
        return total / 2

    def project(self, h):
        return two_layers(h, self.s, "head") + self.s["head.layers.3.bias"]

    @staticmethod
    def sinkhorn(scores):
        q = (scores / 0.05).exp().T.clone()  # [K, B], as in the paper's appendix
        q /= q.sum()
        k, b = q.shape
        for _ in range(3):
            for row in range(k):
                q[row] /= q[row].sum() * k
            for column in range(b):
                q[:, column] /= q[:, column].sum() * b
        return (q * b).T

    def without_gradient(self, step):
        return ["losses.0.prototypes"] if step < 1 else []

    def after_step(self, step):
        self.s["losses.0.prototypes"].copy_(unit(self.s["losses.0.prototypes"]))


class DINO(Script):
    def __init__(self, state, steps):
        super().__init__(state, steps)
        self.teacher_scores = []

    def head(self, h, of):
        for layer in (0, 2, 4):
            h = h @ self.s[f"{of}.layers.{layer}.weight"].T + self.s[f"{of}.layers.{layer}.bias"]
            if layer < 4:
                h = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
        return unit(h) @ unit(self.s[f"{of}.prototypes"]).T

    def loss(self, views, step):
        student = by_size(views, lambda x: self.head(encode(x, self.s), "head"))
        with torch.no_grad():  # two global views, each with its own batch statistics
            teacher = [
                self.head(encode(x, self.s, "target.encoder.0"), "target.encoder.1") for x in views[:2]
            ]
        self.teacher_scores.append(torch.cat(teacher))
        sharp = (0.04, 0.055, 0.07)[step]
        total, terms = 0.0, 0
        for t, score in enumerate(teacher):
            p = log_softmax((score - self.s["losses.0.centre"]) / sharp).exp()
            for v, other in enumerate(student):
                if v != t:
                    total = total - (p * log_softmax(other / 0.1)).sum(1).mean()
                    terms += 1
        assert terms == 6
        return total / terms

    def without_gradient(self, step):
        return ["head.prototypes"] if step < 1 else []

    def after_batch(self, number):
        mean = self.teacher_scores[number].mean(0)
        self.s["losses.0.centre"] = 0.9 * self.s["losses.0.centre"] + 0.1 * mean

    def after_step(self, step):
        self.teacher_scores = []
        m = 1 - (1 - 0.9) * (math.cos(math.pi * step / self.steps) + 1) / 2
        for name in self.trained:
            part, _, rest = name.partition(".")
            own = f"target.encoder.{('backbone', 'head').index(part)}.{rest}"
            self.s[own] = m * self.s[own] + (1 - m) * self.s[name].detach()


class Projected(Script):
    def embeddings(self, views):
        return two_layers(encode(torch.cat(views), self.s), self.s, "head").split(len(views[0]))


class BarlowTwins(Projected):
    def loss(self, views, step):
        a, b = [
            (z - z.mean(0)) / ((z - z.mean(0)).square().mean(0) + 1e-5).sqrt() for z in self.embeddings(views)
        ]
        total = 0.0
        for i in range(a.shape[1]):
            for j in range(b.shape[1]):
                c = (a[:, i] * b[:, j]).sum() / len(a)
                total = total + ((1 - c) ** 2 if i == j else 0.0051 * c**2)
        return total


class VICReg(Projected):
    def loss(self, views, step):
        x, y = self.embeddings(views)
        n, d = x.shape
        total = 25 * ((x - y) ** 2).sum() / (n * d)
        for z in (x, y):
            z = z - z.mean(0)
            c = z.T @ z / (n - 1)
            for i in range(d):
                total = total + 25 / 2 / d * (1 - (c[i, i] + 1e-4).sqrt()).clamp(min=0)
                total = total + sum(c[i, j] ** 2 for j in range(d) if j != i) / d
        return total


class NNCLR(Script):
    def __init__(self, state, steps):
        super().__init__(state, steps)
        self.first_views = []

    def loss(self, views, step):
        h = encode(torch.cat(views), self.s)
        z = batch_norm(two_layers(h, self.s, "head"), self.s, "head.layers.4")
        p = two_layers(z, self.s, "predictor") + self.s["predictor.layers.3.bias"]
        z, p = [unit(each.detach()) for each in z.chunk(2)], [unit(each) for each in p.chunk(2)]
        self.first_views.append(z[0])
        total = 0.0
        for keys, predictions in ((z[0], p[1]), (z[1], p[0])):
            for i in range(len(keys)):
                nearest = max(self.s["target.entries"], key=lambda entry, i=i: float(entry @ keys[i]))
                s = predictions @ nearest / 0.1
                total = total + s.exp().sum().log() - s[i]
        return total / (2 * len(views[0]))

    def after_batch(self, number):
        for z in self.first_views[number]:
            place = int(self.s["target.place"])
            self.s["target.entries"][place] = z
            self.s["target.place"].fill_((place + 1) % 7)

    def after_step(self, step):
        self.first_views = []


SCRIPTS = {"swav": SwAV, "dino": DINO, "barlow_twins": BarlowTwins, "vicreg": VICReg, "nnclr": NNCLR}
