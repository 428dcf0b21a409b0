"""One module runs every method: a composition of parts, never a class of its own.

``encode`` -> ``keys`` -> ``compare``; ``forward`` composes them and is all that the engine calls, so
that autocast and gradient synchronisation act on the whole of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from contrastive.comparison import Comparison
from contrastive.parts import Backbone, Head, Loss, Negatives, Target
from contrastive.values import Progress


@dataclass(frozen=True)
class Encoded:
    """What the online encoder makes of its views: view -> embedding z [b, D] and prediction p [b, D]."""

    z: dict[int, Tensor]
    p: dict[int, Tensor]


class Method(nn.Module):
    """Backbone, head, predictor, target, negatives and losses, composed.

    Args:
        backbone: pixels -> h.
        head: h -> z.
        predictor: z -> p, or None where p is z.
        target: who encodes the keys.
        negatives: sources of candidates; they add up.
        losses: (weight, loss); they add up.
        online_views, target_views: which views each side sees.
        joint: views of one size pass as one batch, so batch norm sees them together (the official
            SimCLR); otherwise one forward a view.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        predictor: Head | None,
        target: Target,
        negatives: Sequence[Negatives],
        losses: Sequence[tuple[float, Loss]],
        online_views: Sequence[int] = (0, 1),
        target_views: Sequence[int] = (0, 1),
        joint: bool = True,
    ):
        super().__init__()
        self.backbone, self.head, self.target = backbone, head, target
        self.predictor = predictor
        self.negatives = nn.ModuleList(negatives)
        self.losses = nn.ModuleList(loss for _, loss in losses)
        self.weights = [weight for weight, _ in losses]
        self.normalised = losses[0][1].normalised
        self.online_views, self.target_views, self.joint = tuple(online_views), tuple(target_views), joint
        self.pairs = [(o, t) for o in self.online_views for t in self.target_views if o != t]
        self.offers = [
            (o, t)
            for o in self.online_views
            for t in self.target_views
            if any(source.offers(o, t) for source in negatives)
        ]

    def embed(self, pixels: Tensor) -> Tensor:
        """The online embedding before the predictor: [b, C, h, w] -> z [b, D]."""
        return self.head(self.backbone(pixels))

    def encode(self, views: Mapping[int, Tensor]) -> Encoded:
        """z and p of the online views."""
        asked = [views[v] for v in self.online_views]
        if self.joint and len({view.shape for view in asked}) == 1:
            z_all = self.embed(torch.cat(asked))  # [V b, D]
            z = z_all.chunk(len(asked))
            p = z if self.predictor is None else self.predictor(z_all).chunk(len(asked))
        else:
            z = tuple(self.embed(view) for view in asked)
            p = z if self.predictor is None else tuple(self.predictor(each) for each in z)
        seen = self.online_views
        return Encoded(dict(zip(seen, z, strict=True)), dict(zip(seen, p, strict=True)))

    def keys(self, views: Mapping[int, Tensor], encoded: Encoded) -> dict[int, Tensor]:
        """Keys of the target views: view -> [b, D]."""
        return self.target({v: views[v] for v in self.target_views}, encoded.z, self.embed)

    def compare(
        self,
        encoded: Encoded,
        keys: Mapping[int, Tensor],
        ids: Tensor,
        labels: Tensor | None,
        progress: Progress,
    ) -> Comparison:
        """The comparison that the losses see; gathers, normalises and masks on their behalf."""
        queries = encoded.p
        same = keys.keys() == queries.keys() and all(keys[v] is queries[v] for v in keys)
        return Comparison.of(
            queries,
            None if same else keys,
            labels,
            images=ids,
            pairs=self.pairs,
            offers=self.offers,
            normalise=self.normalised,
            progress=progress,
        )

    def forward(
        self,
        views: Sequence[Tensor],
        ids: Tensor,
        labels: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """The loss of a batch, a scalar of at least float32.

        Args:
            views: V tensors [b, C, h, w].
            ids: [b] int64, distinct.
            labels: [b] int64 (-1 unknown) where positives are by label.
            progress: steps taken and to take.
        """
        by_view = dict(enumerate(views))
        encoded = self.encode(by_view)
        keys = self.keys(by_view, encoded)
        with torch.autocast(ids.device.type, enabled=False):
            comparison = self.compare(encoded, keys, ids, labels, progress or Progress())
            values = [w * loss(comparison) for w, loss in zip(self.weights, self.losses, strict=True)]
            return torch.stack(values).sum()
