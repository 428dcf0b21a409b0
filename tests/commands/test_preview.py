"""``contrastive preview``: a picture of views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contrastive.cli import main
from contrastive.errors import UsageError
from contrastive.recipe import load_recipe, require_outside_data
from contrastive.registry import load_registry
from tests.support.command_line import refused

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_preview_draws_a_picture(tiny_recipe: Path):
    assert main(["preview", str(tiny_recipe), "--out", "views.png"]) == 0
    with Image.open("views.png") as picture:
        assert min(picture.size) > 100
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 100


def test_preview_replaces_nothing_but_pictures(
    tiny_recipe: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
):
    Path("r.yaml").write_text(tiny_recipe.read_text())
    before = Path("r.yaml").read_bytes()
    message = refused(capsys, "preview", "r.yaml", "--out", "r.yaml")
    assert "exists and is not a picture that preview wrote, so it is not replaced" in message
    assert Path("r.yaml").read_bytes() == before
    picture = next(tiny_data.rglob("*.png"))
    for out in (picture, picture.with_name("new.png"), tiny_data / "views.png"):
        assert "belongs to the data set" in refused(capsys, "preview", "r.yaml", "--out", str(out))
        assert out == picture or not out.exists()
    Path("views").mkdir()
    assert "is a folder" in refused(capsys, "preview", "r.yaml", "--out", "views")
    for _ in range(2):
        assert main(["preview", "r.yaml", "--out", "views.png"]) == 0


def test_files_of_tables_and_patterns_belong_to_the_data_set():
    part = "dataset: {name: parquet, train: 'd/*.parquet', test: t.parquet}\n"
    Path("r.yaml").write_text(part + "augmentation: {name: simclr, size: 16}\nloss: nt_xent\n")
    recipe = load_recipe("r.yaml", (), load_registry())
    for out in ("t.parquet", "./t.parquet", "d/new.parquet"):
        with pytest.raises(UsageError, match="belongs to the data set"):
            require_outside_data(Path(out), recipe)
    require_outside_data(Path("d.parquet"), recipe)
