"""Losses that declare what they need, and read it."""

from __future__ import annotations

from contrastive.parts import Loss


class NeedsLabels(Loss):
    """Reads which images share a label."""

    needs = frozenset({"labels"})

    def compare(self, comparison):
        return comparison.rows(1.0).positives.lse[0]


class OnePositive(Loss):
    """Knows what to do with one positive per row."""

    needs = frozenset({"negatives", "single_positive"})

    def compare(self, comparison):
        return comparison.rows(1.0).negatives.lse[0] - comparison.rows().positives.mean
