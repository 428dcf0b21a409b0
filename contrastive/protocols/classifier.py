"""A linear classifier of features that a probe has fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from contrastive.protocols.labelled_rows import LabelledRows
from contrastive.protocols.regression import Probe, Problem

#: Values of logits that are held at a time.
_CHUNK = 1 << 22


@dataclass(frozen=True)
class LinearClassifier:
    """Probabilities of classes from features.

    Attributes:
        probe: features [n, F] -> logits [n, K].
        labels: [K] int64, ascending: the label of each column.
    """

    probe: Probe
    labels: Tensor

    @classmethod
    def of(cls, rows: LabelledRows, l2: float) -> LinearClassifier:
        """The optimum on labelled rows at strength ``l2`` of the penalty."""
        labels, columns = rows.labels.unique(return_inverse=True)
        return cls(Problem.of(rows, columns, len(labels)).solve(l2), labels)

    def log_probabilities(self, h: Tensor) -> Tensor:
        """Features [n, F] -> logarithms of probabilities, float64 [n, K]."""
        size = max(1, _CHUNK // len(self.labels))
        chunks = [self.probe.logits(part.to(self.probe.mean)).double() for part in h.split(size)]
        return torch.cat(chunks).log_softmax(1)

    def tensors(self) -> dict[str, Tensor]:
        """Its values by name, as :meth:`from_tensors` takes them: float32, labels int64."""
        values = {name: getattr(self.probe, name).float() for name in ("mean", "scale", "weight", "bias")}
        return {
            **{name: value.cpu().contiguous() for name, value in values.items()},
            "labels": self.labels.cpu(),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> LinearClassifier:
        """The classifier of :meth:`tensors`. Raises KeyError if one is missing."""
        probe = Probe(*(tensors[name] for name in ("mean", "scale", "weight", "bias")))
        return cls(probe, tensors["labels"])
