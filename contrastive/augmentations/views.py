"""Each view with an augmentation of its own."""

from __future__ import annotations

from contrastive.errors import UsageError
from contrastive.parts import Augmentation, ViewPipeline


class Views(Augmentation):
    """Each view an augmentation of its own.

    Args:
        of: one augmentation a view; of each, its first pipeline is taken.
    """

    def __init__(self, of: list[Augmentation]):
        if not of:
            raise UsageError("views needs at least one augmentation in 'of'.")
        self._of = list(of)

    def pipelines(self) -> list[ViewPipeline]:
        """One pipeline an entry of ``of``."""
        return [augmentation.pipelines()[0] for augmentation in self._of]
