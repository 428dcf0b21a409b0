"""``contrastive check``: shapes, steps, memory, and mistakes of several recipes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from contrastive.cli import main
from contrastive.commands.check import check, render
from contrastive.errors import RecipeError
from contrastive.protocols.regression import working_bytes
from tests.support.command_line import json_of

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_check_tells_shapes_steps_and_memory(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]):
    report = json_of(capsys, "check", str(tiny_recipe))["recipes"][0]
    assert report["shapes"] == {"image": [3, 16, 16], "view": [3, 16, 16], "h": 64, "z": 8}
    assert report["steps"] == 21
    assert report["images"] == {"train": 120, "test": 30}
    assert report["memory_mib"]["total"] > 0
    assert not Path("runs").exists()


def test_check_says_that_epochs_are_planned_when_the_run_starts(
    tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
):
    report = json_of(capsys, "check", str(tiny_recipe), "--set", "train.minutes=3")["recipes"][0]
    assert (report["minutes"], report["steps"], report["steps_per_epoch"]) == (3.0, None, 7)
    assert main(["check", str(tiny_recipe), "--set", "train.minutes=3"]) == 0
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "epochs that fit in the minutes, planned when the run starts" in words


@pytest.mark.parametrize("of", ["ema", "{name: ema, momentum: 0.9}"])
def test_what_several_processes_train_is_checked_in_one(of: str, tiny_recipe: Path):
    assert check(tiny_recipe, [f"target={{name: shuffle_bn, of: {of}}}"])["parts"]["target"] == "shuffle_bn"


CROP = "{name: random_resized_crop, size: 12}"


@pytest.mark.parametrize("operations", [[CROP, "flip"], ["flip"], []])
def test_an_operation_that_changes_the_size_of_views_changes_what_is_evaluated(
    operations: list[str], tiny_recipe: Path
):
    resize = "{name: torchvision, transform: Resize, options: {size: 24}}"
    report = check(tiny_recipe, [f"augmentation=[{', '.join([*operations, resize])}]"])
    assert report["shapes"]["view"] == [3, 24, 24]


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (
            "{name: torchvision, transform: RandomZoomOut}",
            "the views differ in size; end with",
        ),
        (
            "{name: torchvision, transform: Resize, options: {size: [12, 16]}}",
            "views of 12 x 16 pixels are not square",
        ),
        (
            "{name: torchvision, transform: Normalize, options: {mean: [0.5], std: [0.5]}}",
            "torchvision's Normalize makes no view: set the backbone's mean and std",
        ),
    ],
)
def test_views_that_no_encoder_can_take_are_refused(operation: str, message: str, tiny_recipe: Path):
    with pytest.raises(RecipeError) as error:
        check(tiny_recipe, [f"augmentation=[{CROP}, {operation}]"])
    assert f"--set augmentation  {message}" in str(error.value)


def test_images_of_several_sizes_need_a_crop(tiny_recipe: Path, tmp_path: Path):
    for number, size in enumerate((16, 20) * 20):
        (tmp_path / "root").mkdir(exist_ok=True)
        Image.new("RGB", (size, 16)).save(tmp_path / "root" / f"{number}.png")
    sets = [f"dataset.root={tmp_path / 'root'}"]
    with pytest.raises(RecipeError, match="--set augmentation  the images differ in size; start with"):
        check(tiny_recipe, [*sets, "augmentation=[flip]"])
    assert check(tiny_recipe, [*sets, f"augmentation=[flip, {CROP}]"])["shapes"]["view"] == [3, 12, 12]


def test_check_estimates_activations_that_grow_with_the_batch(
    tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
):
    small, large = (
        json_of(capsys, "check", str(tiny_recipe), "--set", f"train.batch_size={batch}")["recipes"][0][
            "memory_mib"
        ]
        for batch in (16, 64)
    )
    assert large["activations"] == pytest.approx(4 * small["activations"], rel=0.2)


@pytest.mark.parametrize(
    ("negatives", "told"),
    [
        ("in_batch", "keys of one batch of 16 images; accumulation adds none"),
        ("{name: queue, size: 5000}", "5,000 keys of earlier batches"),
        (
            "[in_batch, {name: queue, size: 40}]",
            "keys of one batch of 16 images; accumulation adds none, and 40 keys of earlier batches",
        ),
        ("none", "none"),
    ],
)
def test_check_tells_the_candidates(negatives: str, told: str, tiny_recipe: Path):
    report = check(tiny_recipe, [f"negatives={negatives}", "allow=[collapse]"])
    assert report["candidates"] == told


def test_check_estimates_the_activations_of_one_chunk(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]):
    def checked(*sets: str) -> dict[str, Any]:
        arguments = [word for each in sets for word in ("--set", f"train.{each}")]
        return json_of(capsys, "check", str(tiny_recipe), *arguments)["recipes"][0]

    chunk, whole = checked("batch_size=16"), checked("batch_size=96", "chunk_size=96")
    cut = checked("batch_size=96", "chunk_size=16")
    assert chunk["chunks"] == whole["chunks"] == "none"
    assert cut["chunks"].startswith(
        "6 per batch, of at most 16 images; batch norm sees chunks of 16 images, not the batch of 96"
    )
    assert whole["memory_mib"]["activations"] > 5 * chunk["memory_mib"]["activations"]
    assert cut["memory_mib"]["activations"] == pytest.approx(chunk["memory_mib"]["activations"], rel=0.05)


def test_check_of_several_tells_the_mistakes_of_each(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]):
    Path("wrong.yaml").write_text(tiny_recipe.read_text().replace("temperature", "temperatur"))
    assert main(["check", str(tiny_recipe), "wrong.yaml"]) == 2
    shown = capsys.readouterr()
    assert "is valid" in shown.out
    assert "wrong.yaml:6:23  loss.temperatur: nt_xent has no parameter 'temperatur'." in shown.err
    assert "Did you mean 'temperature'?" in shown.err


@pytest.mark.parametrize("recipe", ["photos", "cifar10/simclr", "imagenet/simclr"])
def test_absent_data_is_the_only_mistake_of_a_shipped_recipe(recipe: str, capsys: pytest.CaptureFixture[str]):
    """On data that stand in for them, every shipped recipe is valid: tests/test_baselines.py."""
    assert main(["check", recipe]) == 2
    shown = capsys.readouterr()
    assert len(shown.err.strip().splitlines()) == 1, shown.err
    assert "dataset" in shown.err


def test_the_kinds_of_skipped_files_are_named(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]):
    for n in range(40):
        Path("photos").mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (n, 0, 0)).save(f"photos/{n}.png")
    for n in range(9):
        Path(f"photos/{n}.nef").touch()
    Path("photos/notes.txt").touch()
    sets = ["--set", "dataset={name: image_folder, root: photos}"]
    report = json_of(capsys, "check", str(tiny_recipe), *sets)["recipes"][0]
    assert report["skipped_files"] == 10
    assert [kind.partition(" (")[0] for kind in report["skipped_kinds"]] == ["9 .nef files", "1 .txt file"]
    assert main(["check", str(tiny_recipe), *sets]) == 0
    assert "9 .nef files (raw camera files;" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_square_brackets_are_printed(capsys: pytest.CaptureFixture[str]):
    render({"recipe": "r.yaml", "reading": "train: a[1]/", "skipped_kinds": ["pip install 'x[heif]'"]})
    out = capsys.readouterr().out
    assert "train: a[1]/" in out
    assert "pip install 'x[heif]'" in out


def test_columns_that_may_hold_labels_are_named(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]):
    rows = []
    for n in range(40):
        buffer = io.BytesIO()
        Image.new("RGB", (16, 16), (n, 0, 0)).save(buffer, "PNG")
        rows.append(buffer.getvalue())
    pq.write_table(pa.table({"image": rows, "fine_label": [n % 2 for n in range(40)]}), "t.parquet")
    sets = ["dataset={name: parquet, train: t.parquet}"]
    report = check(tiny_recipe, sets)
    assert report["labels"] is False
    assert report["label_hint"].endswith("set dataset.label_column=fine_label")
    assert "label_hint" not in check(tiny_recipe, [*sets, "dataset.label_column=fine_label"])
    with pytest.raises(RecipeError, match=r"this data set has none \(.*dataset\.label_column=fine_label\)"):
        check(tiny_recipe, [*sets, "positives=label"])


def test_check_estimates_what_the_final_evaluation_holds(tiny_recipe: Path):
    z = {"evaluate.linear_z": {"protocol": "linear", "feature": "z"}}
    memory = check(tiny_recipe, z)["evaluation_memory_mib"]
    assert set(memory) == {"features", "knn", "linear", "linear_z", "pixels", "total"}
    assert memory["features"] == round(150 * (64 + 8) * 4 / 2**20, 1)
    assert memory["linear"] == round(working_bytes(120, 64, 3) / 2**20, 1) > memory["linear_z"] > 0
    pixels = 4 * 150 * 768 + working_bytes(120, 768, 3)
    assert memory["pixels"] == memory["total"] == round(pixels / 2**20, 1)
    no_protocol = {"evaluate.knn": None, "evaluate.linear": None}
    assert "evaluation_memory_mib" not in check(tiny_recipe, no_protocol)
    large = check(tiny_recipe, {**z, "augmentation.size": 64})["evaluation_memory_mib"]
    assert "pixels" not in large, "they are no floor at this size"
    assert large["total"] == pytest.approx(large["features"] + large["linear"], abs=0.11)
