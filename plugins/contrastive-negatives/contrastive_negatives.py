"""Better negatives: losses that account for false ones, a guide that leaves them out, synthetic hard ones.

Decoupled contrastive learning leaves the positive out of the denominator (Yeh et al. 2022), and the sigmoid
loss has none: it judges each pair on its own (Zhai et al. 2023). The debiased loss estimates and subtracts
what false negatives add to the denominator, the images of a batch that are of the query's own class (Chuang
et al. 2020); hard negative sampling also weights each negative by its similarity (Robinson et al. 2021). A
guide leaves out what another network finds too similar (Solatorio 2024); MoCHi mixes the hardest negatives
of each query (Kalantidis et al. 2020). None of them reads labels.

Shape letters: R rows (queries, ordered [view, image, position]), V query views, b images of a process's
batch, N hardest negatives of a row, m mixtures, D embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, normalize

from contrastive.comparison import Comparison
from contrastive.device_draws import uniforms
from contrastive.errors import UsageError
from contrastive.kinds import hookimpl
from contrastive.parts import Loss, Negatives, Target
from contrastive.values import OwnCandidates

contrastive_api = 2

Temperature = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class DCL(Loss):
    """Decoupled contrastive loss: NT-Xent with only the negatives in its denominator.

    -s+/t + log sum exp(s-/t) of each row (Yeh et al. 2022, equation 6), which removes the coupling that
    slows learning from small batches. It may be negative. A row without negatives (all rows while a queue is
    empty) has loss 0, as in NT-Xent.

    Args:
        temperature: t, divisor of the similarities.
        weighted: as ``dclw``.
        sigma: as of ``dclw``.
    """

    needs = frozenset({"negatives"})

    def __init__(self, temperature: Temperature = 0.1, weighted: bool = False, sigma: Temperature = 0.5):
        super().__init__()
        self.temperature, self.weighted, self.sigma = temperature, weighted, sigma
        self.partial_gradient = weighted

    def compare(self, comparison: Comparison) -> Tensor:
        rows = comparison.rows(1 / self.temperature)
        attract = rows.positives.mean / self.temperature
        if self.weighted:
            attract = self._weight(comparison, rows.positives.mean.detach()) * attract
        return torch.where(rows.negatives.count > 0, rows.negatives.lse[0] - attract, 0)  # [R]

    def _weight(self, comparison: Comparison, positive: Tensor) -> Tensor:
        """2 - B softmax of each view's positives over the images of all processes: [R]."""
        by_image = comparison.gather(positive.view(len(comparison.query_views), -1).T)  # [B, V]
        share = len(by_image) * (by_image / self.sigma).softmax(0)
        return 2 - comparison.local(share).T.flatten()


class DCLW(DCL):
    """Decoupled contrastive loss whose closest positives attract less: ``dcl``, weighted.

    -w s+/t + log sum exp(s-/t) of each row, w = 2 - exp(s+/sigma) / mean exp(s+/sigma), the mean over the
    positives of the row's view on all processes (Yeh et al. 2022, equation 7 and the negative von
    Mises-Fisher weight that follows it). The mean weight is 1, and weights carry no gradient.

    Args:
        temperature: t, divisor of the similarities.
        sigma: divisor of the similarities in the weight (the paper: 0.5).
    """

    def __init__(self, temperature: Temperature = 0.1, sigma: Temperature = 0.5):
        super().__init__(temperature, weighted=True, sigma=sigma)


class Sigmoid(Loss):
    """Sigmoid loss (SigLIP) on images: each pair on its own is classified as matching or not.

    The sum over a row's candidates of -log sigmoid(y (t s + b)), with y = 1 for its positives and y = -1 for
    its negatives; t = exp(t'), and t' and b are learnt (Zhai et al. 2023, algorithm 1). Over rows the mean is
    taken, as in the paper, and nothing is normalised over the batch: each further negative adds a term. So
    the bias starts low, or the many negatives would outweigh the positive (``nt_logistic`` takes their mean,
    and learns nothing). The paper's N x N pairs are those of ``negatives: {name: in_batch, views: other}``;
    ``in_batch`` adds the other images in the query's own view.

    t' and b are not decayed, unless the optimizer decays norms and biases (``sgd`` does by default).

    Args:
        scale: t at the start, which multiplies the similarities (the paper's temperature: 10).
        bias: b at the start (the paper: -10).
    """

    needs = frozenset({"negatives"})

    def __init__(self, scale: Temperature = 10.0, bias: float = -10.0):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(bias))

    def compare(self, comparison: Comparison) -> Tensor:
        rows, learnt = comparison.rows(), (self.log_scale.exp(), self.bias)
        matching = rows.positives.sum(lambda s, t, b: -logsigmoid(t * s + b), *learnt)
        return matching + rows.negatives.sum(lambda s, t, b: -logsigmoid(-t * s - b), *learnt)  # [R]


