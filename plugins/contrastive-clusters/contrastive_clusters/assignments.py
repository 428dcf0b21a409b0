"""What the methods share: prototypes, Sinkhorn's assignments, and the cross entropy with assignments.

Sources: Cuturi 2013, "Sinkhorn distances"; Caron et al. 2020, "Unsupervised learning of visual features by
contrasting cluster assignments" (SwAV).

Shape letters: R rows, K prototypes, W their width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from contrastive.comparison import Comparison
from contrastive.kinds import SpansRun
from contrastive.values import Progress

Width = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
ShareOfRun = Annotated[float, Field(ge=0, le=1), SpansRun(unless=(0, 1))]


def new_prototypes(count: int, width: int) -> nn.Parameter:
    """[K, W], drawn as the weights of a linear layer."""
    return nn.Parameter(nn.Linear(width, count, bias=False).weight.detach().clone())


def freeze(prototypes: nn.Parameter, share: float, progress: Progress) -> None:
    """Drop the gradient of the prototypes in the first share of a run."""
    if progress.fraction < share:
        prototypes.grad = None


def cross_entropy(codes: Sequence[Tensor], logs: Sequence[Tensor]) -> Tensor:
    """Of each pair's assignments and logarithms of probabilities, [R, K] each: [pairs R]."""
    return torch.cat([-(code * log).sum(1) for code, log in zip(codes, logs, strict=True)])


def together(rows: Sequence[Tensor], function: Callable[[list[Tensor]], Sequence[Tensor]]) -> list[Tensor]:
    """What a function makes of all pairs' rows at once; pairs of a view share its rows, one tensor."""
    distinct = {id(x): x for x in rows}
    results = dict(zip(distinct, function(list(distinct.values())), strict=True))
    return [results[id(x)] for x in rows]


def once(rows: Sequence[Tensor], function: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """What a function makes of each pair's rows, computed once per view."""
    return together(rows, lambda distinct: [function(x) for x in distinct])


def mean_row(comparison: Comparison, x: Tensor) -> Tensor:
    """The mean of rows [R, K] over all processes, of which each has equally many: [K]."""
    return comparison.mean(x.mean(0))


def even(comparison: Comparison, keys: Sequence[Tensor], scores: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Sinkhorn's assignments of each pair's keys, one for all views and processes.

    Args:
        keys: of each pair. Pairs of whole images share the keys of a view, as one tensor.
        scores: of keys [R, ...], divided by their temperature: [R, K].
    """

    def codes(distinct: list[Tensor]) -> Sequence[Tensor]:
        logits = torch.cat([scores(key) for key in distinct])
        return sinkhorn(logits, gather=comparison.gather).split([len(key) for key in distinct])

    return together(keys, codes)


@torch.no_grad()
def sinkhorn(
    scores: Tensor, steps: int = 3, gather: Callable[[Tensor], Tensor] = lambda x: x, common: int = 0
) -> Tensor:
    """Assignments [R, K], rows summing to 1, that use all columns evenly (Cuturi 2013; SwAV, algorithm 1).

    In logarithms, so that no temperature overflows. Processes exchange sums of columns, never rows.

    Args:
        scores: [R, K] of this process, divided by their temperature.
        steps: alternations of columns and rows.
        gather: [1, K] of this process -> [processes, K] of all.
        common: number of rows, the first ones, that every process has, and that count once.
    """
    logs = scores.to(torch.promote_types(scores.dtype, torch.float32))
    for _ in range(steps):
        parts = gather(logs[common:].logsumexp(0, keepdim=True))  # [processes, K]
        columns = torch.cat([parts, logs[:common]]).logsumexp(0)  # [K]
        logs = logs - columns
        logs = logs - logs.logsumexp(1, keepdim=True)
    return logs.exp()
