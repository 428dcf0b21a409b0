"""Labels that disagree with what the other images suggest, by the linear probe.

Shape letters: n rows of a table, m labelled ones, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from contrastive.curation.features import FeatureTable
from contrastive.errors import UsageError
from contrastive.protocols import LinearProbe
from contrastive.rng import hash_ids
from contrastive.values import Features

#: Parts into which the labelled images are divided; each is predicted from the others.
FOLDS = 5


@dataclass(frozen=True)
class LabelRanking:
    """Labelled images, the most suspicious label first.

    Attributes:
        rows: [m] int64, rows of the table.
        label_probability: [m], of the given label.
        suggestion: [m] int64, the most probable other class.
        suggestion_probability: [m].
        margin: [m], log of the first probability over the second: below 0 the other class is more probable.
        without_rank: labelled images whose class has images in one fold only, so that nothing predicts it.
        l2: strength of the penalty of the probe.
    """

    rows: np.ndarray
    label_probability: np.ndarray
    suggestion: np.ndarray
    suggestion_probability: np.ndarray
    margin: np.ndarray
    without_rank: int
    l2: float

    def __len__(self) -> int:
        return len(self.rows)


def rank_labels(table: FeatureTable) -> LabelRanking:
    """Labelled images of all splits, ranked by how much the probe doubts their labels.

    The images are divided into five folds by a hash of their ids. The probabilities of each fold are those
    of the linear probe that is fitted on the other four, so no image votes for its own label. The strength of
    the penalty is chosen once, on the first fold. The margin is that of confident learning (Northcutt, Jiang
    and Chuang 2021, section 3), as a logarithm.

    Raises:
        UsageError: fewer than two classes have labels.
        ContrastiveError: a feature is not finite.
    """
    rows = np.flatnonzero(table.labels >= 0)
    classes = np.unique(table.labels[rows])
    if len(classes) < 2:
        problem = "no image has a label" if not len(classes) else "all labels are the same"
        raise UsageError(
            f"{problem}, so labels cannot disagree; name data with labels of two classes or more."
        )
    labels = torch.from_numpy(table.labels[rows])
    images = Features(table.vectors[torch.from_numpy(rows)], labels, torch.arange(len(rows)))
    folds = torch.from_numpy((hash_ids(table.keys[rows], "fold") % np.uint64(FOLDS)).astype(np.int64))
    l2 = _strength(images, folds == 0)
    columns = torch.searchsorted(torch.from_numpy(classes), labels)
    logs = torch.full((len(rows), len(classes)), torch.nan, dtype=torch.float64)
    for fold in range(FOLDS):
        fit = _some(images, folds != fold)
        if (folds == fold).any() and len(fit.labels.unique()) > 1:
            classifier = LinearProbe().fit(l2, fit)
            own = classifier.log_probabilities(images.vectors[folds == fold])  # [m, some of K]
            block = logs[folds == fold]
            block[:, torch.searchsorted(torch.from_numpy(classes), classifier.labels)] = own
            logs[folds == fold] = block
    return _ranking(rows, columns, classes, logs, l2)


def _some(images: Features, mask: Tensor) -> Features:
    return Features(images.vectors[mask], images.labels[mask], images.ids[mask])


def _strength(images: Features, validates: Tensor) -> float:
    """The strength of the penalty that is best for some images, fitted on the others."""
    probe = LinearProbe()
    fit, validation = _some(images, ~validates), _some(images, validates)
    if not len(validation) or len(fit.labels.unique()) < 2:
        return probe.default
    return probe.choose(fit, validation)[0]


def _ranking(rows: np.ndarray, own: Tensor, classes: np.ndarray, logs: Tensor, l2: float) -> LabelRanking:
    """The ranking by log probabilities [m, K], NaN of classes that nothing predicts; ``own`` are columns."""
    own_log = logs.gather(1, own[:, None])[:, 0]
    others = logs.nan_to_num(nan=-torch.inf).scatter(1, own[:, None], -torch.inf)
    best, column = others.max(1)
    has_rank = (~own_log.isnan() & best.isfinite()).numpy()
    margin = (own_log - best).numpy()
    order = np.flatnonzero(has_rank)
    order = order[np.argsort(margin[order], kind="stable")]
    return LabelRanking(
        rows[order],
        own_log.exp().numpy()[order],
        classes[column.numpy()[order]],
        best.exp().numpy()[order],
        margin[order],
        int((~has_rank).sum()),
        l2,
    )
