"""The command line as a user meets it: output, JSON, exit codes, and nothing written by mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import contrastive
from contrastive.cli import main
from contrastive.commands.check import check
from contrastive.errors import RecipeError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def json_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What a command prints under --json: one object on standard output and nothing else."""
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """The message of a refused command, which has written nothing and shows no traceback."""
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert main(list(arguments)) == code
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert sorted(Path().rglob("*")) == before
    return shown.err


def test_run_prints_a_table_and_ends_with_the_folder(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["run", str(tiny_recipe), "--set", "train.max_steps=2", "--out", "out"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "out"
    table = "\n".join(lines)
    for word in ("trained", "untrained encoder", "raw pixels", "knn top1", "linear top1"):
        assert word in table


def test_run_json_is_the_summary_alone(tiny_run: Path, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]):
    summary = json_of(capsys, "run", str(tiny_recipe), "--out", str(tiny_run))
    assert summary["run"] == str(tiny_run)
    assert summary["trained"] == contrastive.Run(tiny_run).summary["trained"]


def test_check_tells_shapes_steps_and_memory(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]):
    report = json_of(capsys, "check", str(tiny_recipe))["recipes"][0]
    assert report["shapes"] == {"image": [3, 16, 16], "view": [3, 16, 16], "h": 64, "z": 8}
    assert report["steps"] == 21
    assert report["images"] == {"train": 120, "test": 30}
    assert report["memory_mib"]["total"] > 0
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "command", [["export", "RUN"], ["compare", "RUN"], ["plugin", "new", "my-loss", "--kind", "loss"]]
)
def test_a_place_that_cannot_be_written_is_told(
    command: list[str], tiny_run: Path, capsys: pytest.CaptureFixture[str]
):
    command = [str(tiny_run) if word == "RUN" else word for word in command]
    assert main([*command, "--out", "/proc/nowhere/x"]) == 2
    assert "error: /proc/nowhere/x cannot be written (" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["compare", "RUN", "--set", "train.epochs=3"],
            "--set changes recipes, and only finished runs are named",
        ),
        (["evaluate", "RUN", "--set", "train.epochs=4"], "--set train.epochs: the run is trained"),
        (["embed", "RUN", "--out", "x", "--set", "loss.temperature=1"], "--set loss.temperature: the run"),
        (
            ["evaluate", "RUN", "--set", "evaluate.knn=none", "--set", "evaluate.linear=none"],
            "no protocol is left",
        ),
    ],
)
def test_what_would_change_nothing_of_a_finished_run_is_refused(
    arguments: list[str], told: str, tiny_run: Path, capsys: pytest.CaptureFixture[str]
):
    assert main([str(tiny_run) if word == "RUN" else word for word in arguments]) == 2
    assert told in capsys.readouterr().err


def test_a_name_that_the_terminal_cannot_show_is_escaped(tiny_recipe: Path, tmp_path: Path):
    (tmp_path / "naïve.yaml").write_text(tiny_recipe.read_text())
    command = [sys.executable, "-m", "contrastive", "check", str(tmp_path / "naïve.yaml")]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"is right" in done.stdout


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
            "the views differ in size; end the augmentation with",
        ),
        (
            "{name: torchvision, transform: Resize, options: {size: [12, 16]}}",
            "views of 12 x 16 pixels are not square",
        ),
        (
            "{name: torchvision, transform: Normalize, options: {mean: [0.5], std: [0.5]}}",
            "torchvision.Normalize cannot work on an image [3, 12, 12]",
        ),
    ],
)
def test_views_that_no_encoder_can_take_are_refused(operation: str, message: str, tiny_recipe: Path):
    with pytest.raises(RecipeError) as error:
        check(tiny_recipe, [f"augmentation=[{CROP}, {operation}]"])
    assert f"augmentation: {message}" in str(error.value)


def test_images_of_several_sizes_need_a_crop(tiny_recipe: Path, tmp_path: Path):
    for number, size in enumerate((16, 20) * 20):
        (tmp_path / "root").mkdir(exist_ok=True)
        Image.new("RGB", (size, 16)).save(tmp_path / "root" / f"{number}.png")
    sets = [f"dataset.root={tmp_path / 'root'}"]
    with pytest.raises(
        RecipeError, match="augmentation: the images differ in size; start the augmentation with"
    ):
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
        "6 a batch, of at most 16 images; batch norm sees chunks of 16 images, not the batch of 96"
    )
    assert whole["memory_mib"]["activations"] > 5 * chunk["memory_mib"]["activations"]
    assert cut["memory_mib"]["activations"] == pytest.approx(chunk["memory_mib"]["activations"], rel=0.05)


