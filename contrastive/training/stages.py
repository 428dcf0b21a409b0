"""The stages of a step: the one seam through which ``contrastive profile`` times training.

Engine, backward passes and method enter a stage by its name. In a run the stages do nothing; the profiler
sets ``method.stages`` to a stopwatch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from torch import Tensor

Item = TypeVar("Item")
_NOTHING = nullcontext()


class Stages:
    """Stages that nobody times."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """What happens within it belongs to the stage ``name``; time within an inner stage is the inner's."""
        return _NOTHING

    def each(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """The items; waiting for one of them is a stage."""
        iterator = iter(items)
        while True:
            with self.stage(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def turn_at_gradient(self, tensors: Iterable[Tensor], name: str) -> None:
        """A backward pass ends the present stage and begins ``name`` when it reaches one of the tensors."""
