"""A clock that only the work of a run moves on, so that what a run takes is known exactly.

``python -m tests.support.fake_clock ...`` is the command line by such a clock, which is three times as fast
in every process of a run but the first.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from contrastive.cli import main
from contrastive.evaluation import Evaluation
from contrastive.training import Checkpoints
from contrastive.training.gradients import OnePass


@dataclass
class FakeClock:
    """Seconds that work takes; ``seconds`` have passed so far.

    Attributes:
        batch, pixel: a batch takes ``batch`` and, for every pixel of the views of an image, ``pixel``.
        evaluation, checkpoint: each one during training.
        final, raw, views: the final evaluation of one encoder, of raw pixels, and of views.
        slowness: factor of all of them.
    """

    batch: float = 1.0
    pixel: float = 0.0
    evaluation: float = 3.0
    checkpoint: float = 0.5
    final: float = 4.0
    raw: float = 2.0
    views: float = 1.5
    slowness: float = 1.0
    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds

    def work(self, seconds: float) -> None:
        self.seconds += seconds * self.slowness

    @contextmanager
    def running(self) -> Iterator[FakeClock]:
        """Within it ``time.perf_counter`` is this clock."""
        with ExitStack() as patches:
            patches.enter_context(mock.patch.object(time, "perf_counter", self))
            for owner, name, seconds in (
                (Evaluation, "during", lambda: self.evaluation),
                (Evaluation, "final", lambda: self.final),
                (Evaluation, "pixels", lambda: self.raw),
                (Evaluation, "label_free", lambda: self.views),
                (Checkpoints, "save", lambda: self.checkpoint),
            ):
                patches.enter_context(mock.patch.object(owner, name, self._timed(owner, name, seconds)))
            patches.enter_context(mock.patch.object(OnePass, "backward", self._backward()))
            yield self

    def _timed(self, owner: type, name: str, seconds: Callable[[], float]) -> Callable[..., Any]:
        method = getattr(owner, name)

        def timed(*arguments: Any, **keywords: Any) -> Any:
            self.work(seconds())
            return method(*arguments, **keywords)

        return timed

    def _backward(self) -> Callable[..., Any]:
        backward = OnePass.backward

        def timed(passes: OnePass, batch: Any, augment: Any, *rest: Any) -> Any:
            def views(part: Any) -> Any:
                made = augment(part)
                self.work(self.batch + self.pixel * sum(view.data[0, 0].numel() for view in made))
                return made

            return backward(passes, batch, views, *rest)

        return timed


if __name__ == "__main__":
    with FakeClock(slowness=1.0 if os.environ.get("RANK", "0") == "0" else 1 / 3).running():
        sys.exit(main())