def test_check_of_several_tells_the_mistakes_of_each(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]):
    Path("wrong.yaml").write_text(tiny_recipe.read_text().replace("temperature", "temperatur"))
    assert main(["check", str(tiny_recipe), "wrong.yaml"]) == 2
    shown = capsys.readouterr()
    assert "is right" in shown.out
    assert "wrong.yaml:6:23  loss.temperatur: nt_xent has no parameter 'temperatur'." in shown.err
    assert "Did you mean 'temperature'?" in shown.err


@pytest.mark.parametrize(
    "recipe", ["simclr", "photos", "cifar10/simclr", "cifar10/simclr-cpu", "imagenet/simclr"]
)
def test_every_shipped_recipe_is_right(recipe: str, capsys: pytest.CaptureFixture[str]):
    """Absent data is the only thing that may be missing here, and is reported with its remedy."""
    code = main(["check", recipe])
    shown = capsys.readouterr()
    if recipe == "simclr":
        assert code == 0
    else:
        assert code == 2
        assert len(shown.err.strip().splitlines()) == 1, shown.err
        assert "dataset" in shown.err


def test_list_names_every_kind_and_the_shipped_recipes(capsys: pytest.CaptureFixture[str]):
    listing = json_of(capsys, "list")
    names = {kind: {part["name"] for part in parts} for kind, parts in listing.items()}
    assert {"nt_xent", "nt_logistic", "margin"} <= names["loss"]
    assert {"fashion_mnist_sample", "image_folder", "parquet", "torchvision", "hugging_face"} <= names[
        "dataset"
    ]
    assert {"simclr", "cifar10/simclr-cpu"} <= names["recipe"]
    assert main(["list", "loss"]) == 0
    assert "nt_xent" in capsys.readouterr().out


def test_every_listed_part_can_be_shown(capsys: pytest.CaptureFixture[str]):
    for kind, parts in json_of(capsys, "list").items():
        for part in parts:
            if kind == "recipe":
                continue
            shown = json_of(capsys, "show", kind, part["name"])
            assert shown["name"] == part["name"]
            for parameter in shown["parameters"]:
                assert parameter["doc"], f"{kind} {part['name']}: {parameter['name']} is not documented"


def test_show_prints_parameters_types_and_defaults(capsys: pytest.CaptureFixture[str]):
    assert main(["show", "loss", "nt_xent"]) == 0
    shown = capsys.readouterr().out
    assert "temperature" in shown
    assert "0.5" in shown


def test_preview_draws_a_picture(tiny_recipe: Path):
    assert main(["preview", str(tiny_recipe), "--out", "views.png"]) == 0
    with Image.open("views.png") as picture:
        assert min(picture.size) > 100
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 100


def test_evaluate_gives_the_figures_of_the_run(tiny_run: Path, capsys: pytest.CaptureFixture[str]):
    figures = json_of(capsys, "evaluate", str(tiny_run))
    assert figures["trained"] == contrastive.Run(tiny_run).summary["trained"]
    assert figures["split"] == "test"
    only = json_of(capsys, "evaluate", str(tiny_run), "--protocol", "knn", "--set", "evaluate.knn.k=3")
    assert set(only["trained"]) == {"knn_top1"}
    assert only["protocols"]["knn"]["k"] == 3


def test_evaluate_on_another_data_set(tiny_run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]):
    figures = json_of(capsys, "evaluate", str(tiny_run), "--set", f"dataset.root={tiny_data / 'train'}")
    assert figures["split"] == "validation"


@pytest.mark.parametrize(("output", "width"), [("h", 64), ("z", 8)])
def test_embed_writes_ids_labels_names_and_features(
    tiny_run: Path, output: str, width: int, capsys: pytest.CaptureFixture[str]
):
    json_of(capsys, "embed", str(tiny_run), "--out", "f.parquet", "--output", output)
    table = pq.read_table("f.parquet")
    assert table.column_names == ["split", "id", "name", "label", "features"]
    assert table.schema.field("features").type.list_size == width
    assert table["split"].to_pylist() == ["train"] * 120 + ["test"] * 30
    assert set(table["label"].to_pylist()) == {0, 1, 2}
    assert np.isfinite(np.stack(table["features"].to_numpy())).all()


def test_embedded_features_are_those_of_the_exported_backbone(
    tiny_run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
):
    json_of(capsys, "embed", str(tiny_run), "--out", "f.parquet")
    rows = pq.read_table("f.parquet").to_pylist()
    net = contrastive.load_backbone(tiny_run / "backbone")
    for row in (rows[0], rows[-1]):
        file = next(tiny_data.rglob(row["name"]), None) or tiny_data / row["name"]
        pixels = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            h = net(pixels)[0]
        torch.testing.assert_close(h, torch.tensor(row["features"]), rtol=1e-4, atol=1e-5)


def test_embed_finds_nearest_neighbours(tiny_run: Path, capsys: pytest.CaptureFixture[str]):
    json_of(capsys, "embed", str(tiny_run), "--out", "f.parquet", "--neighbours", "3")
    rows = [row for row in pq.read_table("f.parquet").to_pylist() if row["split"] == "test"]
    unit = np.array([row["features"] for row in rows])
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    for n, row in enumerate(rows):
        best = np.sort(similarity[n])[::-1][:3]
        np.testing.assert_allclose(row["similarities"], best, atol=1e-5)
        assert row["name"] not in row["neighbours"]


