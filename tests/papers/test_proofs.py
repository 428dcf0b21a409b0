"""The shipped recipes that compare whole images against plain scripts: loss and weights of three steps."""

from __future__ import annotations

from pathlib import Path

import equality_table
import pytest

from contrastive.recipe import shipped_recipes
from tests.papers.proofs import MISSING, PROOFS

#: Recipes on the sample or on a folder that are no methods of their own.
OTHERS = {"photos": "SimCLR on photographs", "photos_progressive": "SimCLR on photographs"}


@pytest.mark.parametrize("name", PROOFS)
def test_three_steps_equal_the_script(name: str):
    PROOFS[name].run(name)


def test_every_shipped_method_has_a_proof(tmp_path: Path):
    methods = {name for name in shipped_recipes() if "/" not in name} - OTHERS.keys()
    assert {row.recipe for row in equality_table.rows(tmp_path)} == methods


def test_the_page_has_the_rows_of_the_table(tmp_path: Path):
    """Its figures are of the machine that wrote it with ``scripts/equality_table.py --page``."""
    lines = equality_table.PAGE.read_text(encoding="utf-8").splitlines()
    page = [line.rsplit("|", 3)[0] for line in lines if line.startswith("| `")]
    assert page == [f"| `{row.recipe}` | {row.paper} | {row.link} " for row in equality_table.rows(tmp_path)]


def test_no_method_waits_for_its_recipe():
    assert not [name for name in MISSING if name in shipped_recipes()], "its recipe is here: compare it"
