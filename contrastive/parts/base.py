"""The base class of each kind of part: what a plugin author derives from.

A part's recipe parameters are the typed keyword arguments of its ``__init__`` (annotations and
defaults are all there is; no config class). A parameter annotated with one of these base classes
takes a part. Parameters marked :class:`contrastive.kinds.Injected` come from the builder.
The first line of the class docstring is what ``contrastive list`` prints; an ``Args:`` section is
what ``contrastive show`` prints beside each parameter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from contrastive.comparison import Comparison
from contrastive.values import Progress

#: What a part may declare that it needs of the composition -> what a recipe lacks that does not give it.
NEEDS: dict[str, str] = {
    "negatives": "collapses without negatives, and none are offered; say negatives: in_batch",
    "labels": "needs labels; say positives: label",
    "predictor": "collapses without a predictor; say for example predictor: {name: mlp}",
    "detached_keys": "collapses where gradients reach the keys; say target: ema, or target: stop_grad",
    "single_positive": "needs exactly one positive a row; say positives: image, and pair each query with "
    "one view",
    "validation": "reads validation figures, and there are none; it needs labels, evaluate.every above 0 "
    "and a protocol with at: every, such as evaluate: {every: 1, knn: {}}",
    "processes": "trains in several processes only; run with --processes 2, or more",
}


class Part:
    """What every part has.

    Attributes:
        kind: the kind of part.
        needs: what the composition must give, keys of :data:`NEEDS`; a recipe that does not is refused.
    """

    kind: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def example(cls, folder: Path) -> dict[str, Any]:
        """Recipe parameters with which the conformance kit builds the part, where defaults do not suffice.

        ``folder`` is empty, and may take what they name (a data set's images, for example).
        """
        return {}


class StepPart(Part, nn.Module):
    """A part that is a torch module, and what it may do at each step.

    State belongs into buffers and parameters, so that it is in ``state_dict``. All three methods run
    without gradients, on every process; ``progress`` is the same in all of a step.
    """

    def before_step(self, progress: Progress) -> None:
        """Called when the gradients are there, before the optimizer takes its step."""

    def after_batch(self, comparison: Comparison) -> None:
        """Called once per micro-batch, after the step it was part of was really taken (queues, centres).

        A target finds the keys that it made in ``comparison.target_keys``.
        """

    def after_step(self, progress: Progress) -> None:
        """Called once an optimizer step that was really taken (moving averages)."""
