"""NNCLR, NNBYOL, NNSiam, MSF, ReSSL and All4One as plain float64 scripts of the small encoder.

Written from the papers and their authors' code, image by image; they share no code with the package. What a
method keeps of earlier batches is a list of vectors, oldest first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

State = dict[str, Tensor]


def unit(x: Tensor) -> Tensor:
    return x / (x * x).sum(-1, keepdim=True).sqrt()


def linear(x: Tensor, s: State, name: str) -> Tensor:
    return x @ s[f"{name}.weight"].T + s[f"{name}.bias"]


def cross_entropy(anchor: Tensor, candidates: Tensor, own: int, t: float) -> Tensor:
    logits = candidates @ anchor / t
    return logits.exp().sum().log() - logits[own]


def contrast(anchors: Tensor, candidates: Tensor, t: float) -> Tensor:
    return sum(cross_entropy(a, candidates, i, t) for i, a in enumerate(anchors)) / len(anchors)


class Script:
    """Weights by the names of the method's ``state_dict``, and the keys of earlier batches."""

    averages = True
    predictor: str | None = "predictor"

    def __init__(self, state: State, momentum: float, size: int, k: int):
        self.momentum, self.size, self.k = momentum, size, k
        self.s = {n: x.clone() for n, x in state.items() if n.endswith(("weight", "bias"))}
        self.s = {n: x for n, x in self.s.items() if "encoder" not in n}
        self.slow = {n: x.clone() for n, x in self.s.items() if n.startswith(("backbone", "head"))}
        for x in self.s.values():
            x.requires_grad_()
        self.kept: list[Tensor] = []
        self.new: list[Tensor] = []

    def z(self, x: Tensor, s: State) -> Tensor:
        return linear(linear(x.flatten(1), s, "backbone.layer").tanh(), s, "head.layer")

    def step(self, views: list[Tensor], rate: float) -> tuple[Tensor, State]:
        z = [self.z(x, self.s) for x in views]
        slow = [self.z(x, self.slow) for x in views] if self.averages else z
        keys = [unit(each.detach()) for each in slow]
        loss = self.loss(z, keys)
        names = list(self.s)
        grads = torch.autograd.grad(
            loss, [self.s[n] for n in names], allow_unused=True, materialize_grads=True
        )
        with torch.no_grad():
            for name, grad in zip(names, grads, strict=True):
                self.s[name] -= rate * grad
            for name, x in self.slow.items():
                x.copy_(self.momentum * x + (1 - self.momentum) * self.s[name])
        self.kept = [*self.kept, *self.new][-self.size :]
        return loss.detach(), dict(zip(names, grads, strict=True))

    def loss(self, z: list[Tensor], keys: list[Tensor]) -> Tensor:
        raise NotImplementedError

    def p(self, z: Tensor) -> Tensor:
        return linear(z, self.s, "predictor.layer")

    def nearest(self, key: Tensor, k: int = 1) -> list[Tensor]:
        """The k nearest of what is kept; the key itself for each that is missing."""
        near = sorted(self.kept, key=lambda entry: -float(entry @ key))[:k]
        return near + [key] * (k - len(near))

    def neighbours(self, keys: Tensor) -> Tensor:
        return torch.stack([self.nearest(key)[0] for key in keys])


class NNCLR(Script):
    averages = False

    def loss(self, z, keys):
        self.new = list(keys[0])
        p1, p2 = (unit(self.p(each)) for each in z)
        nn1, nn2 = (self.neighbours(each) for each in keys)
        return contrast(nn1, p2, 0.1) / 2 + contrast(nn2, p1, 0.1) / 2


class NNBYOL(Script):
    def loss(self, z, keys):
        self.new = list(keys[0])
        p1, p2 = (unit(self.p(each)) for each in z)
        nn1, nn2 = (self.neighbours(each) for each in keys)
        return (2 - 2 * (p1 * nn2).sum(1)).mean() + (2 - 2 * (p2 * nn1).sum(1)).mean()


class NNSiam(NNBYOL):
    averages = False

    def loss(self, z, keys):
        """SimSiam's -(cos + cos) / 2 plus 1, with neighbours."""
        return super().loss(z, keys) / 4


class MSF(Script):
    def loss(self, z, keys):
        self.new = list(keys[1])
        bank = [*self.kept, *self.new][-self.size :]
        q = unit(self.p(z[0]))
        total = 0.0
        for i, u in enumerate(keys[1]):
            near = sorted(bank, key=lambda entry, u=u: float(((entry - u) ** 2).sum()))[: self.k]
            total = total + sum(((q[i] - entry) ** 2).sum() for entry in near) / len(near)
        return total / len(q)


