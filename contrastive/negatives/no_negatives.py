"""The absence of negatives."""

from __future__ import annotations

from contrastive.parts import Negatives


class NoNegatives(Negatives):
    """No negatives: for losses that compare only positives, or whole views."""

    stands_alone = True
