"""The base classes of all parts, and what a part may need from the composition.

A part's recipe parameters are the typed keyword arguments of its ``__init__``: annotations and
defaults, no config class. A parameter annotated with the base class of a kind takes a part. Parameters
marked :class:`contrastive.kinds.Injected` come from the builder. ``contrastive list`` prints the first
line of the class docstring, and ``contrastive show`` prints the ``Args:`` section next to each parameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from contrastive.comparison import Comparison
from contrastive.values import Progress

#: What a part may need from the composition -> the error if a recipe does not provide it.
NEEDS: dict[str, str] = {
    "negatives": "collapses without negatives, and none are offered; set negatives: in_batch",
    "labels": "needs labels; set positives: label",
    "predictor": "collapses without a predictor; set for example predictor: {name: mlp}",
    "detached_keys": "collapses if gradients reach the keys; set target: ema, or target: stop_grad",
    "single_positive": "needs exactly one positive per row; set positives: image, and pair each query with "
    "one view",
    "memories": "compares with keys of earlier batches, and no negatives hold any; set negatives: queue",
    "patches": "compares the patches of an image; write it in an objective with level: patch",
    "validation": "reads validation metrics, and there are none; they need labels of two classes or more "
    "among the images that validate and among the others, evaluate.every above 0 and a protocol with "
    "at: every, such as evaluate: {every: 1, knn: {}}",
    "processes": "trains only in several processes; run with --processes 2 or more",
}


class Part:
    """The base class of every part.

    Attributes:
        kind: the kind of part.
        needs: what the composition must provide, keys of :data:`NEEDS`; otherwise the recipe is refused.
    """

    kind: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def example(cls, folder: Path) -> dict[str, Any]:
        """Recipe parameters with which the conformance kit builds the part, if defaults do not suffice.

        ``folder`` is empty; write the files there that they name (a data set's images, for example).
        """
        return {}


class StepPart(Part, nn.Module):
    """A part that is a torch module and may act at each step.

    Keep state in buffers and parameters, so that it is in ``state_dict``. All three methods run without
    gradients, on every process; ``progress`` is the same in all calls of a step.

    Attributes:
        notes: sentences about how it was built that a run and ``contrastive check`` print, such as which of
            several networks in a file its weights come from.
        growing: names of its buffers whose size changes during a run, such as that of a queue which is not
            full yet. A checkpoint decides their size.
    """

    notes: tuple[str, ...] = ()
    growing: frozenset[str] = frozenset()

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *options: Any) -> None:
        for name in self.growing:
            if prefix + name in state_dict:
                buffer = self.get_buffer(name)
                setattr(self, name, buffer.new_empty(state_dict[prefix + name].shape))
        super()._load_from_state_dict(state_dict, prefix, *options)

    def before_step(self, progress: Progress) -> None:
        """Called after the gradients are computed, before the optimizer takes its step."""

    def after_batch(self, comparison: Comparison) -> None:
        """Called once per micro-batch of a step, after the step; not if it was skipped (queues, centres).

        A target finds its own keys in ``comparison.target_keys``.
        """

    def after_step(self, progress: Progress) -> None:
        """Called once per optimizer step, after it; not if it was skipped (moving averages)."""
