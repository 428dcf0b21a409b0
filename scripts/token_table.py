"""The table of tokens in docs/backbones.md: what networks of timm give at level patch, measured.

python scripts/token_table.py docs/backbones.md

builds every network with random weights, at two sizes; nothing is downloaded. It takes some minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from pages import put

from contrastive.backbones import Timm
from contrastive.backbones.probe import OTHER_SIZE
from contrastive.build.reach import leaks
from contrastive.errors import UsageError
from contrastive.parts import Hiding
from contrastive.views import Marks, View

MARK = "tokens"
SIZES = (224, 96)  # pixels, unless a model says otherwise
#: Model -> its two sizes.
MODELS: dict[str, tuple[int, int]] = {
    "vit_tiny_patch16_224": SIZES,
    "vit_base_patch16_gap_224": SIZES,
    "vit_small_patch14_reg4_dinov2": (224, 98),
    "vit_small_patch16_dinov3": SIZES,
    "vit_relpos_small_patch16_224": SIZES,
    "deit_tiny_patch16_224": SIZES,
    "deit_tiny_distilled_patch16_224": SIZES,
    "deit3_small_patch16_224": SIZES,
    "eva02_tiny_patch14_224": (224, 98),
    "beit_base_patch16_224": SIZES,
    "cait_xxs24_224": SIZES,
    "volo_d1_224": SIZES,
    "crossvit_tiny_240": (240, 480),
    "xcit_nano_12_p16_224": SIZES,
    "levit_128s": SIZES,
    "swin_tiny_patch4_window7_224": (224, 112),
    "mvitv2_tiny": SIZES,
    "hiera_tiny_224": SIZES,
    "maxvit_tiny_rw_224": (224, 448),
    "efficientformer_l1": SIZES,
    "poolformer_s12": SIZES,
    "convnext_atto": SIZES,
    "resnet18": SIZES,
    "regnety_002": SIZES,
    "mobilenetv3_small_050": SIZES,
}


@dataclass(frozen=True)
class Row:
    """What a model gives for views of one size, or why it gives no tokens."""

    model: str
    size: int
    grid: tuple[int, int] = (0, 0)
    prefix: int = 0
    hides: tuple[Hiding, ...] = ()
    refusal: str = ""

    @property
    def answer(self) -> tuple[str, str]:
        """What two sizes of a model may share: prefix, and ways to hide or the reason of the refusal."""
        if self.refusal:
            return "", f"refused: it {self.refusal}"
        return str(self.prefix), ", ".join(self.hides) or "none"


def masked_view(size: int, grid: tuple[int, int]) -> View:
    """Two images of random pixels, of which every second patch is hidden, starting with different ones."""
    count = grid[0] * grid[1]
    mask = (np.arange(count) + np.arange(2)[:, None]) % 2 == 0
    if count % 2:  # every image hides the same number
        mask[:, -1] = True
    pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    return View(pixels, Marks.of_mask(mask))


def measure(model: str, size: int) -> Row:
    """The row of a model, with random weights, for views of ``size`` x ``size`` pixels."""
    torch.manual_seed(0)
    try:
        backbone = Timm(3, size, model).eval()
        with torch.no_grad():
            tokens = backbone.tokens(View(torch.rand(1, 3, size, size)))
    except UsageError as error:
        reason = str(error).partition(";")[0].removesuffix(f" {OTHER_SIZE}").removeprefix(f"{model} ")
        return Row(model, size, refusal=reason)
    if "replace" in backbone.hides:
        backbone.allow_replacing()
    view = masked_view(size, tokens.grid)
    ways: tuple[Hiding, ...] = ("drop", "replace")
    hides = tuple(way for way in ways if way in backbone.hides and not leaks(backbone, view, way))
    return Row(model, size, tokens.grid, tokens.prefix.shape[1], hides)


def lines(rows: Iterable[Row]) -> list[str]:
    """A line of the table for each model, or for each of its sizes if they differ in more than the grid."""
    table = []
    for (model, (prefix, hides)), some in groupby(rows, key=lambda row: (row.model, row.answer)):
        same = list(some)
        sizes = ", ".join(str(row.size) for row in same)
        grids = "" if same[0].refusal else ", ".join("{} x {}".format(*row.grid) for row in same)
        table.append(f"| `{model}` | {sizes} | {grids} | {prefix} | {hides} |")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python scripts/token_table.py", description=__doc__.splitlines()[0]
    )
    parser.add_argument("page", type=Path)
    page = parser.parse_args().page
    table = ["| model | pixels | grid | prefix | hides |", "|---|---|---|---|---|"]
    for model, sizes in MODELS.items():
        table += lines([measure(model, size) for size in sizes])
        print(table[-1], flush=True)
    page.write_text(put(page.read_text(), MARK, "\n".join(table) + "\n"))


if __name__ == "__main__":
    main()
