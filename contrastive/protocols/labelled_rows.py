"""The labelled images of several parts as one table of features, read in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from contrastive.errors import ContrastiveError, UsageError
from contrastive.text import quantity
from contrastive.values import Features

#: Values of a chunk of features, if nothing else limits it (4 MiB of float32).
CHUNK = 1 << 20


@dataclass(frozen=True)
class LabelledRows:
    """Features and labels of the images whose label is known (not -1), part after part.

    Attributes:
        parts: features [m, F] of each part, and which of its rows are meant: int64, or None for all.
        labels: int64 [n], of all rows.
    """

    parts: Sequence[tuple[Tensor, Tensor | None]]
    labels: Tensor

    @classmethod
    def of(cls, protocol: str, role: str, *parts: Features) -> LabelledRows:
        """The labelled images of ``parts``.

        Args:
            protocol: recipe name of the protocol, for messages.
            role: what the images are for: ``fit``, ``validation``, ``test``.

        Raises:
            UsageError: no image of ``parts`` has a label.
            ContrastiveError: a feature is not finite.
        """
        tables, labels = [], []
        for part in [part for part in parts if len(part)] or parts[:1]:
            has_label = part.labels >= 0
            index = None if has_label.all() else has_label.nonzero()[:, 0]
            # Not on mps, which has no float64, in which protocols sum and solve.
            device = "cpu" if part.vectors.device.type == "mps" else part.vectors.device
            tables.append((part.vectors.to(device), None if index is None else index.to(device)))
            labels.append((part.labels if index is None else part.labels[index]).to(device))
        rows = cls(tables, torch.cat(labels))
        if not len(rows):
            raise UsageError(
                f"{protocol}: none of the {quantity(sum(map(len, parts)), f'{role} image')} has a label; "
                f"remove '{protocol}' from 'evaluate', or give it labelled data."
            )
        if not rows._are_finite():
            raise ContrastiveError(
                f"{protocol}: the features of the {role} images are not finite; training diverged."
            )
        return rows

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def width(self) -> int:
        """F."""
        return self.parts[0][0].shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the features of all rows."""
        return len(self) * self.width * self.parts[0][0].element_size()

    def chunks(self, size: int) -> Iterator[Tensor]:
        """The features in order, at most ``size`` rows at a time; they may share memory with the parts."""
        for vectors, index in self.parts:
            if index is None:
                yield from vectors.split(size)
            else:
                yield from (vectors[some] for some in index.split(size))

    def labelled_chunks(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """:meth:`chunks` with their labels."""
        start = 0
        for chunk in self.chunks(size):
            yield chunk, self.labels[start : start + len(chunk)]
            start += len(chunk)

    def in_one(self) -> Tensor:
        """The features of all rows, [n, F]: those of a single part if all its rows are meant, else a copy."""
        if len(self.parts) == 1 and self.parts[0][1] is None:
            return self.parts[0][0]
        return self.copy()

    def copy(self, of: Callable[[Tensor], Tensor] = torch.Tensor.detach) -> Tensor:
        """The features of all rows in memory of their own, [n, F], or what ``of`` makes of each chunk."""
        table = self.parts[0][0].new_empty(len(self), self.width)
        start = 0
        for chunk in self._small_chunks():
            table[start : start + len(chunk)] = of(chunk)
            start += len(chunk)
        return table

    def _small_chunks(self) -> Iterator[Tensor]:
        return self.chunks(max(1, CHUNK // self.width))

    def _are_finite(self) -> bool:
        """Whether all features are; least and greatest both carry a NaN on."""
        extremes = [torch.stack(chunk.aminmax()) for chunk in self._small_chunks()]
        return bool(torch.stack(extremes).isfinite().all())
