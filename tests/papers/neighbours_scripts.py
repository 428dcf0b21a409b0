"""Methods with neighbours in a queue or relations to it as plain formulas, in float64, for tests.

Written from the papers and their authors' code; they share no code with the package. Embeddings are [B,
D] per view, row i of each is image i, and they are raw: each function takes the directions itself. Queues
hold directions [K, D]; the caller pushes new ones when the docstring says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def nearest(z: Tensor, queue: Tensor, count: int) -> Tensor:
    """The entries of a queue that are most similar to each row, nearest first: [B, count, D], no gradient."""
    rows = []
    for row in unit(z.detach()):
        s = [float(entry @ row) for entry in queue]
        order = sorted(range(len(queue)), key=lambda j, s=s: -s[j])
        rows.append(queue[order[:count]])
    return torch.stack(rows).detach()


def write(queue: Tensor, place: int, new: Tensor) -> tuple[Tensor, int]:
    """A ring buffer after new rows took the places of the oldest; and the next place."""
    queue = queue.clone()
    for row in new.detach():
        queue[place] = row
        place = (place + 1) % len(queue)
    return queue, place


def contrast(anchors: Tensor, predictions: Tensor, t: float) -> Tensor:
    """Cross entropy of picking the own prediction of each anchor among all, NNCLR's ``L`` (algorithm 1)."""
    s = unit(anchors) @ unit(predictions).T / t
    return torch.stack([row.exp().sum().log() - row[i] for i, row in enumerate(s)]).mean()


def nnclr(z: Sequence[Tensor], p: Sequence[Tensor], queue: Tensor, t: float) -> Tensor:
    """NNCLR, equation 3 and the pseudo-code of its appendix (Dwibedi et al. 2021), two views.

    (L(NN(z_1), p_2) + L(NN(z_2), p_1)) / 2; each neighbour is contrasted with the predictions of the batch.
    Section 3.2 writes the symmetric term with the sum over neighbours instead; the pseudo-code and all
    implementations take the sum over predictions in both terms, and so does this.

    After the step the directions of z_1, of the first view only, enter the queue: a batch never finds itself.
    """
    first = contrast(nearest(z[0], queue, 1)[:, 0], p[1], t)
    return (first + contrast(nearest(z[1], queue, 1)[:, 0], p[0], t)) / 2


def nnbyol(k: Sequence[Tensor], p: Sequence[Tensor], queue: Tensor) -> Tensor:
    """BYOL whose keys are replaced by their neighbours (mentioned by Dwibedi et al. 2021; code: solo-learn).

    2 - 2 cos(p_1, NN(k_2)) and 2 - 2 cos(p_2, NN(k_1)), means over images, added. After the step the keys
    k_1 of the averaged encoder enter the queue.
    """
    neighbours = [nearest(each, queue, 1)[:, 0] for each in k]
    return sum((2 - 2 * (unit(p[i]) * unit(neighbours[1 - i])).sum(1)).mean() for i in (0, 1))


def nnsiam(z: Sequence[Tensor], p: Sequence[Tensor], queue: Tensor) -> Tensor:
    """SimSiam whose targets are replaced by their neighbours (code: solo-learn).

    -(cos(p_1, NN(z_2)) + cos(p_2, NN(z_1))) / 2. After the step the directions of z_1 enter the queue.
    """
    neighbours = [nearest(each, queue, 1)[:, 0] for each in z]
    return sum(-(unit(p[i]) * unit(neighbours[1 - i])).sum(1).mean() / 2 for i in (0, 1))


def msf(k: Tensor, p: Tensor, queue: Tensor, count: int) -> Tensor:
    """Mean shift (Koohpayegani et al. 2021), as in the authors' code: one direction.

    The mean of 2 - 2 cos(p, n) over the ``count`` (5) nearest entries n of the key k in the queue. The
    keys enter the queue *before* the search, so that each finds itself first.

    Args:
        k: [B, D] of the averaged encoder, of the weakly augmented view.
        p: [B, D] of encoder and predictor, of the other view.
        queue: [K, D] with k in it.
        count: neighbours, with the key itself.
    """
    neighbours = nearest(k, queue, count)  # [B, count, D]
    return (2 - 2 * (neighbours * unit(p)[:, None]).sum(2)).mean()


