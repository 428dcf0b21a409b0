"""``contrastive preview``: a picture of views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contrastive.augmentations import Flip, Pipeline
from contrastive.cli import main
from contrastive.commands.preview import CELL, GAP, HEADER, MarkChoice, grid, preview
from contrastive.errors import UsageError
from contrastive.recipe import load_recipe, require_outside_data
from contrastive.registry import load_registry
from contrastive.views import Marks
from tests.support.command_line import refused
from tests.support.masked_recipes import recipe_of, write

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


def test_hidden_patches_are_grey_and_targets_outlined():
    mask, targets = torch.zeros(1, 4, dtype=torch.bool), torch.tensor([[[1]]])
    mask[0, 0] = True
    marks = Marks(mask=mask, targets=targets)
    pipeline = FixedMarks(marks)
    black = torch.zeros(3, 16, 16, dtype=torch.uint8)
    picture = np.asarray(grid([black], [0], [pipeline], 0, draws=1, choice=MarkChoice({0: (2, 2)})))
    left, top = GAP + CELL + GAP + 2 * GAP, HEADER + GAP
    view = picture[top : top + CELL, left : left + CELL].astype(int)  # one cell
    half = CELL // 2
    assert (view[:half, :half] > 100).all(), "hidden"
    assert (view[half:] == 0).all(), "visible"
    frame = view[:half, half:]
    assert frame[0].any(axis=-1).all()
    assert frame[:, -1].any(axis=-1).all()
    assert (frame[1:-1, 1:-1] == 0).all(), "only its outline is drawn"


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_box_of_a_view_shows_where_its_top_left_is(mirrored: bool):
    box = torch.tensor([[4.0, 0.0, 8.0, 16.0]], dtype=torch.float64)
    pipeline = FixedMarks(Marks(box=box, mirrored=torch.tensor([mirrored])))
    black = torch.zeros(1, 16, 16, dtype=torch.uint8)
    choice = MarkChoice({0: (2, 2)}, {0})
    picture = np.asarray(grid([black], [0], [pipeline], 0, draws=1, choice=choice))
    image = picture[HEADER + GAP :, GAP : GAP + CELL][:CELL].any(axis=-1)  # bool, what is drawn
    assert np.flatnonzero(image.any(1)).tolist() == list(range(CELL // 4, CELL * 3 // 4))
    below = image[CELL // 4 + 2]
    assert below[5] != mirrored
    assert below[-6] == mirrored


class FixedMarks(Pipeline):
    """Views that are the images, with marks of one's choice."""

    def __init__(self, marks: Marks):
        super().__init__([Flip(p=0.0)])
        self.fixed = marks

    def marks(self, *_) -> Marks:
        return self.fixed


@pytest.mark.parametrize(("name", "lines"), [("ijepa", 1), ("dense", 0)])
def test_preview_draws_the_marks_that_objectives_read(name: str, lines: int, tiny_data: Path):
    preview(write(Path("recipe.yaml"), recipe_of(tiny_data, name)), (), "views.png")
    with Image.open("views.png") as picture:
        assert picture.size[1] == (lines + 1) * HEADER + GAP + 6 * (CELL + GAP), "a legend"
