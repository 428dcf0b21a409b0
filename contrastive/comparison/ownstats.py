"""Statistics over the candidates that single rows have for themselves.

Their scores [r, m] are stored, minus infinity where a candidate is not valid. A row without any adds nothing
and passes no gradient on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from contrastive.comparison.rowstats import Scale, evaluate, replace_absent


def count(scores: Tensor) -> Tensor:
    """Number of candidates of each row: [r]."""
    return _present(scores).sum(1).to(scores)


def total(scores: Tensor) -> Tensor:
    """The sum of each row's scores: [r]."""
    return torch.where(_present(scores), scores, 0).sum(1)


def logsumexp(scores: Tensor, scale: Scale) -> Tensor:
    """log sum exp(scale * s) of each row: [r]; minus infinity for a row without candidates."""
    present = _present(scores)
    logits = torch.where(present, scores, 0) * scale
    return _logsumexp(logits.masked_fill(~present, -torch.inf))


def logaddexp(a: Tensor, b: Tensor) -> Tensor:
    """log(exp(a) + exp(b)) of [r] and [r]; minus infinity if both are."""
    return _logsumexp(torch.stack([a, b], 1))


def sum(f: Callable[..., Tensor], scores: Tensor, args: Sequence[Tensor]) -> Tensor:  # noqa: A001
    """The sum of f(s, *args) over each row: [r]; see :func:`contrastive.comparison.rowstats.evaluate`."""
    present = _present(scores)
    safe_scores, has_candidates = replace_absent(scores.detach(), may_be_masked=True)
    assert has_candidates is not None
    # Zero times a slope of f that is infinite would be nan, in the gradient of a row without candidates.
    own_args = [torch.where(has_candidates[:, 0], a, a.detach()) if a.ndim else a for a in args]
    values = evaluate(f, torch.where(present, scores, safe_scores), own_args)
    return torch.where(present, values, 0).sum(1)


def _present(scores: Tensor) -> Tensor:
    return ~scores.isinf()


def _logsumexp(logits: Tensor) -> Tensor:
    """logsumexp of each row [r, n] -> [r]; of a row of minus infinity that, with zero gradient."""
    is_empty = logits.isinf().all(1)
    return logits.masked_fill(is_empty[:, None], 0).logsumexp(1).masked_fill(is_empty, -torch.inf)
