"""What commands print next to their result."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from contrastive.cli import main
from tests.support.command_line import json_of

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def damaged_data(tmp_path: Path, tiny_data: Path) -> Path:
    """The data of the tiny run with one empty image in each split, and a file that is not an image."""
    root = tmp_path / "damaged"
    shutil.copytree(tiny_data, root)
    for split in ("train", "test"):
        folder = next(path for path in sorted((root / split).iterdir()) if path.is_dir())
        (folder / f"empty in {split}.png").write_bytes(b"")
    (root / "train" / "notes.txt").write_text("not an image")
    return root


@pytest.mark.parametrize("command", [("embed", "--out", "f.parquet"), ("evaluate", "--protocol", "knn")])
def test_what_is_left_out_is_named(
    command: tuple[str, ...], tiny_run: Path, damaged_data: Path, capsys: pytest.CaptureFixture[str]
):
    name, *options = command
    arguments = [name, str(tiny_run), *options, "--set", f"dataset.root={damaged_data}"]
    capsys.readouterr()
    assert main(arguments) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "warning: 2 images (" in text
    for split in ("train", "test"):
        assert f"empty in {split}.png: empty file" in text
    assert "could not be read and were left out" in text
    assert "skipped 1 file that is not an image" in text
    assert "notes.txt" in text
    result = json_of(capsys, *arguments)
    assert len(result["unreadable"]) == 2
    assert [Path(file).name for file in result["skipped_files"]] == ["notes.txt"]


def test_nothing_is_said_if_nothing_is_left_out(tiny_run: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["embed", str(tiny_run), "--out", "f.parquet"]) == 0
    text = capsys.readouterr().out
    assert "warning" not in text
    assert "skipped" not in text