def ressl(q: Tensor, k: Tensor, queue: Tensor, student: float, teacher: float) -> Tensor:
    """ReSSL (Zheng et al. 2021), as in the authors' code: one direction.

    Cross entropy of the query's similarities to the queue (temperature 0.1) with those of the key (0.04),
    whose view is weakly augmented; no own key among them. The keys enter the queue after the loss.
    """
    losses = []
    for query, key in zip(unit(q), unit(k).detach(), strict=True):
        target = (queue @ key / teacher).exp()
        scores = queue @ query / student
        losses.append(-(target / target.sum() * (scores - scores.exp().sum().log())).sum())
    return torch.stack(losses).mean()


# -- All4One ------------------------------------------------------------------------------------------


def positions(length: int, width: int) -> Tensor:
    """What the code adds to a sequence [B, length, width]: [length, width].

    Its encoding swaps the axes: it runs over the *width*, with ``length`` channels of sines and cosines.
    """
    channels = length + length % 2
    table = torch.zeros(length, width, dtype=torch.float64)
    for channel in range(length):
        frequency = 10000 ** (-(channel - channel % 2) / channels)
        for place in range(width):
            angle = torch.tensor(place * frequency, dtype=torch.float64)
            table[channel, place] = angle.cos() if channel % 2 else angle.sin()
    return table


def redundancy(k: Sequence[Tensor], z: Sequence[Tensor]) -> Tensor:
    """All4One's feature loss: 10 times the mean of the root mean squared errors on and off the diagonal.

    The correlation is of columns of length 1, not centred, of a key view with the other online view.
    """

    def columns(x: Tensor) -> Tensor:
        return x / x.square().sum(0, keepdim=True).sqrt()

    tables = [columns(unit(k[i]).detach()).T @ columns(z[1 - i]) for i in (0, 1)]
    off = ~torch.eye(len(tables[0]), dtype=torch.bool)
    diagonal = sum((table.diagonal() - 1).square().mean() for table in tables) / 2
    rest = sum(table[off].square().mean() for table in tables) / 2
    return 10 * (0.5 * diagonal.sqrt() + 0.5 * rest.sqrt())


def all4one(
    z: Sequence[Tensor],
    p: Sequence[Tensor],
    p2: Sequence[Tensor],
    k: Sequence[Tensor],
    queue: Tensor,
    attend: Callable[[Tensor], Tensor],
    t: float,
) -> Tensor:
    """All4One (Estepa et al. 2023), as its authors' code in solo-learn, two views.

    Half the sum of three terms: NNCLR on the keys' neighbours; contrast of the first output of a
    transformer on the five neighbours of a key with that on the other view's second prediction followed
    by the first four of its own neighbours (temperature 0.1, whatever t); and :func:`redundancy`. After
    the loss the directions of k_1 enter the queue.

    Args:
        z, p, p2: of two views: embeddings, and what the first and the second predictor make of them.
        k: of two views, by the averaged encoder and head.
        queue: [K, D].
        attend: the transformer, [B, 5, D] -> [B, 5, D].
        t: temperature of the first term.
    """
    neighbours = [nearest(each, queue, 5) for each in k]
    places = positions(5, z[0].shape[1])
    rich = [attend(each + places)[:, 0] for each in neighbours]
    sequences = [torch.cat([own[:, None], near[:, :4]], 1) for own, near in zip(p2, neighbours, strict=True)]
    strange = [attend(each + places)[:, 0] for each in sequences]
    attention = (contrast(rich[0], strange[1], 0.1) + contrast(rich[1], strange[0], 0.1)) / 2
    neighbour = (contrast(neighbours[0][:, 0], p[1], t) + contrast(neighbours[1][:, 0], p[0], t)) / 2
    return 0.5 * attention + 0.5 * neighbour + 0.5 * redundancy(k, z)
