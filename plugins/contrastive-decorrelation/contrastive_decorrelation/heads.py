"""Heads of methods without a projector, or with one that whitens: DirectCLR and VIbCReg.

Sources: Jing et al. 2022, "Understanding dimensional collapse in contrastive self-supervised learning"; Lee
and Aune 2021, "VIbCReg"; Huang et al. 2019, "Iterative normalization: beyond standardization towards
efficient whitening".

Shape letters: R rows of a pass, F features, D embedding width, g groups of c dimensions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from contrastive import distributed
from contrastive.errors import UsageError
from contrastive.heads import MLP
from contrastive.kinds import InFeatures
from contrastive.parts import Head
from contrastive_decorrelation.whitening import Count


class Subvector(Head):
    """The first dimensions of the features; the others have a gradient through the layers before (DirectCLR).

    Args:
        dim: how many are kept, the paper's d0 (360 of the 2048 of a ResNet-50).
    """

    def __init__(self, in_features: InFeatures, dim: Count = 360):
        super().__init__()
        if dim > in_features:
            raise UsageError(
                f"head subvector keeps {dim} dimensions, but the features have {in_features}; set dim to "
                f"{in_features} or less."
            )
        self.out_features = dim

    @classmethod
    def example(cls, folder: Path) -> dict[str, Any]:
        return {"dim": 4}

    def forward(self, h: Tensor) -> Tensor:
        """[b, F] -> [b, D]."""
        return h[:, : self.out_features]


class IterNormMLP(Head):
    """A multi-layer perceptron whose output is whitened by :class:`IterNorm` (VIbCReg's projector).

    Batch norm follows each hidden layer. Set ``views: {batch_norm: separate}``, as the authors whiten each
    view on its own.

    Args:
        dims: widths of the layers; the last one is D.
        channels: dimensions that are whitened together; they divide D.
    """

    def __init__(
        self,
        in_features: InFeatures,
        dims: Annotated[list[Count], Field(min_length=1)] = [4096, 4096, 4096],  # noqa: B006 - read, never changed
        channels: Count = 64,
    ):
        super().__init__()
        self.out_features = dims[-1]
        self.mlp = MLP(in_features, dims, batch_norm="hidden", last_bias=False)
        self.norm = IterNorm(self.out_features, channels)

    @classmethod
    def example(cls, folder: Path) -> dict[str, Any]:
        return {"dims": [16, 8], "channels": 4}

    def forward(self, h: Tensor) -> Tensor:
        """[b, F] -> [b, D]."""
        return self.norm(self.mlp(h))


class IterNorm(nn.Module):
    """Whitening within groups of dimensions by Newton's iteration (Huang et al. 2019).

    A scale and a shift of each dimension follow. In training it whitens by the rows of all processes, in
    evaluation by the moving averages of means and whitening matrices.

    Args:
        features: D.
        channels: dimensions c of a group; they divide D.
        steps: of Newton's iteration (the paper's T).
        momentum: share of a batch in the moving averages.
        least: added to the variances.

    Raises UsageError if the groups do not divide the dimensions.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(
        self, features: int, channels: int = 64, steps: int = 5, momentum: float = 0.1, least: float = 1e-5
    ):
        super().__init__()
        if features % channels:
            raise UsageError(
                f"head iter_norm whitens {channels} dimensions at a time, which do not divide {features}; "
                "set channels to a divisor of the last width."
            )
        self.channels, self.steps, self.momentum, self.least = channels, steps, momentum, least
        self.weight, self.bias = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))
        self.register_buffer("mean", torch.zeros(features // channels, 1, channels))
        self.register_buffer("whitening", torch.eye(channels).repeat(features // channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[R, D] -> [R, D], of at least float32."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            groups = x.unflatten(1, (-1, self.channels)).transpose(0, 1)  # [g, R, c]
            mean, whitening = self._statistics(groups) if self.training else (self.mean, self.whitening)
            return ((groups - mean) @ whitening).transpose(0, 1).flatten(1) * self.weight + self.bias

    def _statistics(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Means [g, 1, c] and whitening matrices [g, c, c] of all processes; moves the averages."""
        mean = distributed.mean(groups.mean(1, keepdim=True))
        deviations = groups - mean
        covariance = distributed.mean(deviations.mT @ deviations / groups.shape[1])
        identity = torch.eye(self.channels, dtype=groups.dtype, device=groups.device)
        whitening = inverse_root(covariance + self.least * identity, self.steps)
        with torch.no_grad():
            self.mean.lerp_(mean.to(self.mean), self.momentum)
            self.whitening.lerp_(whitening.to(self.whitening), self.momentum)
        return mean, whitening


def inverse_root(matrices: Tensor, steps: int) -> Tensor:
    """The inverse square root of positive definite matrices by Newton's iteration: [g, c, c] -> the same."""
    trace = matrices.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    ratio = matrices / trace  # eigenvalues of at most 1, for which the iteration converges
    root = torch.eye(matrices.shape[1], dtype=matrices.dtype, device=matrices.device).expand_as(matrices)
    for _ in range(steps):
        root = 1.5 * root - 0.5 * root @ root @ root @ ratio
    return root / trace.sqrt()
