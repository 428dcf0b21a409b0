"""The training step of methods with neighbours, by hand; see ``method_scripts``.

Ring buffers start with random directions, as those of the authors' code do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tests.papers import neighbours_scripts as neighbours
from tests.papers.method_scripts import Script, entries, linear, perceptron
from tests.papers.side_by_side import State

SUPPORT = "target.support"


class Neighbours(Script):
    """Embeddings of the online encoder, or of the average if there is one."""

    starts_full = True

    def keys(self, s: State, x, z: list[Tensor]) -> list[Tensor]:
        k = [self.average(s, each) for each in x] if self.has_average else z
        self.entries = {SUPPORT: neighbours.unit(k[0])}
        return k


class NNCLR(Neighbours):
    rest = ("head.layers.7.bias",)  # the predictor's batch norm cancels it

    def loss(self, s, x, step):
        online = self.online(s, x)
        z = self.keys(s, x, online.z)
        return neighbours.nnclr(z, online.p, entries(s, SUPPORT), self.params["temperature"])


class NNBYOL(Neighbours):
    def loss(self, s, x, step):
        online = self.online(s, x)
        return neighbours.nnbyol(self.keys(s, x, online.z), online.p, entries(s, SUPPORT))


class NNSiam(Neighbours):
    """The recipe's regression has weight 1/4: a constant more than the script's loss, and its gradient."""

    def loss(self, s, x, step):
        online = self.online(s, x)
        return neighbours.nnsiam(self.keys(s, x, online.z), online.p, entries(s, SUPPORT)) + 1


class MSF(Neighbours):
    bank = "losses.0.bank"

    def loss(self, s, x, step):
        p = self.online(s, x[:1]).p[0]
        k = self.average(s, x[1])
        self.entries = {self.bank: neighbours.unit(k)}
        place = int(s[f"{self.bank}.pointer"])
        queue, _ = neighbours.write(s[f"{self.bank}.z"], place, neighbours.unit(k))
        return neighbours.msf(k, p, queue, self.params["k"])


class ReSSL(Neighbours):
    queue = "negatives.0"

    def loss(self, s, x, step):
        q, k = self.online(s, x[:1]).z[0], self.average(s, x[1])
        self.entries = {self.queue: neighbours.unit(k)}
        p = self.params
        return neighbours.ressl(q, k, entries(s, self.queue), p["temperature"], p["target_temperature"])


class All4One(Neighbours):
    """Two predictors, a transformer in the second objective's loss, and two equal support sets."""

    centroid = "objectives.centroid.losses.0"

    def loss(self, s, x, step):
        z = self.online(s, x).z
        k = self.keys(s, x, z)
        queue, other = entries(s, SUPPORT), f"{self.centroid}.support"
        assert queue.equal(entries(s, other))
        self.entries[other] = self.entries[SUPPORT]
        p, p2 = (
            [perceptron(each, s, f"objectives.{name}.predictor") for each in z]
            for name in ("neighbour", "centroid")
        )
        params = self.recipe.aims[1].losses[0].part.params

        def attend(sequence: Tensor) -> Tensor:
            return transformer(sequence, s, f"{self.centroid}.transformer", params["layers"], params["heads"])

        return neighbours.all4one(z, p, p2, k, queue, attend, self.params["temperature"])


def transformer(x: Tensor, s: State, name: str, layers: int, heads: int) -> Tensor:
    """torch's ``TransformerEncoder`` without dropout: norms after the sums, ReLU in the linear layers."""
    for number in range(layers):
        layer = f"{name}.layers.{number}"
        weight, bias = s[f"{layer}.self_attn.in_proj_weight"], s[f"{layer}.self_attn.in_proj_bias"]
        batch, length, width = x.shape
        q, k, v = (
            each.reshape(batch, length, heads, width // heads).transpose(1, 2)
            for each in (x @ weight.T + bias).chunk(3, 2)
        )
        scores = (q @ k.transpose(2, 3) / (width // heads) ** 0.5).exp()
        mixture = (scores / scores.sum(3, keepdim=True)) @ v
        mixture = mixture.transpose(1, 2).reshape(batch, length, width)
        x = layer_norm(x + linear(mixture, s, f"{layer}.self_attn.out_proj"), s, f"{layer}.norm1")
        hidden = linear(x, s, f"{layer}.linear1").clamp_min(0)
        x = layer_norm(x + linear(hidden, s, f"{layer}.linear2"), s, f"{layer}.norm2")
    return x


def layer_norm(x: Tensor, s: State, name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    y = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return y * s[f"{name}.weight"] + s[f"{name}.bias"]


def fill(state: State) -> State:
    """Full ring buffers of random directions, equal where they are of one shape."""
    filled = dict(state)
    for key in state:
        if key.endswith(".valid"):
            name = key.removesuffix(".valid")
            z = state[f"{name}.z"]
            generator = torch.Generator().manual_seed(7)
            filled[f"{name}.z"] = neighbours.unit(torch.randn(z.shape, generator=generator, dtype=z.dtype))
            filled[key] = torch.ones_like(state[key])
    return filled
