"""What environment.json says of the code that a run was trained with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from contrastive.versions import core_version, git_commit, versions

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_a_checkout_knows_its_commit():
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert git_commit() == head.stdout.strip()


def test_versions_name_the_framework_and_what_may_change_metrics():
    assert versions()["contrastive-framework"] == core_version()
    assert {"torch", "timm", "accelerate"} <= versions().keys()