class _ReweightingLoss(Loss):
    """-log(p / (p + N)), p = exp(s+/t); N estimates the sum over the true negatives of a row."""

    needs = frozenset({"negatives", "single_positive"})

    def __init__(self, temperature: float, class_share: float, hardness: float):
        super().__init__()
        self.temperature, self.class_share, self.hardness = temperature, class_share, hardness

    def compare(self, comparison: Comparison) -> Tensor:
        t, share = self.temperature, self.class_share
        rows = comparison.rows(*self._scales())
        positive = rows.positives.mean / t  # log p
        count = rows.negatives.count.log()  # log M; minus infinity for a row without negatives
        negative = self._negatives(rows.negatives.lse, count)  # log R
        if share:
            negative = self._debiased(positive, negative, count)
        return -logsigmoid(positive - negative)  # [R]; log(p + N) - log p, but precise if it is small

    def _scales(self) -> list[float]:
        """Scales of the negatives' weighted sum, and of the sum of their weights."""
        scale_of_sum = (1 + self.hardness) / self.temperature
        return [scale_of_sum, self.hardness / self.temperature] if self.hardness else [scale_of_sum]

    def _negatives(self, lse: tuple[Tensor, ...], count: Tensor) -> Tensor:
        """log of R = M sum w exp(s/t) / sum w, w = exp(hardness s/t)."""
        if not self.hardness:
            return lse[0]
        weighted_sum, weights = lse
        return torch.where(count.isinf(), -torch.inf, weighted_sum + count - weights)

    def _debiased(self, positive: Tensor, negative: Tensor, count: Tensor) -> Tensor:
        """log of N = max[(R - share M p) / (1 - share), M exp(-1/t)], without leaving the logarithm."""
        false_share = positive + count + math.log(self.class_share) - negative  # log of (share M p / R)
        has_rest = false_share < 0  # whether something is left, so that its logarithm is defined
        rest = torch.where(
            has_rest, torch.expm1(torch.where(has_rest, false_share, -1.0)).neg().log(), -torch.inf
        )
        estimate = negative + rest - math.log1p(-self.class_share)
        return torch.maximum(torch.where(has_rest, estimate, -torch.inf), count - 1 / self.temperature)


class Debiased(_ReweightingLoss):
    """Debiased contrastive loss: NT-Xent minus the expected contribution of false negatives.

    -log(p / (p + N)), p = exp(s+/t), N = max[(R - c M p) / (1 - c), M exp(-1/t)], R the sum of exp(s-/t)
    over a row's M negatives (Chuang et al. 2020, equations 7 and 8, with one positive). With
    ``class_share`` 0 it is NT-Xent.

    Args:
        temperature: t, divisor of the similarities.
        class_share: c, the share of negatives that are of the query's own class (the paper's tau+; about
            one over the number of classes).
    """

    def __init__(self, temperature: Temperature = 0.5, class_share: Share = 0.1):
        super().__init__(temperature, class_share, 0.0)


class HardNegative(_ReweightingLoss):
    """Debiased loss with hard negative sampling: similar negatives get larger weights.

    Like ``debiased``, with R = M sum w exp(s/t) / sum w and w = exp(hardness s/t) (Robinson et al. 2021,
    equation 4 and the authors' code). With ``hardness`` and ``class_share`` 0 it is NT-Xent.

    Args:
        temperature: t, divisor of the similarities.
        class_share: share of negatives that are of the query's own class (the paper's tau+).
        hardness: how strongly the weight grows with the similarity (the paper's beta, 0.5 to 2).
    """

    def __init__(
        self,
        temperature: Temperature = 0.5,
        class_share: Share = 0.1,
        hardness: Annotated[float, Field(ge=0)] = 1.0,
    ):
        super().__init__(temperature, class_share, hardness)


