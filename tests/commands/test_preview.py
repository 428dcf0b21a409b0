"""``contrastive preview``: a picture of views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contrastive.cli import main

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_preview_draws_a_picture(tiny_recipe: Path):
    assert main(["preview", str(tiny_recipe), "--out", "views.png"]) == 0
    with Image.open("views.png") as picture:
        assert min(picture.size) > 100
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 100
