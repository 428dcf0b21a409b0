"""Which key is a patch's own: the one at its position, the nearest one in the image, or the most similar one.

Shape letters: b images, n queries and N keys of an image, k of the queries that are kept, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from contrastive.views import Marks


@dataclass(frozen=True)
class Match:
    """How matches are found.

    Attributes:
        by: the position in the grid; the location in the image, by the centres of the patches; or features,
            by similarity.
        of: which features: the embeddings z, or the tokens of the encoders.
        keep: how many of an image's queries are compared, those with the closest matches; None: all.
    """

    by: Literal["position", "location", "features"] = "position"
    of: Literal["z", "tokens"] = "z"
    keep: int | None = None

    def closest(self, distances: Tensor) -> tuple[Tensor, Tensor | None]:
        """Matches [b, n], and None; or [b, k], and the queries kept [b, k]; from distances [b, n, N].

        Of equal distances the first one counts. The queries kept are in the order of their positions.
        """
        nearest, match = distances.min(2)  # [b, n]
        if self.keep is None or self.keep >= nearest.shape[1]:
            return match, None
        closest = nearest.sort(dim=1, stable=True).indices[:, : self.keep]
        kept_rows = closest.sort(dim=1).values
        return match.gather(1, kept_rows), kept_rows


def centres(marks: Marks, grid: tuple[int, int]) -> Tensor:
    """Where the centres of a view's patches are in the image, in pixels: [b, N, 2].

    Args:
        marks: of the view, with its box.
        grid: rows and columns of patches.
    """
    box, mirrored = marks.box, marks.mirrored
    assert box is not None  # checked when the recipe is built
    rows, columns = grid
    y = (torch.arange(rows, device=box.device, dtype=box.dtype) + 0.5) / rows
    x = (torch.arange(columns, device=box.device, dtype=box.dtype) + 0.5) / columns
    x = x.expand(len(box), -1)
    if mirrored is not None:
        x = torch.where(mirrored[:, None], 1 - x, x)  # [b, columns]
    down = (box[:, :1] + box[:, 2:3] * y)[:, :, None].expand(-1, -1, columns)  # [b, rows, columns]
    along = (box[:, 1:2] + box[:, 3:] * x)[:, None].expand(-1, rows, -1)
    return torch.stack([down, along], 3).flatten(1, 2)


def distances(queries: Tensor, keys: Tensor, directions: bool) -> Tensor:
    """Distances of [b, n, D] to [b, N, D], without gradient: [b, n, N] in at least float32.

    Args:
        directions: whether lengths do not count.
    """
    queries, keys = queries.detach(), keys.detach()
    if queries.dtype not in (torch.float32, torch.float64):
        queries, keys = queries.float(), keys.float()
    if directions:
        return -F.normalize(queries, dim=2) @ F.normalize(keys, dim=2).mT
    return torch.cdist(queries, keys)


def places_apart(queries: Tensor, keys: Tensor) -> Tensor:
    """Distances of places [b, n, 2] to [b, N, 2], exact for equal ones: [b, n, N]."""
    return torch.cdist(queries, keys, compute_mode="donot_use_mm_for_euclid_dist")
