"""The stages of a step: the one seam through which ``contrastive profile`` times training.

Engine, backward passes and method enter a stage by its name. In a run the stages do nothing; the profiler
sets ``method.stages`` to a stopwatch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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


class StageStack(Stages):
    """The stages that are open, innermost last; a subclass measures between the changes.

    Attributes:
        stages: their names; outside all of them the stage is ``other``.
    """

    def __init__(self) -> None:
        self.stages = ["other"]

    @property
    def current(self) -> str:
        """The innermost open stage."""
        return self.stages[-1]

    def before_change(self) -> None:
        """Called before another stage becomes the current one."""

    def enter(self, stage: str) -> None:
        """Begin a stage within the current one."""
        self.before_change()
        self.stages.append(stage)

    def leave(self) -> None:
        """End the current stage."""
        self.before_change()
        self.stages.pop()

    def turn(self, stage: str) -> None:
        """End the current stage and begin another one instead."""
        self.leave()
        self.enter(stage)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Within the block, ``name`` is the current stage."""
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    def turn_at_gradient(self, tensors: Iterable[Tensor], name: str) -> None:
        """End the current stage and begin ``name`` when a backward pass reaches one of the tensors."""
        for tensor in tensors:
            if tensor.requires_grad:
                tensor.register_hook(lambda _: self.turn(name))
