"""What scripts put into pages of docs/: marked sections, and the tables of the studies."""

from __future__ import annotations

from pathlib import Path

import pytest
import study_tables
from pages import put

from contrastive.commands.compare.candidates import gather, plan
from contrastive.commands.compare.findings import analyse
from contrastive.registry import load_registry
from tests.support.fake_runs import write_runs

RESULTS = Path(__file__).parents[1] / "docs" / "results.md"


def test_a_section_is_replaced_and_the_rest_stays():
    page = "a\n<!-- one -->\nold\n<!-- /one -->\n<!-- two -->\nkept\n<!-- /two -->\nb\n"
    filled = put(page, "one", "new \\1\n")
    assert filled == page.replace("old", "new \\1")
    assert put(filled, "one", "old\n") == page
    with pytest.raises(ValueError, match="no <!-- three -->"):
        put(page, "three", "new\n")


def test_every_study_has_its_place_among_the_results():
    text = RESULTS.read_text()
    for file in (RESULTS.parents[1] / "recipes" / "studies").glob("*.yaml"):
        if file.stem != "base":  # what they share
            put(text, f"study: {file.stem}", "")  # raises where it has none


def test_a_table_says_where_its_figures_come_from(tmp_path):
    runs, commit = tmp_path / "runs", {"git_commit": "0123456789abcdef"}
    folders = write_runs(runs, "head-mlp", [0.80, 0.82, 0.81], environment=commit)
    folders += write_runs(runs, "head-none", [0.70, 0.71, 0.73], environment=commit)
    candidates = plan(folders, 1, load_registry())
    lines = study_tables.table(analyse(candidates, gather(candidates)), tmp_path).splitlines()
    assert lines[0] == "| recipe | knn top1 | to mlp | linear top1 |"
    assert lines[2] == "| `mlp` | 81.0 % ± 2.5 |  | 81.0 % ± 2.5 |"
    assert lines[3].startswith("| `none` | 71.3 % ± 3.8 | -9.7 ± 3.8 worse, p 0.008 | ")
    assert lines[-1].startswith("knn top1 of 1,000 images of test, 3 seeds; untrained 40.0 %. Wall time of")
    assert "commit 0123456; fingerprints of the first seed: mlp " in lines[-1]


def test_recipes_of_no_study_keep_their_names_in_a_table(tmp_path):
    runs, commit = tmp_path / "runs", {"git_commit": "0123456789abcdef"}
    folders = [
        *write_runs(runs, "mae-vit", [0.8], environment=commit),
        *write_runs(runs, "dino-vit", [0.7], environment=commit),
    ]
    candidates = plan(folders, 1, load_registry())
    table = study_tables.table(analyse(candidates, gather(candidates)), tmp_path)
    assert "| `mae-vit` |" in table
    assert "| `dino-vit` |" in table


def test_an_encoder_from_elsewhere_has_a_line_but_no_runs(tmp_path):
    folders = write_runs(tmp_path / "runs", "adapted", [0.8], environment={"git_commit": "0123456789abcdef"})
    candidates = plan(folders, 1, load_registry())
    comparison = analyse(candidates, gather(candidates))
    [row] = comparison["recipes"]
    comparison["recipes"] = [row, {**row, "name": "resnet18.a1_in1k", "stock": {}, "runs": {0: "encoders/a"}}]
    lines = study_tables.table(comparison, tmp_path).splitlines()
    assert lines[3].startswith("| `resnet18.a1_in1k` | 80.0 %")
    assert "commit 0123456; fingerprints of the first seed: adapted " in lines[-1]
    assert lines[-1].count("resnet18") == 0