def test_export_writes_a_backbone_that_timm_loads_in_a_fresh_process(tiny_run: Path):
    assert main(["export", str(tiny_run), "--format", "timm", "--out", "encoder"]) == 0
    code = (
        "import timm, torch, contrastive.timm_models\n"
        "net = timm.create_model('local-dir:encoder', pretrained=True).eval()\n"
        "print(tuple(net(torch.rand(2, 3, 16, 16)).shape))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "(2, 64)", done.stderr


def test_export_does_not_write_over_anything(tiny_run: Path, capsys: pytest.CaptureFixture[str]):
    Path("full").mkdir()
    Path("full/thesis.txt").write_text("precious")
    assert "not an empty folder" in refused(capsys, "export", str(tiny_run), "--out", "full")


def test_schema_is_a_json_schema(capsys: pytest.CaptureFixture[str]):
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert "nt_xent" in json.dumps(schema)


def test_plugin_list(capsys: pytest.CaptureFixture[str]):
    assert main(["plugin", "list"]) == 0
    assert json_of(capsys, "plugin", "list") is not None


@pytest.mark.parametrize("command", [["evaluate"], ["embed", "--out", "f.parquet"], ["export", "--out", "e"]])
def test_a_folder_that_is_no_run_is_refused(command: list[str], capsys: pytest.CaptureFixture[str]):
    Path("data").mkdir()
    assert "not a run folder" in refused(capsys, command[0], "data", *command[1:])


def test_unknown_protocols_and_parts_come_with_a_remedy(tiny_run: Path, capsys: pytest.CaptureFixture[str]):
    unknown = refused(capsys, "evaluate", str(tiny_run), "--protocol", "retrievel")
    assert "--set evaluate.retrievel.protocol=NAME. Did you mean 'retrieval'?" in unknown
    assert "Did you mean 'nt_xent'?" in refused(capsys, "show", "loss", "nt_xnt")


def test_a_folder_that_cannot_be_written_is_told(tiny_run: Path, capsys: pytest.CaptureFixture[str]):
    Path("file").write_text("")
    told = refused(capsys, "export", str(tiny_run), "--out", "file/encoder")
    assert "error: file/encoder cannot be written (Not a directory)" in told


def test_embed_into_a_missing_folder_is_refused(tiny_run: Path, capsys: pytest.CaptureFixture[str]):
    assert "does not exist" in refused(capsys, "embed", str(tiny_run), "--out", "no/f.parquet")


def test_embed_of_a_few_new_images(tiny_run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]):
    """Fewer than a batch, flat, without labels; and one test image has no neighbour."""
    for folder, count in (("new/train", 3), ("new/test", 1)):
        Path(folder).mkdir(parents=True)
        for n, path in enumerate(sorted((tiny_data / "train" / "disc").iterdir())[:count]):
            Path(folder, f"{n}.png").write_bytes(path.read_bytes())
    command = ["embed", str(tiny_run), "--set", "dataset.root=new", "--out", "f.parquet", "--neighbours", "5"]
    assert json_of(capsys, *command)["rows"] == 4
    rows = pq.read_table("f.parquet").to_pylist()
    assert [len(row["neighbours"]) for row in rows] == [2, 2, 2, 0]


@pytest.mark.parametrize(
    ("extra", "told"), [(["--neighbours", "-1"], "--neighbours"), (["--out", "."], "is a folder")]
)
def test_embed_refuses_at_once(
    tiny_run: Path, extra: list[str], told: str, capsys: pytest.CaptureFixture[str]
):
    assert told in refused(capsys, "embed", str(tiny_run), "--out", "f.parquet", *extra)


def test_debug_shows_the_traceback(tmp_path: Path):
    command = [sys.executable, "-m", "contrastive", "check", "absent.yaml"]
    plain = subprocess.run(command, capture_output=True, text=True)
    debug = subprocess.run([*command, "--debug"], capture_output=True, text=True)
    assert plain.returncode == 2
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr


def test_a_reader_that_goes_away_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m contrastive schema | head -1", shell=True, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
    assert done.stdout.strip() == "{"


def test_fp16_on_a_cpu_is_refused(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    message = refused(capsys, "run", str(tiny_recipe), "--set", "train.precision=fp16", "--out", "out")
    assert "train.precision" in message


def test_torchrun_joins_its_processes(tiny_recipe: Path):
    """On a CPU Accelerate would take each of them for the only one, and a batch of 15 would do."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "contrastive", "run", str(tiny_recipe), "--out", "out", "--set", "train.batch_size=15"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "2 processes cannot share batches of 15 images alike" in done.stderr
    assert not Path("out").exists()
