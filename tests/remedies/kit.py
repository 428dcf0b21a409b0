"""A check of the conformance kit as a remedy, and parts that are whole."""

from __future__ import annotations

import torch

from contrastive.parts import Loss, Protocol
from contrastive.protocols import KNN
from tests.support.attempts import verdict
from tests.support.remedies import Remedy


def case(rules: str, words: str, check: str, wrong: type, right: type) -> Remedy:
    """A part that fails a check, and the same part with the remedy."""
    return Remedy(f"rules/{rules}.py", words, verdict(check), lambda: wrong, lambda _: right)


class WholeLoss(Loss):
    """The squared distance of the pairs."""

    def compare(self, comparison):
        return torch.stack([2 - 2 * (q * k).sum(1) for q, k in comparison.aligned()]).sum(0)


class WholeProtocol(Protocol):
    """kNN that is whole."""

    version = 1

    def score(self, fit, validation, test=None):
        return KNN(5).score(fit, validation, test)
