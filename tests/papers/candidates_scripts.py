"""MoCHi and guided SimCLR as plain scripts, in float64, on a torch network that they are given.

They share no code with the package: the network is a torch module whose weights they train themselves, and
what is random (views, draws) is given.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize


class Net(nn.Module):
    """Any torch network and SimCLR's head."""

    def __init__(self, backbone: nn.Module, weights: dict[str, Tensor]):
        super().__init__()
        self.backbone = copy.deepcopy(backbone)
        hidden, width = weights["layers.0.weight"].shape
        self.head = nn.Sequential(
            nn.Linear(width, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, len(weights["layers.3.weight"]), bias="layers.3.bias" in weights),
        )
        self.head.double().load_state_dict(
            {name.removeprefix("layers."): value for name, value in weights.items()}
        )

    def forward(self, x: Tensor) -> Tensor:
        return normalize(self.head(self.backbone(x)), dim=1)


def mix(q: Tensor, queue: Tensor, hardest: int, pairs: int, draws: Tensor) -> Tensor:
    """The synthetic negatives of every query: [b, s + s', D] (Kalantidis et al. 2020, sections 4.1 and 4.2).

    Args:
        q: [b, D], without gradient.
        queue: [Q, D].
        hardest: N.
        pairs: s.
        draws: [b, 3 s + 2 s'] uniforms: which n_i, which n_j, alpha; which n_j, beta.
    """
    order = (q @ queue.T).argsort(dim=1, descending=True)[:, :hardest]  # [b, N]
    near = queue[order]  # [b, N, D]
    count = near.shape[1]
    synthetic = []
    for row, (query, own) in enumerate(zip(q, near, strict=True)):
        u = draws[row]
        which_i, which_j, alpha = u[: 3 * pairs].view(3, pairs)
        which, beta = u[3 * pairs :].view(2, -1)
        n_i, n_j = own[(which_i * count).long()], own[(which_j * count).long()]
        h = alpha[:, None] * n_i + (1 - alpha[:, None]) * n_j
        beta = beta[:, None] / 2
        h_prime = beta * query + (1 - beta) * own[(which * count).long()]
        synthetic.append(normalize(torch.cat([h, h_prime]), dim=1))
    return torch.stack(synthetic)


class MoCHi:
    """MoCo v2 with synthetic negatives, one direction, as in the paper's figure 3."""

    def __init__(self, net: Net, momentum: float, size: int, hardest: int, pairs: int, temperature: float):
        self.net, self.keys = net, copy.deepcopy(net)
        self.momentum, self.size, self.temperature = momentum, size, temperature
        self.hardest, self.pairs = hardest, pairs
        self.queue: list[Tensor] = []  # oldest first

    def loss(self, views: list[Tensor], draws: Tensor | None) -> Tensor:
        q = self.net(views[0])
        with torch.no_grad():
            self.k = self.keys(views[1])
        logits = [(q * self.k).sum(1, keepdim=True)]
        if self.queue:
            queue = torch.stack(self.queue)
            logits.append(q @ queue.T)
            if draws is not None:
                synthetic = mix(q.detach(), queue, self.hardest, self.pairs, draws)
                logits.append(torch.einsum("bd,bmd->bm", q, synthetic))
        return cross_entropy(torch.cat(logits, 1) / self.temperature, torch.zeros(len(q), dtype=torch.int64))

    @torch.no_grad()
    def after_step(self) -> None:
        self.queue = [*self.queue, *self.k][-self.size :]
        for average, online in zip(self.keys.parameters(), self.net.parameters(), strict=True):
            average.mul_(self.momentum).add_((1 - self.momentum) * online)


def guided_simclr(
    net: Net, guide: nn.Module, views: list[Tensor], temperature: float, margin: float
) -> Tensor:
    """NT-Xent without the negatives that the guide finds closer to a query than its positive, less a margin.

    As GISTEmbed (Solatorio 2024, section 3), but on SimCLR's 2N views, each of which is a query. GISTEmbed
    has N queries, and adds the similarities of their positives with each other to the negatives.
    """
    count = len(views[0])
    z = net(torch.cat(views))
    with torch.no_grad():
        g = normalize(guide(torch.cat(views)), dim=1)
    similarity = g @ g.T
    logits = []
    for i in range(2 * count):
        partner = (i + count) % (2 * count)
        kept = [
            j
            for j in range(2 * count)
            if j not in (i, partner) and similarity[i, j] <= similarity[i, partner] - margin
        ]
        logits.append((z[i] @ z[[partner, *kept]].T / temperature).log_softmax(0)[0])
    return -torch.stack(logits).mean()
