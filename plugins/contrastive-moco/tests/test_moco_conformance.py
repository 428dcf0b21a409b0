"""The plugin passes the conformance kit, like any other."""

from __future__ import annotations

import pytest

import contrastive.testing

#: The check of the import starts a process, which takes seconds.
CHECKS = [
    pytest.param(check, marks=[pytest.mark.ci] * (check.check.name == "import"))
    for check in contrastive.testing.checks("contrastive-moco")
]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conformance(check):
    check()
