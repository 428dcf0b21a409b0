"""Every remedy is followed in a folder of its own, next to a tiny recipe."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.attempts import TINY


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(tiny_recipe, TINY)
    return tmp_path
