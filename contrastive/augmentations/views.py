"""Pipelines put together from operations: a list of them, and one a view."""

from __future__ import annotations

from contrastive.augmentations.pipeline import Operation, Pipeline
from contrastive.errors import UsageError
from contrastive.parts import Augmentation


class Sequence(Augmentation):
    """Operations in order, drawn for two views: what a list in a recipe stands for.

    Args:
        operations: at least one; a crop costs least as the first.

    Raises:
        UsageError: where an entry is a whole augmentation rather than an operation.
    """

    def __init__(self, operations: list[Operation]):
        for entry in operations:
            if not isinstance(entry, Operation):
                raise UsageError(
                    f"{type(entry).__name__} is a whole augmentation, not an operation; "
                    "name it alone, without a list."
                )
        self._operations = list(operations)

    def pipelines(self) -> list[Pipeline]:
        """Two equal pipelines."""
        return [Pipeline(self._operations) for _ in range(2)]


class Views(Augmentation):
    """Each view an augmentation of its own.

    Args:
        of: one augmentation a view; of each, its first pipeline is taken.
    """

    def __init__(self, of: list[Augmentation]):
        if not of:
            raise UsageError("views needs at least one augmentation in 'of'.")
        self._of = list(of)

    def pipelines(self) -> list[Pipeline]:
        """One pipeline an entry of ``of``."""
        return [augmentation.pipelines()[0] for augmentation in self._of]
