"""``contrastive embed``: a table of features."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import contrastive
from tests.support.command_line import json_of, refused
from tests.support.masked_recipes import recipe_of, write

pytestmark = pytest.mark.usefixtures("elsewhere")


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


def test_embed_finds_nearest_neighbours_of_all_splits(tiny_run: Path, capsys: pytest.CaptureFixture[str]):
    json_of(capsys, "embed", str(tiny_run), "--out", "f.parquet", "--neighbours", "3")
    rows = pq.read_table("f.parquet").to_pylist()
    unit = np.array([row["features"] for row in rows])
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    index = {(row["split"], row["id"]): n for n, row in enumerate(rows)}
    crossings = 0
    for n, row in enumerate(rows):
        best = np.sort(similarity[n])[::-1][:3]
        np.testing.assert_allclose(row["similarities"], best, atol=1e-5)
        others = [index[key] for key in zip(row["neighbour_splits"], row["neighbour_ids"], strict=True)]
        np.testing.assert_allclose(similarity[n][others], best, atol=1e-5)
        assert row["neighbours"] == [rows[other]["name"] for other in others]
        assert n not in others
        crossings += sum(split != row["split"] for split in row["neighbour_splits"])
    assert crossings


def test_embed_into_a_missing_folder_is_refused(tiny_run: Path, capsys: pytest.CaptureFixture[str]):
    assert "does not exist" in refused(capsys, "embed", str(tiny_run), "--out", "no/f.parquet")


def test_embed_of_a_few_new_images(tiny_run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]):
    """Fewer than a batch, flat, without labels; the one test image has neighbours in train."""
    for folder, count in (("new/train", 3), ("new/test", 1)):
        Path(folder).mkdir(parents=True)
        for n, path in enumerate(sorted((tiny_data / "train" / "disc").iterdir())[:count]):
            Path(folder, f"{n}.png").write_bytes(path.read_bytes())
    command = ["embed", str(tiny_run), "--set", "dataset.root=new", "--out", "f.parquet", "--neighbours", "5"]
    assert json_of(capsys, *command)["rows"] == 4
    rows = pq.read_table("f.parquet").to_pylist()
    assert [len(row["neighbours"]) for row in rows] == [3, 3, 3, 3]
    assert rows[3]["neighbour_splits"] == ["train"] * 3


@pytest.mark.parametrize(
    ("extra", "told"), [(["--neighbours", "-1"], "--neighbours"), (["--out", "."], "is a folder")]
)
def test_embed_refuses_at_once(
    tiny_run: Path, extra: list[str], told: str, capsys: pytest.CaptureFixture[str]
):
    assert told in refused(capsys, "embed", str(tiny_run), "--out", "f.parquet", *extra)


def test_embed_replaces_nothing_but_its_own_tables(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    pq.write_table(pa.table({"image": [b"x"], "label": [1]}), "t.parquet")
    for out in ("t.parquet", str(run / "recipe.yaml"), str(run / "summary.json")):
        before = Path(out).read_bytes()
        message = refused(capsys, "embed", str(run), "--out", out)
        assert "exists and is not a table that embed wrote, so it is not replaced" in message
        assert Path(out).read_bytes() == before
    for name in ("new.parquet", "train/new.parquet"):
        assert "belongs to the data set" in refused(capsys, "embed", str(run), "--out", str(tiny_data / name))
    assert not any(tiny_data.rglob("new.parquet"))
    for neighbours in ("0", "2"):
        json_of(capsys, "embed", str(run), "--out", "f.parquet", "--neighbours", neighbours)


@pytest.fixture(scope="module")
def masked_run(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """The folder of a run of MAE without evaluation; to be read, not written."""
    folder = tmp_path_factory.mktemp("masked")
    tree = recipe_of(tiny_data, "mae")
    tree["evaluate"] = {"every": 0, "knn": "none"}
    contrastive.run(write(folder / "mae.yaml", tree), out=folder / "run")
    return folder / "run"


def test_embed_writes_patches_as_rows_and_in_their_grid(
    masked_run: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("contrastive.data.reading.BATCH", 50)  # several batches per split
    values = {}
    for output, shape in (("tokens", (16, 24)), ("map", (24, 4, 4))):
        about = json_of(capsys, "embed", str(masked_run), "--out", "f.parquet", "--output", output)
        assert (about["rows"], about["width"], about["grid"]) == (150, 24, [4, 4])
        table = pq.read_table("f.parquet")
        assert table.column_names == ["split", "id", "name", "label", "features"]
        assert json.loads(table.schema.metadata[b"grid"]) == [4, 4]
        assert table["split"].to_pylist() == ["train"] * 120 + ["test"] * 30
        values[output] = table["features"].combine_chunks().to_numpy_ndarray()
        assert values[output].shape == (150, *shape)
    np.testing.assert_array_equal(values["map"].reshape(150, 24, 16), values["tokens"].transpose(0, 2, 1))
    name = table["name"][149].as_py()
    file = next(tiny_data.rglob(name), None) or tiny_data / name
    pixels = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        tokens = contrastive.load_backbone(masked_run / "backbone").forward_features(pixels)[0]
    np.testing.assert_allclose(values["tokens"][149], tokens[1:], rtol=1e-4, atol=1e-5)


def test_patches_have_no_neighbours_and_patch_only_runs_no_z(
    masked_run: Path, capsys: pytest.CaptureFixture[str]
):
    command = ("embed", str(masked_run), "--out", "f.parquet")
    told = refused(capsys, *command, "--output", "map", "--neighbours", "2")
    assert "--output map gives many; use --output h" in told
    told = refused(capsys, *command, "--output", "z")
    assert "no objective of this run compares whole images, so there is no z" in told
