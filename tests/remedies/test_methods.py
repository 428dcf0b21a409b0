"""Remedies of messages about methods."""

from __future__ import annotations

from typing import Any

import pytest

from contrastive.commands.methods import list_methods, source_text
from contrastive.registry import Registry, load_registry
from tests.support.remedies import Remedy


def source_of_moco(registry: Registry) -> Any:
    """What `list methods` prints of MoCo, if a plugin of it is missing."""
    method = next(method for method in list_methods(registry) if method["name"] == "moco_v2")
    return source_text(method) if method["missing"] else None


REMEDIES = [
    Remedy(
        "commands/methods.py",
        "not installed: pip install",
        source_of_moco,
        lambda: load_registry(plugins=False),
        lambda _: load_registry(),
    ),
]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
