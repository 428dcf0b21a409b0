"""Heads and predictors that give patches which the encoder did not see."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from contrastive.errors import UsageError
from contrastive.kinds import InFeatures, OutFeatures
from contrastive.parts import Head
from contrastive.views import Tokens, take

Count = Annotated[int, Field(gt=0)]


def sincos(grid: tuple[int, int], width: int, like: Tensor) -> Tensor:
    """Fixed sine and cosine embeddings of positions in a grid (MAE): [N, W].

    The first half is of the column, the second of the row; frequencies fall from 1 to 1 / 10000.
    """
    rows, columns = (torch.arange(n, device=like.device, dtype=torch.float64) for n in grid)
    omega = 10000 ** -(torch.arange(width // 4, device=like.device, dtype=torch.float64) / (width / 4))

    def of_line(places: Tensor) -> Tensor:
        angles = places[:, None] * omega
        return torch.cat([angles.sin(), angles.cos()], 1)  # [n, W / 2]

    across = of_line(columns).expand(grid[0], -1, -1)
    down = of_line(rows)[:, None].expand(-1, grid[1], -1)
    return torch.cat([across, down], 2).flatten(0, 1).to(like.dtype)


class _Transformer(Head):
    """A small transformer over tokens, at positions of a grid; it gives hidden positions too."""

    fills = True

    def __init__(self, in_features: int, out_features: int, width: int, depth: int, heads: int):
        super().__init__()
        if width % 4 or width % heads:
            raise UsageError(f"width {width} must be a multiple of 4 and of heads ({heads}).")
        self.out_features, self.width = out_features, width
        self.enter = nn.Linear(in_features, width)
        self.hidden = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.hidden, std=0.02)
        norm: Any = partial(nn.LayerNorm, eps=1e-6)  # as timm's networks have it
        self.blocks = nn.Sequential(
            *(Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth))
        )
        self.norm = norm(width)
        self.leave = nn.Linear(width, out_features)
        self.apply(_initialise)

    @classmethod
    def example(cls, folder: Path) -> dict[str, Any]:
        """A small one."""
        return {"width": 8, "depth": 1, "heads": 2}

    def forward(self, h: Tensor) -> Tensor:
        """Raises UsageError: it works on the tokens of patches."""
        raise UsageError(f"{type(self).__name__} predicts patches; use it as predictor at level patch.")


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Decoder(_Transformer):
    """A transformer over all positions, with a learnt token at the hidden ones (MAE, He et al. 2022).

    Args:
        width: of its tokens.
        depth: number of blocks.
        heads: attention heads per block.
    """

    def __init__(
        self,
        in_features: InFeatures,
        out_features: OutFeatures,
        width: Count = 512,
        depth: Count = 8,
        heads: Count = 16,
    ):
        super().__init__(in_features, out_features, width, depth, heads)

    def at(self, tokens: Tokens, positions: Tensor) -> Tensor:
        """Patches [b, n, G] and prefix -> predictions [b, k, D] at positions [b, k], or in blocks."""
        visible = self.enter(tokens.patches)  # [b, n, W]
        everywhere = visible
        if tokens.positions is not None:
            empty = self.hidden.to(visible.dtype).expand(len(visible), tokens.count, -1)
            everywhere = empty.scatter(1, tokens.positions[:, :, None].expand_as(visible), visible)
        everywhere = everywhere + sincos(tokens.grid, self.width, visible)
        prefix = self.enter(tokens.prefix)
        x = self.blocks(torch.cat([prefix, everywhere], 1))[:, prefix.shape[1] :]
        return self.leave(self.norm(take(x, positions.flatten(1)))).unflatten(1, positions.shape[1:])


class FeatureDecoder(Head):
    """CMAE's projector of images: the mean of the patches, hidden ones decoded first (Huang et al. 2022).

    Whole views skip the decoder, as the target's view does.

    Args:
        projector: the mean of the patches -> z.
        width: of the decoder's tokens.
        depth: number of its blocks.
        heads: attention heads per block.
    """

    pools = True

    def __init__(
        self,
        in_features: InFeatures,
        projector: Head,
        width: Count = 512,
        depth: Count = 2,
        heads: Count = 16,
    ):
        super().__init__()
        self.decoder = Decoder(in_features, in_features, width, depth, heads)
        self.projector = projector
        self.out_features = projector.out_features

    @classmethod
    def example(cls, folder: Path) -> dict[str, Any]:
        """One narrow block, and one layer."""
        return {"projector": "linear", "width": 8, "depth": 1, "heads": 2}

    def image(self, tokens: Tokens) -> Tensor:
        """The tokens of a view, whole or without its hidden patches -> z [b, D]."""
        patches = tokens.patches  # [b, n, G]
        if tokens.positions is not None:
            patches = self.decoder.at(tokens, tokens.everywhere())  # [b, N, G]
        return self(patches.mean(1))

    def forward(self, h: Tensor) -> Tensor:
        """The mean of patches [b, G] -> z [b, D]."""
        return self.projector(h)


class Positional(_Transformer):
    """A transformer over the context and one block of hidden positions (I-JEPA, Assran et al. 2023).

    Args:
        width: of its tokens.
        depth: number of blocks.
        heads: attention heads per block.
    """

    def __init__(
        self,
        in_features: InFeatures,
        out_features: OutFeatures,
        width: Count = 192,
        depth: Count = 6,
        heads: Count = 12,
    ):
        super().__init__(in_features, out_features, width, depth, heads)

    def at(self, tokens: Tokens, positions: Tensor) -> Tensor:
        """Patches [b, n, G] -> predictions [b, M, k, D] at blocks of positions [b, M, k]; [b, k] is one."""
        if positions.ndim == 2:
            return self.at(tokens, positions[:, None])[:, 0]
        places = sincos(tokens.grid, self.width, tokens.patches)  # [N, W]
        visible = self.enter(tokens.patches)
        context = tokens.everywhere() if tokens.positions is None else tokens.positions  # [b, n]
        visible = (visible + places[context]).repeat_interleave(positions.shape[1], 0)  # [b M, n, W]
        queries = (self.hidden.to(visible.dtype) + places[positions]).flatten(0, 1)  # [b M, k, W]
        x = self.blocks(torch.cat([visible, queries], 1))[:, -positions.shape[2] :]
        return self.leave(self.norm(x)).unflatten(0, positions.shape[:2])
