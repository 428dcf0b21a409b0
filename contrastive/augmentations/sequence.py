"""A list of operations as an augmentation."""

from __future__ import annotations

from contrastive.augmentations.pipeline import Operation, Pipeline
from contrastive.errors import UsageError
from contrastive.parts import Augmentation


class Sequence(Augmentation):
    """Operations in order, drawn for two views; a recipe writes it as a list.

    Args:
        operations: at least one; a crop costs least as the first.

    Raises:
        UsageError: an entry is a whole augmentation rather than an operation.
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