class ReSSL(Script):
    def loss(self, z, keys):
        self.new = list(keys[1])
        q = unit(z[0])
        total = 0 * q.sum()
        for i, key in enumerate(keys[1]) if self.kept else ():
            student = torch.stack([entry @ q[i] for entry in self.kept]) / 0.1
            teacher = torch.stack([entry @ key for entry in self.kept]) / 0.04
            target = teacher.exp() / teacher.exp().sum()
            total = total - (target * (student - student.exp().sum().log())).sum()
        return total / len(q)


class All4One(Script):
    heads, layers = 2, 2

    def loss(self, z, keys):
        self.new = list(keys[0])
        p1, p2 = (unit(linear(each, self.s, "objectives.neighbour.predictor.layer")) for each in z)
        r1, r2 = (linear(each, self.s, "objectives.centroid.predictor.layer") for each in z)
        nn1, nn2 = (torch.stack([torch.stack(self.nearest(key, self.k)) for key in each]) for each in keys)
        neighbour = contrast(nn1[:, 0], p2, 0.2) / 2 + contrast(nn2[:, 0], p1, 0.2) / 2
        rich1, rich2 = self.transformer(nn1), self.transformer(nn2)
        strange1, strange2 = (
            self.transformer(torch.cat([r[:, None], nn], 1)[:, : self.k]) for r, nn in ((r1, nn1), (r2, nn2))
        )
        centroid = contrast(rich1, strange2, 0.1) / 2 + contrast(rich2, strange1, 0.1) / 2
        return 0.5 * neighbour + 0.5 * centroid + 0.5 * self.feature(z, keys)

    def feature(self, z: list[Tensor], keys: list[Tensor]) -> Tensor:
        on, off = [], []
        for a, b in ((keys[0], z[1]), (keys[1], z[0])):
            a, b = a / a.norm(dim=0), b / b.norm(dim=0)
            d = a.shape[1]
            c = [[(a[:, i] * b[:, j]).sum() for j in range(d)] for i in range(d)]
            on.append(sum((c[i][i] - 1) ** 2 for i in range(d)) / d)
            off.append(sum(c[i][j] ** 2 for i in range(d) for j in range(d) if i != j) / (d * (d - 1)))
        return 10 * (0.5 * ((on[0] + on[1]) / 2).sqrt() + 0.5 * ((off[0] + off[1]) / 2).sqrt())

    def transformer(self, x: Tensor) -> Tensor:
        _, k, d = x.shape
        channels = 2 * math.ceil(k / 2)
        code = torch.zeros(k, d, dtype=x.dtype)
        for c in range(k):
            frequency = 10000 ** (-(c - c % 2) / channels)
            for position in range(d):
                code[c, position] = (math.cos if c % 2 else math.sin)(position * frequency)
        x = x + code
        for layer in range(self.layers):
            name = f"objectives.centroid.losses.0.transformer.layers.{layer}"
            x = self.norm(x + self.attention(x, f"{name}.self_attn"), f"{name}.norm1")
            hidden = linear(x, self.s, f"{name}.linear1")
            x = self.norm(x + linear(hidden * (hidden > 0), self.s, f"{name}.linear2"), f"{name}.norm2")
        return unit(x[:, 0])

    def attention(self, x: Tensor, name: str) -> Tensor:
        b, k, d = x.shape
        qkv = x @ self.s[f"{name}.in_proj_weight"].T + self.s[f"{name}.in_proj_bias"]
        q, key, v = (
            each.reshape(b, k, self.heads, d // self.heads).transpose(1, 2) for each in qkv.split(d, dim=2)
        )
        scores = q @ key.transpose(2, 3) / math.sqrt(d // self.heads)
        weights = scores.exp() / scores.exp().sum(3, keepdim=True)
        return linear((weights @ v).transpose(1, 2).reshape(b, k, d), self.s, f"{name}.out_proj")

    def norm(self, x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / ((centred**2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * self.s[f"{name}.weight"] + self.s[f"{name}.bias"]


SCRIPTS: dict[str, type[Script]] = {
    "nnclr": NNCLR,
    "nnbyol": NNBYOL,
    "nnsiam": NNSiam,
    "msf": MSF,
    "ressl": ReSSL,
    "all4one": All4One,
}
