"""A separate augmentation for each view."""

from __future__ import annotations

from contrastive.errors import UsageError
from contrastive.parts import Augmentation, ViewPipeline


class Views(Augmentation):
    """A separate augmentation for each view.

    Args:
        of: one augmentation per view; the view uses its first pipeline. ``{crop_of: 0, pipeline: [...]}``
            shows the place that view 0 shows.
    """

    def __init__(self, of: list[Augmentation]):
        if not of:
            raise UsageError("views needs at least one augmentation in 'of'.")
        self._of = list(of)

    def pipelines(self) -> list[ViewPipeline]:
        """One pipeline per entry of ``of``."""
        views: list[ViewPipeline] = []
        for augmentation in self._of:
            views.append(augmentation.view_after(views))
        return views
