"""DINO (Caron et al. 2021): each view predicts the centred, sharpened scores of a moving average."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contrastive import Comparison, hookimpl
from contrastive.kinds import InFeatures
from contrastive.parts import Head, Loss, Progress


class DINOHead(Head):
    """An MLP, the direction of whose output is scored by prototypes; they stay for ``frozen_steps``."""

    def __init__(self, in_features: InFeatures, dims: list[int], frozen_steps: int = 0):
        super().__init__()
        *hidden, width, self.out_features = dims
        layers: list[nn.Module] = []
        for n, m in zip([in_features, *hidden], [*hidden, width], strict=True):
            layers += [nn.Linear(n, m), nn.GELU()]
        self.layers, self.frozen_steps = nn.Sequential(*layers[:-1]), frozen_steps
        self.prototypes = nn.Parameter(torch.randn(self.out_features, width))

    def forward(self, h: Tensor) -> Tensor:
        return F.linear(F.normalize(self.layers(h), dim=1), F.normalize(self.prototypes, dim=1))

    def before_step(self, progress: Progress) -> None:
        if progress.step < self.frozen_steps:
            self.prototypes.grad = None


class DINO(Loss):
    """Cross entropy with the target's scores, centred, whose temperature rises over ``warmup`` steps."""

    normalised, needs = False, frozenset({"detached_keys"})

    def __init__(self, in_features: InFeatures, first: float = 0.04, last: float = 0.07, warmup: int = 1):
        super().__init__()
        self.first, self.last, self.warmup = first, last, warmup
        self.register_buffer("centre", torch.zeros(in_features))

    def compare(self, comparison: Comparison) -> Tensor:
        t = self.first + (self.last - self.first) * min(1.0, comparison.progress.step / self.warmup)
        pairs = [(F.softmax((k - self.centre) / t, 1), q / 0.1) for q, k in comparison.aligned()]
        return torch.stack([-(p * F.log_softmax(q, 1)).sum(1) for p, q in pairs]).mean(0)  # [b]

    def after_batch(self, comparison: Comparison) -> None:
        mean = torch.cat(list(comparison.views().values())).mean(0)  # [D], of all processes
        self.centre.lerp_(mean.to(self.centre), 0.1)


@hookimpl
def register_head(register):
    register("dino", DINOHead)


@hookimpl
def register_loss(register):
    register("dino", DINO)
