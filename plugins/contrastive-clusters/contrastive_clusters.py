"""Methods whose targets are soft assignments to prototypes: DINO, iBOT, DINOv2 and MSN.

Sources: Caron et al. 2021, "Emerging properties in self-supervised vision transformers" (DINO); Zhou et al.
2022, "iBOT: image BERT pre-training with online tokenizer"; Oquab et al. 2024, "DINOv2"; Assran et al. 2022,
"Masked siamese networks for label-efficient learning" (MSN); Cuturi 2013, "Sinkhorn distances"; Caron et al.
2020, "Unsupervised learning of visual features by contrasting cluster assignments" (SwAV).

Shape letters: b images of a process's batch, n rows of an image in a view, R rows, K prototypes, W their
width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from contrastive import hookimpl
from contrastive.comparison import Comparison
from contrastive.errors import UsageError
from contrastive.kinds import InFeatures, SpansRun
from contrastive.parts import Head, Loss
from contrastive.schedules import Schedule, value_at
from contrastive.values import Progress

contrastive_api = 2

Width = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class DINOHead(Head):
    """An MLP whose direction is scored by prototypes of unit length (DINO, appendix C).

    The authors normalise the last layer's weights and may learn their lengths; here lengths stay 1.

    Args:
        prototypes: number of scores, K (DINO: 65536; DINOv2: 131072; iBOT: 8192; small data needs fewer).
        hidden: width of the hidden layers.
        bottleneck: width W of the direction.
        layers: linear layers before the prototypes.
        frozen: share of the run at whose start the prototypes do not learn (DINO: 1 of 100 epochs).
    """

    def __init__(
        self,
        in_features: InFeatures,
        prototypes: Width = 65536,
        hidden: Width = 2048,
        bottleneck: Width = 256,
        layers: Width = 3,
        frozen: Annotated[float, Field(ge=0, le=1), SpansRun(unless=(0, 1))] = 0.01,
    ):
        super().__init__()
        self.out_features, self.frozen = prototypes, frozen
        widths = [in_features, *[hidden] * (layers - 1), bottleneck]
        modules: list[nn.Module] = []
        for n, m in pairwise(widths):
            linear = nn.Linear(n, m)
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
            modules += [linear, nn.GELU()]
        self.mlp = nn.Sequential(*modules[:-1])
        self.prototypes = _new_prototypes(prototypes, bottleneck)

    @classmethod
    def example(cls, folder: Path) -> dict[str, Any]:
        return {"prototypes": 32, "hidden": 16, "bottleneck": 8}

    def forward(self, h: Tensor) -> Tensor:
        """[b, F] -> scores [b, K] in [-1, 1]."""
        return F.linear(F.normalize(self.mlp(h), dim=-1), F.normalize(self.prototypes, dim=1))

    def before_step(self, progress: Progress) -> None:
        """Drop the gradient of the prototypes while they are frozen."""
        if progress.fraction < self.frozen:
            self.prototypes.grad = None


class DINO(Loss):
    """Cross entropy between each key's scores, sharpened, and its query's (DINO; of patches: iBOT).

    Centred scores keep any prototype from taking all keys. The centre is a moving average of the mean scores
    of all keys of all processes, of patches also of those that are not compared (as in iBOT; DINOv2's centre
    sees hidden patches only). Sinkhorn's assignments are those of the keys that are compared.

    Args:
        temperature: of the queries' scores.
        target_temperature: of the keys' scores; DINO raises it from 0.04 to 0.07 in the first 30 epochs.
        momentum: of the centre.
        codes: ``centre``: the softmax of centred scores (DINO, iBOT); ``sinkhorn``: assignments that use all
            prototypes evenly, by three steps of Sinkhorn-Knopp (SwAV, DINOv2).

    Raises UsageError if the target temperature starts or ends at 0 or below.
    """

    normalised = False
    needs = frozenset({"detached_keys"})
    centre: Tensor | None

    def __init__(
        self,
        in_features: InFeatures,
        temperature: Positive = 0.1,
        target_temperature: Positive | Schedule = 0.04,
        momentum: Share = 0.9,
        codes: Literal["centre", "sinkhorn"] = "centre",
    ):
        super().__init__()
        for progress in (Progress(0, 1), Progress(1, 1)):
            if value_at(target_temperature, progress) <= 0:
                raise UsageError("target_temperature: it must stay above 0; raise from and to.")
        self.temperature, self.target_temperature = temperature, target_temperature
        self.momentum = momentum
        self.register_buffer("centre", torch.zeros(in_features) if codes == "centre" else None)

    def compare(self, comparison: Comparison) -> Tensor:
        """The cross entropy of each pair: [pairs b n]."""
        t = value_at(self.target_temperature, comparison.progress)
        queries, keys = zip(*comparison.aligned(), strict=True)
        centre = self.centre
        if centre is None:
            codes = _even(comparison, keys, lambda key: key / t)
        else:
            codes = _once(keys, lambda key: F.softmax((key - centre) / t, 1))
        logs = _once(queries, lambda query: F.log_softmax(query / self.temperature, 1))
        return _cross_entropy(codes, logs)

    def after_batch(self, comparison: Comparison) -> None:
        """Move the centre towards the mean scores of the keys of all processes."""
        if self.centre is not None:
            mean = _mean(comparison, comparison.own_keys.z)  # [K]
            self.centre.lerp_(mean.to(self.centre), 1 - self.momentum)


class MSN(Loss):
    """Cross entropy of soft assignments to learnt prototypes, and their mean kept even (MSN, section 3).

    A key's assignment is sharpened and carries no gradient. The regulariser is the entropy of the queries'
    mean assignment, over all views and processes, below its largest value.

    Args:
        prototypes: how many, K.
        temperature: of the cosine similarities to prototypes.
        sharpening: factor of the temperature of the keys' assignments.
        codes: ``softmax``: these assignments themselves (the paper); ``sinkhorn``: made even by three steps
            of Sinkhorn-Knopp (the authors' configurations).
        regulariser: weight of the mean assignment's entropy.
    """

    needs = frozenset({"detached_keys"})
    stops_gradient = True

    def __init__(
        self,
        in_features: InFeatures,
        prototypes: Width = 1024,
        temperature: Positive = 0.1,
        sharpening: Positive = 0.25,
        codes: Literal["softmax", "sinkhorn"] = "softmax",
        regulariser: Annotated[float, Field(ge=0)] = 1.0,
    ):
        super().__init__()
        self.temperature, self.sharpening = temperature, sharpening
        self.codes, self.regulariser = codes, regulariser
        self.prototypes = _new_prototypes(prototypes, in_features)

    def no_weight_decay(self) -> set[str]:
        """Only directions of prototypes count, so they are not decayed."""
        return {"prototypes"}

    def compare(self, comparison: Comparison) -> Tensor:
        """The cross entropy of each pair [pairs b n], each with the regulariser added."""
        queries, keys = zip(*comparison.aligned(), strict=True)
        logs = _once(queries, lambda query: F.log_softmax(self._scores(query), 1))
        entropies = _cross_entropy(self._codes(comparison, keys), logs)
        return entropies + self.regulariser * self._unevenness(comparison, logs)

    def _scores(self, z: Tensor) -> Tensor:
        """[R, W] of unit length -> [R, K]."""
        return z @ F.normalize(self.prototypes.to(z), dim=1).T / self.temperature

    @torch.no_grad()
    def _codes(self, comparison: Comparison, keys: Sequence[Tensor]) -> list[Tensor]:
        """The assignments of each pair's keys."""
        if self.codes == "sinkhorn":
            return _even(comparison, keys, lambda key: F.log_softmax(self._scores(key) / self.sharpening, 1))
        return _once(keys, lambda key: F.softmax(self._scores(key) / self.sharpening, 1))

    def _unevenness(self, comparison: Comparison, logs: Sequence[Tensor]) -> Tensor:
        """log K less the entropy of the mean assignment of queries, over all views and processes."""
        every_view = list({id(log): log for log in logs}.values())
        mean = _mean(comparison, torch.cat(every_view).exp())  # [K]
        return math.log(len(mean)) + torch.xlogy(mean, mean).sum()


def _new_prototypes(count: int, width: int) -> nn.Parameter:
    """[K, W], drawn as the weights of a linear layer."""
    return nn.Parameter(nn.Linear(width, count, bias=False).weight.detach().clone())


def _cross_entropy(codes: Sequence[Tensor], logs: Sequence[Tensor]) -> Tensor:
    """Of each pair's assignments and logarithms of probabilities, [R, K] each: [pairs R]."""
    return torch.cat([-(code * log).sum(1) for code, log in zip(codes, logs, strict=True)])


def _once(rows: Sequence[Tensor], function: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """What a function makes of each pair's rows; pairs of a view share its rows, one tensor."""
    distinct = {id(x): x for x in rows}
    results = {key: function(x) for key, x in distinct.items()}
    return [results[id(x)] for x in rows]


def _mean(comparison: Comparison, x: Tensor) -> Tensor:
    """The mean of rows [R, K] over all processes, of which each has equally many: [K]."""
    return comparison.mean(x.mean(0))


def _even(comparison: Comparison, keys: Sequence[Tensor], scores: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Sinkhorn's assignments of each pair's keys, one for all views and processes.

    Args:
        keys: of each pair. Pairs of whole images share the keys of a view, as one tensor.
        scores: of keys [R, ...], divided by their temperature: [R, K].
    """
    once = {id(key): key for key in keys}
    together = torch.cat([scores(key) for key in once.values()])
    codes = sinkhorn(together, gather=comparison.gather).split([len(key) for key in once.values()])
    by_key = dict(zip(once, codes, strict=True))
    return [by_key[id(key)] for key in keys]


@torch.no_grad()
def sinkhorn(scores: Tensor, steps: int = 3, gather: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
    """Assignments [R, K], rows summing to 1, that use all columns evenly (Cuturi 2013; SwAV, algorithm 1).

    In logarithms, so that no temperature overflows. Processes exchange sums of columns, never rows.

    Args:
        scores: [R, K] of this process, divided by their temperature.
        steps: alternations of columns and rows.
        gather: [1, K] of this process -> [processes, K] of all.
    """
    logs = scores.to(torch.promote_types(scores.dtype, torch.float32))
    for _ in range(steps):
        columns = gather(logs.logsumexp(0, keepdim=True)).logsumexp(0)  # [K]
        logs = logs - columns
        logs = logs - logs.logsumexp(1, keepdim=True)
    return logs.exp()


@hookimpl
def register_head(register: Callable[[str, Any], None]) -> None:
    register("dino", DINOHead)


@hookimpl
def register_loss(register: Callable[[str, Any], None]) -> None:
    register("dino", DINO)
    register("msn", MSN)
