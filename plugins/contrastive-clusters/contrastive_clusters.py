"""Methods whose targets are soft assignments to prototypes: DINO, and what iBOT and DINOv2 build on it.

Sources: Caron et al. 2021, "Emerging properties in self-supervised vision transformers" (DINO); Zhou et al.
2022, "iBOT: image BERT pre-training with online tokenizer"; Oquab et al. 2024, "DINOv2"; Cuturi 2013,
"Sinkhorn distances".

Shape letters: b images of a process's batch, n rows of an image in a view, R rows, K prototypes, W width
before them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from contrastive import hookimpl
from contrastive.comparison import Comparison
from contrastive.kinds import InFeatures
from contrastive.parts import Head, Loss
from contrastive.schedules import Schedule, value_at
from contrastive.values import Progress

contrastive_api = 2

Width = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]


class DINOHead(Head):
    """An MLP, the direction of whose output is scored by prototypes of unit length (DINO, appendix C).

    Args:
        prototypes: number of scores, K (DINO and iBOT: 65536 and 8192; here small data needs fewer).
        hidden: width of the hidden layers.
        bottleneck: width W of the direction.
        layers: linear layers before the prototypes.
        frozen: share of the run in which the prototypes do not learn (DINO: the first of 100 epochs).
    """

    def __init__(
        self,
        in_features: InFeatures,
        prototypes: Width = 65536,
        hidden: Width = 2048,
        bottleneck: Width = 256,
        layers: Width = 3,
        frozen: Annotated[float, Field(ge=0, le=1)] = 0.01,
    ):
        super().__init__()
        self.out_features, self.frozen = prototypes, frozen
        widths = [in_features, *[hidden] * (layers - 1), bottleneck]
        modules: list[nn.Module] = []
        for n, m in zip(widths, widths[1:], strict=False):
            modules += [nn.Linear(n, m), nn.GELU()]
        self.mlp = nn.Sequential(*modules[:-1])
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.prototypes = nn.Parameter(nn.Linear(bottleneck, prototypes, bias=False).weight.detach().clone())

    def forward(self, h: Tensor) -> Tensor:
        """[b, F] -> scores [b, K]."""
        return F.linear(F.normalize(self.mlp(h), dim=-1), F.normalize(self.prototypes, dim=1))

    def before_step(self, progress: Progress) -> None:
        """Drop the gradient of the prototypes while they are frozen."""
        if progress.fraction < self.frozen:
            self.prototypes.grad = None


class DINO(Loss):
    """Cross entropy of each query's scores with its key's, centred and sharpened (DINO; patches: iBOT).

    The centre is a moving average of the mean scores of all keys of all processes.

    Args:
        temperature: of the queries' scores.
        target_temperature: of the keys' scores; DINO raises it from 0.04 to 0.07 in the first 30 epochs.
        momentum: of the centre.
        codes: ``centre``: the softmax of centred scores (DINO, iBOT); ``sinkhorn``: assignments that use all
            prototypes evenly, by three steps of Sinkhorn-Knopp (SwAV, DINOv2).
    """

    normalised = False
    needs = frozenset({"detached_keys"})
    centre: Tensor

    def __init__(
        self,
        in_features: InFeatures,
        temperature: Positive = 0.1,
        target_temperature: Positive | Schedule = 0.04,
        momentum: Annotated[float, Field(ge=0, le=1)] = 0.9,
        codes: Literal["centre", "sinkhorn"] = "centre",
    ):
        super().__init__()
        self.temperature, self.target_temperature = temperature, target_temperature
        self.momentum, self.codes = momentum, codes
        self.register_buffer("centre", torch.zeros(in_features))

    def compare(self, comparison: Comparison) -> Tensor:
        """The cross entropy of each pair: [pairs b n]."""
        t = value_at(self.target_temperature, comparison.progress)
        aligned = comparison.aligned()
        if self.codes == "sinkhorn":
            codes = self._even(comparison, [k for _, k in aligned], t)
        else:
            codes = [F.softmax((k - self.centre) / t, 1) for _, k in aligned]
        return torch.cat(
            [
                -(code * F.log_softmax(q / self.temperature, 1)).sum(1)
                for code, (q, _) in zip(codes, aligned, strict=True)
            ]
        )

    def _even(self, comparison: Comparison, keys: list[Tensor], t: float) -> list[Tensor]:
        """Sinkhorn's assignments of the keys of every pair, one for all target views and processes."""
        by_view = dict(zip([target for _, target in comparison.pairs], keys, strict=True))
        together = comparison.gather(torch.stack(list(by_view.values()), 1))  # [B n, views, K]
        codes = sinkhorn(together.flatten(0, 1) / t).unflatten(0, together.shape[:2])
        own = dict(zip(by_view, comparison.local(codes).unbind(1), strict=True))
        return [own[target] for _, target in comparison.pairs]

    def after_batch(self, comparison: Comparison) -> None:
        """Move the centre towards the mean scores of the keys of all processes."""
        if self.codes == "centre":
            mean = comparison.keys.z.mean(0)  # [K]
            self.centre.lerp_(mean.to(self.centre), 1 - self.momentum)


@torch.no_grad()
def sinkhorn(scores: Tensor, steps: int = 3) -> Tensor:
    """Assignments [R, K], rows summing to 1, that use all columns evenly (Cuturi 2013; SwAV, algorithm 1).

    Args:
        scores: [R, K], divided by their temperature.
        steps: alternations of columns and rows.
    """
    logs = scores.double() if scores.device.type != "mps" else scores.float()
    for _ in range(steps):
        logs = logs - logs.logsumexp(0, keepdim=True)
        logs = logs - logs.logsumexp(1, keepdim=True)
    return logs.exp().to(scores.dtype)


@hookimpl
def register_head(register: Callable[[str, Any], None]) -> None:
    register("dino", DINOHead)


@hookimpl
def register_loss(register: Callable[[str, Any], None]) -> None:
    register("dino", DINO)
