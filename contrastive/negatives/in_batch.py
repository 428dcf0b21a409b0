"""The other images of the batch as negatives."""

from __future__ import annotations

from typing import Literal

from contrastive.parts import Negatives


class InBatch(Negatives):
    """The other images of the batch.

    Args:
        views: ``all`` offers all their views (SimCLR: 2N - 2 negatives for two views), ``other`` only
            views other than the query's (MoCo v3: N - 1).
    """

    def __init__(self, views: Literal["all", "other"] = "all"):
        super().__init__()
        self.views = views

    def offers(self, query_view: int, key_view: int) -> bool:
        return self.views == "all" or query_view != key_view
