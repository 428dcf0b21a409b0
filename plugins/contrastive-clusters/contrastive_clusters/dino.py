"""The head and the loss of DINO, iBOT and DINOv2.

Sources: Caron et al. 2021, "Emerging properties in self-supervised vision transformers" (DINO); Zhou et al.
2022, "iBOT: image BERT pre-training with online tokenizer"; Oquab et al. 2024, "DINOv2".

Shape letters: b images of a process's batch, n rows of an image in a view, K prototypes, W their width.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contrastive.comparison import Comparison
from contrastive.errors import UsageError
from contrastive.kinds import InFeatures
from contrastive.parts import Head, Loss
from contrastive.schedules import Schedule, value_at
from contrastive.values import Progress
from contrastive_clusters.assignments import (
    Positive,
    Share,
    ShareOfRun,
    Width,
    cross_entropy,
    even,
    freeze,
    mean_row,
    new_prototypes,
    once,
)


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
        frozen: ShareOfRun = 0.01,
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
        self.prototypes = new_prototypes(prototypes, bottleneck)

    @classmethod
    def example(cls, folder: Path) -> dict[str, Any]:
        return {"prototypes": 32, "hidden": 16, "bottleneck": 8}

    def forward(self, h: Tensor) -> Tensor:
        """[b, F] -> scores [b, K] in [-1, 1]."""
        return F.linear(F.normalize(self.mlp(h), dim=-1), F.normalize(self.prototypes, dim=1))

    def before_step(self, progress: Progress) -> None:
        freeze(self.prototypes, self.frozen, progress)


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
            codes = even(comparison, keys, lambda key: key / t)
        else:
            codes = once(keys, lambda key: F.softmax((key - centre) / t, 1))
        logs = once(queries, lambda query: F.log_softmax(query / self.temperature, 1))
        return cross_entropy(codes, logs)

    def after_batch(self, comparison: Comparison) -> None:
        """Move the centre towards the mean scores of the keys of all processes."""
        if self.centre is not None:
            mean = mean_row(comparison, comparison.own_keys.z)  # [K]
            self.centre.lerp_(mean.to(self.centre), 1 - self.momentum)
