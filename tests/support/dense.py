"""Brute-force twins, in plain Python loops over float64, of what contrastive.comparison promises.

Written from the papers and the rules of a comparison, and sharing no code with the package.
"""

from __future__ import annotations

import torch
from torch import Tensor


def unit(z: Tensor) -> Tensor:
    z = z.double()
    return z / z.norm(dim=1, keepdim=True)


def sets(queries, keys, pairs, offers, labels=None, normalise=True, memories=(), images=None):
    """Per row, in the order [query view, place]: (positive similarities, negative similarities).

    A memory is (z, images, labels, valid, whether entries of the row's own image are ignored), compared
    as it is.
    """
    q = {v: unit(z) if normalise else z.double() for v, z in queries.items()}
    k = {v: unit(z) if normalise else z.double() for v, z in keys.items()}
    found = []
    for v in q:
        if not any(o == v for o, _ in pairs):
            continue
        for i in range(len(q[v])):
            positives, negatives = [], []
            for w in k:
                for j in range(len(k[w])):
                    s = (q[v][i] * k[w][j]).sum()
                    if i == j:
                        if (v, w) in pairs:
                            positives.append(s)
                    elif (v, w) in offers:
                        same = labels is not None and labels[i] >= 0 and labels[i] == labels[j]
                        (positives if same else negatives).append(s)
            for z, of, label, valid, ignored in memories:
                for m in range(len(z)):
                    if not valid[m] or (ignored and of[m] == images[i]):
                        continue
                    same = labels is not None and labels[i] >= 0 and labels[i] == label[m]
                    (positives if same else negatives).append((q[v][i] * z[m].double()).sum())
            found.append((positives, negatives))
    return found


def every_pair(online, target):
    return [(o, t) for o in online for t in target if o != t]


def every_offer(online, target):
    return [(o, t) for o in online for t in target]


def nt_xent(rows, t):
    """SimCLR eq. 1; with several positives SupCon eq. 2 (mean outside the logarithm)."""
    return torch.stack(
        [-torch.stack([p / t - torch.stack(P + N).div(t).logsumexp(0) for p in P]).mean() for P, N in rows]
    ).mean()


def nt_logistic(rows, t, semi_hard=False):
    values = []
    for positives, negatives in rows:
        closest = [s for s in negatives if s < torch.stack(positives).mean()]
        negatives = ([max(closest)] if closest else []) if semi_hard else negatives
        value = -torch.stack([torch.sigmoid(p / t).log() for p in positives]).mean()
        values.append(
            value - torch.stack([torch.sigmoid(-n / t).log() for n in negatives]).mean()
            if negatives
            else value
        )
    return torch.stack(values).mean()


def margin(rows, m, semi_hard=False):
    values = []
    for positives, negatives in rows:
        p = torch.stack(positives).mean()
        if semi_hard:
            closest = [s for s in negatives if s < p]
            negatives = [max(closest)] if closest else []
        values.append(torch.stack([torch.relu(n - p + m) for n in negatives]).mean() if negatives else 0 * p)
    return torch.stack(values).mean()


def nt_xent_matrix(*views, t):
    """SimCLR eq. 1 on the whole score matrix, in float64, for sizes where loops are too slow."""
    z = unit(torch.cat(views))
    n, total = len(views[0]), len(z)
    eye = torch.eye(total, dtype=torch.bool)
    own = torch.eye(n, dtype=torch.bool).repeat(len(views), len(views))
    s = z @ z.T / t
    lse = s.masked_fill(eye, -torch.inf).logsumexp(1)
    return (lse - s.masked_fill(~(own & ~eye), 0).sum(1) / (len(views) - 1)).mean()
