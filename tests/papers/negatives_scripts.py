"""Methods with negatives as plain formulas on embeddings, in float64, for tests.

Written from the papers and their authors' code; they share no code with the package. Embeddings are [B,
D] per view, row i of each is image i, and they are raw: each function takes the directions itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def _rows(views: Sequence[Tensor], t: float) -> list[tuple[Tensor, Tensor]]:
    """Of each row of two views: exp(s / t) of its positive, and of its 2 B - 2 negatives."""
    z = torch.cat([unit(view) for view in views])
    count = len(views[0])
    rows = []
    for i in range(2 * count):
        partner = (i + count) % (2 * count)
        others = [j for j in range(2 * count) if j not in (i, partner)]
        e = (z @ z[i] / t).exp()
        rows.append((e[partner], e[others]))
    return rows


def nt_xent(views: Sequence[Tensor], t: float) -> Tensor:
    """SimCLR, equation 1 and algorithm 1 (Chen et al. 2020): the mean over the 2 B rows of two views.

    The denominator has the positive and the 2 B - 2 negatives. The authors' code returns the sum of the
    means of both views, which is twice the paper's; here it is the paper's. SimCLR v2 (Chen et al. 2020b,
    section 2) has the same loss on a head of three layers, each with batch norm.
    """
    return torch.stack([-(p / (p + n.sum())).log() for p, n in _rows(views, t)]).mean()


def sup_con(views: Sequence[Tensor], labels: Sequence[int], t: float) -> Tensor:
    """SupCon, equation 2, L_out (Khosla et al. 2020): the mean over positives is outside of the logarithm.

    The mean over rows, as in the authors' code, where the paper sums. That code also multiplies by t / 0.07,
    which is left out here.
    """
    z = torch.cat([unit(view) for view in views])
    classes = [*labels] * len(views)
    losses = []
    for i in range(len(z)):
        s = z @ z[i] / t
        others = [j for j in range(len(z)) if j != i]
        log_sum = s[others].exp().sum().log()
        positives = [j for j in others if classes[j] == classes[i]]
        losses.append(sum(log_sum - s[j] for j in positives) / len(positives))
    return torch.stack(losses).mean()


def dcl(views: Sequence[Tensor], t: float) -> Tensor:
    """DCL (Yeh et al. 2022): NT-Xent without the positive in the denominator, mean over rows.

    The authors' code returns the sum of the means of both views, twice this; it masks by adding log(1e-45)
    instead of leaving entries out.
    """
    return torch.stack([-p.log() + n.sum().log() for p, n in _rows(views, t)]).mean()


def dclw(views: Sequence[Tensor], t: float, sigma: float, detached: bool) -> Tensor:
    """DCLW (Yeh et al. 2022): the positive's term times 2 - exp(s / sigma) / mean exp(s / sigma).

    The weights have mean 1, as the paper wants. The authors' code has the softmax over the batch where
    the paper has a quotient by the mean, so its weights lack the factor B and are nearly 2. The mean runs
    over the images of a pair of views, as both directions have the same similarities.

    Args:
        views: two.
        t: temperature.
        sigma: of the weights.
        detached: whether the weights carry no gradient. In the authors' code they carry one; the paper
            says nothing of it.
    """
    own = (unit(views[0]) * unit(views[1])).sum(1)
    weights = 2 - (own / sigma).exp() / (own / sigma).exp().mean()
    if detached:
        weights = weights.detach()
    both = torch.cat([weights, weights])
    rows = _rows(views, t)
    return torch.stack([-w * p.log() + n.sum().log() for w, (p, n) in zip(both, rows, strict=True)]).mean()


def debiased(views: Sequence[Tensor], t: float, share: float) -> Tensor:
    """Debiased contrastive loss (Chuang et al. 2020), as in the authors' code: one positive, M = 2 B - 2.

    Args:
        views: two.
        t: temperature.
        share: tau+, the probability that a negative has the query's class.
    """
    return torch.stack([hard_row(p, n, t, share, 0) for p, n in _rows(views, t)]).mean()


def hard_negative(views: Sequence[Tensor], t: float, share: float, beta: float) -> Tensor:
    """Hard negative sampling (Robinson et al. 2021), as in the authors' code, on two views.

    Negatives are weighted by exp(beta s / t), with mean weight 1; the weights carry a gradient, as in the
    code.

    Args:
        views: two.
        t: temperature.
        share: tau+, as in :func:`debiased`.
        beta: concentration; 0: :func:`debiased`.
    """
    return torch.stack([hard_row(p, n, t, share, beta) for p, n in _rows(views, t)]).mean()


def hard_row(p: Tensor, n: Tensor, t: float, share: float, beta: float) -> Tensor:
    """The loss of a row of :func:`hard_negative`, from exp(s / t) of its positive and its negatives [M]."""
    count = len(n)
    weights = n**beta  # exp(beta s / t)
    total = (weights * n).sum() / weights.mean()
    ng = (total - share * count * p) / (1 - share)
    ng = ng.clamp_min(count * torch.tensor(-1 / t, dtype=p.dtype).exp())
    return -(p / (p + ng)).log()


def sigmoid(a: Tensor, b: Tensor, log_t: Tensor, bias: Tensor) -> Tensor:
    """SigLIP, algorithm 1 (Zhai et al. 2023), of two views instead of an image and its text.

    Every pair (row of ``a``, row of ``b``) is classified: sum of -log sigma(y (exp(log_t) s + bias)) over all
    B x B pairs, divided by B. log_t starts at log 10 and the bias at -10; both are learnt.
    """
    a, b = unit(a), unit(b)
    total = torch.zeros((), dtype=a.dtype)
    for i in range(len(a)):
        for j in range(len(b)):
            sign = 1 if i == j else -1
            logit = sign * (log_t.exp() * (a[i] @ b[j]) + bias)
            total = total + (1 + (-logit).exp()).log()
    return total / len(a)


# -- queues, and averaged encoders --------------------------------------------------------------------


def moco(q: Tensor, k: Tensor, queue: Tensor, t: float) -> Tensor:
    """MoCo, equation 1 and algorithm 1 (He et al. 2020): the key of each query among it and the queue.

    The keys are those of the other view, by the averaged encoder, and enter the queue after the loss.

    Args:
        q, k: [B, D], queries and keys.
        queue: [K, D] directions, of earlier batches only.
        t: temperature.
    """
    losses = []
    for query, key in zip(unit(q), unit(k).detach(), strict=True):
        candidates = torch.cat([key[None], queue.detach()])
        s = candidates @ query / t
        losses.append(s.exp().sum().log() - s[0])
    return torch.stack(losses).mean()


def enqueue(queue: Tensor, new: Tensor, size: int) -> Tensor:
    """A queue, oldest first, after new entries came in."""
    return torch.cat([queue, new.detach()])[-size:]


def moco_v3(q: Sequence[Tensor], k: Sequence[Tensor], t: float) -> Tensor:
    """MoCo v3, algorithm 1 (Chen et al. 2021): 2 t (CE(q_1, k_2) + CE(q_2, k_1)), keys of the other view."""
    total = torch.zeros((), dtype=q[0].dtype)
    for queries, keys in ((q[0], k[1]), (q[1], k[0])):
        s = unit(queries) @ unit(keys).detach().T / t
        rows = [row.exp().sum().log() - row[i] for i, row in enumerate(s)]
        total = total + 2 * t * torch.stack(rows).mean()
    return total


def with_queue(views: Sequence[Tensor], queue: Tensor, t: float) -> Tensor:
    """SimCLR's loss with the entries of a queue as further negatives of every row."""
    z = torch.cat([unit(view) for view in views])
    losses = []
    for row, (p, n) in zip(z, _rows(views, t), strict=True):
        more = (queue.detach() @ row / t).exp()
        losses.append(-(p / (p + n.sum() + more.sum())).log())
    return torch.stack(losses).mean()


def moco_in_batch(q: Tensor, k: Tensor, queue: Tensor, t: float) -> Tensor:
    """MoCo's loss with the other keys of the batch as further negatives."""
    candidates = torch.cat([unit(k).detach(), queue.detach()])
    s = unit(q) @ candidates.T / t
    return torch.stack([row.exp().sum().log() - row[i] for i, row in enumerate(s)]).mean()


def of_keys(p: Sequence[Tensor], k: Sequence[Tensor], t: float) -> Tensor:
    """NT-Xent of predictions and keys of another encoder, the mean over the 2 B predictions.

    The other view's key of an image is picked among it and the keys that both views have of other images.
    """
    keys = torch.cat([unit(each) for each in k]).detach()
    count, losses = len(p[0]), []
    for i, query in enumerate(torch.cat([unit(each) for each in p])):
        partner = (i + count) % (2 * count)
        e = (keys @ query / t).exp()
        others = [j for j in range(2 * count) if j not in (i, partner)]
        losses.append(-(e[partner] / (e[partner] + e[others].sum())).log())
    return torch.stack(losses).mean()
