"""Remedies of messages about advice."""

from __future__ import annotations

from pathlib import Path

import pytest

from contrastive.commands.advise import dataset_recipe, look_at, open_data, require_free
from contrastive.registry import load_registry
from tests.remedies.images import tree
from tests.support.remedies import Remedy


def data_set(text: str) -> None:
    dataset_recipe(text, load_registry())


def out(folder: str) -> None:
    """Recipes are to be written into this folder."""
    Path("full").mkdir(exist_ok=True)
    Path("full", "file").touch()
    require_free(Path(folder))


def images(content: bytes | None) -> None:
    """A folder whose only image has this content; None: that of an image."""
    tree("a.png")
    if content is not None:
        Path("d", "a.png").write_bytes(content)
    recipe = dataset_recipe("d", load_registry())
    look_at(recipe, open_data(recipe), "cpu", 1)


REMEDIES = [
    Remedy("commands/advise.py", "is not YAML; name", data_set, "{name: [", "fashion_mnist_sample"),
    Remedy("commands/advise.py", "exists and is not empty", out, "full", "new"),
    Remedy("commands/advise.py", "that were tried decodes", images, b"\x89PNG\r\n\x1a\n", None),
]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
