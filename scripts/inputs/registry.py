"""Every case, in the order of the lettered faults."""

from __future__ import annotations

from inputs import columns, continuation, exports, files, labels, pixels, splits, strangers, weights
from inputs.case import FAULTS, Case

_MODULES = (splits, labels, columns, pixels, files, exports, weights, continuation, strangers)
CASES: tuple[Case, ...] = tuple(
    sorted(
        (case for module in _MODULES for case in module.CASES), key=lambda case: [*FAULTS].index(case.fault)
    )
)
