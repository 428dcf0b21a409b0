"""``contrastive evaluate``: metrics of a finished run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import contrastive
from contrastive.cli import main
from contrastive.commands.evaluate import _select
from contrastive.errors import UsageError
from contrastive.registry import load_registry
from tests.support.command_line import json_of

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_evaluate_gives_the_figures_of_the_run(tiny_run: Path, capsys: pytest.CaptureFixture[str]):
    figures = json_of(capsys, "evaluate", str(tiny_run))
    assert figures["trained"] == contrastive.Run(tiny_run).summary["trained"]
    assert figures["split"] == "test"
    only = json_of(capsys, "evaluate", str(tiny_run), "--protocol", "knn", "--set", "evaluate.knn.k=3")
    assert set(only["trained"]) == {"knn_top1", "knn_balanced"}
    assert only["protocols"]["knn"]["k"] == 3


def test_evaluate_on_another_data_set(tiny_run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]):
    figures = json_of(capsys, "evaluate", str(tiny_run), "--set", f"dataset.root={tiny_data / 'train'}")
    assert figures["split"] == "validation"


@pytest.mark.parametrize(
    ("hint", "remedy"),
    [
        (None, "this data set has no labels. `contrastive embed` writes"),
        (
            "if column class holds them, set dataset.label_column=class",
            r"has no labels \(if column class holds them, set dataset.label_column=class\)\.",
        ),
    ],
)
def test_without_labels_the_columns_that_may_hold_them_are_named(hint: str | None, remedy: str):
    evaluation: Any = SimpleNamespace(
        protocols=[SimpleNamespace(name="knn")], final_omissions=lambda: {"knn": "no labels"}
    )
    with pytest.raises(UsageError, match=remedy):
        _select(evaluation, ["knn"], load_registry(), hint)


def test_k_beyond_the_images_is_reported(tiny_run: Path, capsys: pytest.CaptureFixture[str]):
    remark = "k is 120, the whole bank, which is smaller than 10,000"
    command = ["evaluate", str(tiny_run), "--protocol", "knn", "--set", "evaluate.knn.k=10000"]
    assert json_of(capsys, *command)["protocols"]["knn"]["remark"] == remark
    assert main(command) == 0
    assert f"knn: {remark}" in capsys.readouterr().out
    assert "remark" not in json_of(capsys, "evaluate", str(tiny_run), "--protocol", "knn")["protocols"]["knn"]