class MoCHi(Negatives):
    """Synthetic hard negatives: mixtures of each query's hardest negatives, and of these with the query.

    The N hardest negatives of a query are the most similar ones that the other sources offer (in the paper,
    those of a queue). ``mixtures`` of them are a n + (1 - a) n', with a uniform in [0, 1), and
    ``query_mixtures`` are b q + (1 - b) n, with b uniform in [0, 0.5); n and n' are drawn among the N,
    independently. All are scaled to unit length if the loss compares directions (Kalantidis et al. 2020,
    sections 4.1 and 4.2). No gradient passes through them, as none passes through a queue's keys; the paper
    leaves that open, and later code on top of it (SynCo) does the same. What is drawn depends on the seed,
    the step, and the query's image, view and position, not on the number of processes.

    Args:
        hardest: N, of which the mixtures are made (the paper: 1024; all, if there are fewer).
        mixtures: s, the mixtures of two negatives per query.
        query_mixtures: s', the mixtures of a negative with the query.
        warmup_epochs: epochs before the first mixture (the paper: 15 of 200 on ImageNet).
    """

    needs = frozenset({"negatives"})

    def __init__(
        self,
        hardest: Annotated[int, Field(ge=1)] = 1024,
        mixtures: Annotated[int, Field(ge=0)] = 512,
        query_mixtures: Annotated[int, Field(ge=0)] = 256,
        warmup_epochs: Annotated[float, Field(ge=0)] = 0.0,
    ):
        super().__init__()
        if not mixtures + query_mixtures:
            raise UsageError("negatives mochi: set mixtures or query_mixtures above 0.")
        self.hardest, self.mixtures, self.query_mixtures = hardest, mixtures, query_mixtures
        self.warmup_epochs = warmup_epochs

    def own_candidates(self, comparison: Comparison) -> OwnCandidates | None:
        """Mixtures for every row; none during the warm-up, nor for rows without negatives."""
        if comparison.progress.epoch < self.warmup_epochs:
            return None
        rows = comparison.rows()
        hardest = rows.negatives.top(self.hardest, indices=True).indices  # [R, N], -1 if there are fewer
        count = (hardest >= 0).sum(1, keepdim=True)  # [R, 1]
        keys = rows.candidates.z.detach()

        def negatives(draws: Tensor) -> Tensor:
            """Each draw's negative: [R, m] -> [R, m, D]."""
            number = torch.minimum((draws * count).long(), count - 1)
            return keys[hardest.gather(1, number.clamp_min(0)).clamp_min(0)]

        s, with_query = self.mixtures, self.query_mixtures
        of_first, of_second, a, of_third, b = (
            draws for draws in self._draws(comparison).split([s, s, s, with_query, with_query], 1)
        )
        a, b = a.to(keys.dtype)[:, :, None], b.to(keys.dtype)[:, :, None] / 2
        query = comparison.queries.z.detach()[:, None]  # [R, 1, D]
        mixtures = [
            a * negatives(of_first) + (1 - a) * negatives(of_second),
            b * query + (1 - b) * negatives(of_third),
        ]
        z = torch.cat(mixtures, 1)
        if comparison.normalised:
            z = normalize(z, dim=2)
        return OwnCandidates(z, (count > 0).expand(-1, z.shape[1]))

    def _draws(self, comparison: Comparison) -> Tensor:
        """Uniforms in [0, 1) of every row: [R, 3 mixtures + 2 query_mixtures]."""
        queries, progress = comparison.queries, comparison.progress
        position = torch.arange(len(queries.z), device=comparison.device) % queries.positions
        count = 3 * self.mixtures + 2 * self.query_mixtures
        words = (progress.seed, "mochi", progress.step)
        return uniforms(count, words, queries.image, queries.view, position)


class GuidedNegatives(Negatives):
    """Leaves out candidates of the batch that a guide finds too similar to the query: likely false negatives.

    The guide is a network that does not follow the one in training. It encodes every view that is compared; a
    candidate is left out if its cosine similarity to the query is above that of the query to its own key
    (Solatorio 2024, GISTEmbed, section 3, for texts), whichever source offers it. A queue's entries stay.

    Args:
        guide: a fixed target, such as ``stock``.
        margin: subtracted from the similarity of the query to its own key: a larger one leaves more out.
        bound: the similarity above which candidates are left out, for every query alike; null: that of the
            query to its own key, less the margin.
    """

    needs = frozenset({"negatives"})

    def __init__(
        self,
        guide: Target,
        margin: float = 0.0,
        bound: Annotated[float, Field(ge=-1, le=1)] | None = None,
    ):
        super().__init__()
        if not guide.fixed:
            raise UsageError("guide: it must not follow the encoder; use a fixed target, such as stock.")
        if bound is not None and margin:
            raise UsageError("margin: it has no effect with a bound; set one of the two.")
        self.network = guide
        self.margin, self.bound = margin, bound

    @classmethod
    def example(cls, folder: Path) -> dict[str, Any]:
        """A small exported encoder as the guide."""
        from contrastive.backbones import Timm  # only here, because it imports timm

        Timm(3, 32, "resnet10", stem="small", options={"width": 0.125}).export(str(folder))
        return {"guide": {"name": "stock", "weights": str(folder)}}

    def guide(self) -> Target:
        return self.network

    def bounds(self, similarity: Tensor) -> Tensor:
        if self.bound is None:
            return similarity - self.margin
        return torch.full_like(similarity, self.bound)


@hookimpl
def register_negatives(register: Callable[[str, Any], None]) -> None:
    register("mochi", MoCHi)
    register("guided", GuidedNegatives)


@hookimpl
def register_loss(register: Callable[[str, Any], None]) -> None:
    register("dcl", DCL)
    register("dclw", DCLW)
    register("sigmoid", Sigmoid)
    register("debiased", Debiased)
    register("hard_negative", HardNegative)
