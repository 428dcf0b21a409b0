"""SwAV (Caron et al. 2020): each view predicts the prototypes that a global view is assigned to."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contrastive import Comparison, hookimpl
from contrastive.kinds import InFeatures
from contrastive.parts import Loss, Progress


class SwAV(Loss):
    """Cross entropy with balanced assignments to prototypes of unit length, over the global batch.

    Args:
        prototypes: how many, K.
        temperature: what the predicting view's scores are divided by.
        epsilon: what the assigned view's scores are divided by.
        frozen_steps: optimizer steps during which the prototypes stay fixed.
    """

    def __init__(
        self,
        in_features: InFeatures,
        prototypes: int = 3000,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        frozen_steps: int = 313,
    ):
        super().__init__()
        self.temperature, self.epsilon, self.frozen_steps = temperature, epsilon, frozen_steps
        self.prototypes = nn.Parameter(F.normalize(torch.randn(prototypes, in_features), dim=1))

    def compare(self, comparison: Comparison) -> Tensor:
        c = self.prototypes.to(comparison.queries.z)  # [K, D]
        codes = {t: comparison.local(self.assign(z @ c.T)) for t, z in comparison.views().items()}  # [b, K]
        predictions = [F.log_softmax(q @ c.T / self.temperature, 1) for q, _ in comparison.aligned()]
        pairs = zip(comparison.pairs, predictions, strict=True)
        return torch.stack([-(codes[t] * log_p).sum(1) for (_, t), log_p in pairs]).mean(0)  # [b]

    @torch.no_grad()
    def assign(self, scores: Tensor) -> Tensor:
        """Codes [B, K]: rows sum to 1, prototypes have about equal shares (3 rounds of Sinkhorn-Knopp)."""
        codes = torch.exp((scores - scores.max()) / self.epsilon)
        for _ in range(3):
            codes = codes / codes.sum(0)
            codes = codes / codes.sum(1, keepdim=True)
        return codes

    def before_step(self, progress: Progress) -> None:
        if progress.step < self.frozen_steps:
            self.prototypes.grad = None

    def after_step(self, progress: Progress) -> None:
        self.prototypes.copy_(F.normalize(self.prototypes, dim=1))


@hookimpl
def register_loss(register):
    register("swav", SwAV)
