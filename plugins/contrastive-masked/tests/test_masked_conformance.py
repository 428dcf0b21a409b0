"""The plugin passes the conformance kit, like any other."""

from __future__ import annotations

import pytest

import contrastive.testing


@pytest.mark.parametrize("check", contrastive.testing.checks("contrastive-masked"), ids=str)
def test_conformance(check):
    check()
