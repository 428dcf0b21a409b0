"""``contrastive duplicates``, ``labels``, ``select`` and ``search``: tables, JSON and refusals."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contrastive.cli import main
from tests.support.command_line import json_of, refused
from tests.support.curation import picture, scene, write_scenes

pytestmark = pytest.mark.usefixtures("elsewhere", "own_cache")


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    """Scenes of two classes, in which an image of train is also one of test, with another label."""
    write_scenes(tmp_path / "photos")
    shutil.copy(tmp_path / "photos/train/disc/3.png", tmp_path / "photos/test/checks/copy.png")
    return ["--set", f"dataset.root={tmp_path / 'photos'}"]


def test_duplicates_writes_pairs_and_prints_leaks_first(
    tiny_run: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
):
    result = json_of(capsys, "duplicates", str(tiny_run), *photos, "--out", "d.parquet")
    assert result["kinds"] == {"equal": 1}
    assert (result["images"], result["pairs"], result["groups"]) == (33, 1, 1)
    assert result["leaks"] == {"splits": 1, "held-out": 0}
    assert result["labels_differ"] == 1
    assert result["verified"] is True
    (row,) = pq.read_table("d.parquet").to_pylist()
    assert row["leak"] == "splits"
    assert (row["split_a"], row["name_a"]) == ("train", "train/disc/3.png")
    assert (row["split_b"], row["name_b"]) == ("test", "test/checks/copy.png")
    assert (row["kind"], row["similarity"], row["labels_differ"]) == ("equal", 1.0, True)
    assert result["first"][0]["a"]["class"] == "disc"
    assert result["first"][0]["b"]["class"] == "checks"
    assert main(["duplicates", str(tiny_run), *photos]) == 0
    text = capsys.readouterr().out
    assert "1 pair of duplicates (equal 1) in 1 group among 33 images" in text
    assert "between splits: 1; across the held-out tenth of train: 0; with different labels: 1" in text
    assert "train/disc/3.png" in "".join(text.split())


def test_duplicates_without_any(
    tiny_run: Path, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "photos/test/checks/copy.png").unlink()
    command = ("duplicates", str(tiny_run), *photos, "--out", "d.parquet")
    assert json_of(capsys, *command)["pairs"] == 0
    assert pq.read_table("d.parquet").num_rows == 0
    json_of(capsys, *command)  # its own table is replaced


def test_duplicates_of_a_file_are_not_verified_unless_a_data_set_is_set(
    tiny_run: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
):
    json_of(capsys, "embed", str(tiny_run), *photos, "--out", "f.parquet")
    alone = json_of(capsys, "duplicates", "f.parquet", "--out", "d.parquet")
    assert alone["verified"] is False
    assert alone["leaks"]["splits"] >= 1
    assert pq.read_table("d.parquet")["similarity"].null_count == alone["pairs"]
    root = photos[1].partition("=")[2]
    dataset = ("--set", f"dataset={{name: image_folder, root: {root}}}")
    verified = json_of(capsys, "duplicates", "f.parquet", *dataset)
    assert verified["verified"] is True
    assert verified["kinds"] == {"equal": 1}
    assert main(["duplicates", "f.parquet"]) == 0
    text = capsys.readouterr().out
    assert "1 pair that may be duplicates, not verified, in 1 group" in text
    assert "add --set 'dataset={name: image_folder, root: DIR}'" in text
    assert "cosine" in text
    assert "similarity" not in text


def test_without_labels_nothing_leaks_across_the_held_out_tenth(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    Path("few").mkdir()
    for n in range(40):
        picture(scene(n % 20)).save(f"few/{n}.png")
    dataset = ("--set", "dataset.root=few")
    result = json_of(capsys, "duplicates", str(tiny_run), *dataset, "--out", "d.parquet", "--html", "d.html")
    assert (result["pairs"], result["leaks"]) == (20, {})
    assert pq.read_table("d.parquet")["leak"].null_count == 20
    assert pq.read_table("d.parquet")["height_b"].to_pylist() == [64] * 20
    assert main(["duplicates", str(tiny_run), *dataset]) == 0
    texts = capsys.readouterr().out, Path("d.html").read_text()
    assert not any(word in text for text in texts for word in ("held-out", "held out", "validates", "leak"))


def test_labels_ranks_a_wrong_label_first(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(tiny_data, tmp_path / "photos")
    (tmp_path / "photos/train/disc/5.png").rename(tmp_path / "photos/train/stripes/wrong.png")
    json_of(
        capsys,
        *("labels", str(tiny_run), "--set", f"dataset.root={tmp_path / 'photos'}", "--out", "l.parquet"),
    )
    rows = pq.read_table("l.parquet").to_pylist()
    assert [row["rank"] for row in rows] == [*range(1, 151)]
    assert all(a["margin"] <= b["margin"] for a, b in pairwise(rows))
    place = next(n for n, row in enumerate(rows) if row["name"] == "train/stripes/wrong.png")
    assert place < 5
    assert rows[place]["class"] == "stripes"
    for row in rows:
        assert row["margin"] == pytest.approx(
            np.log(row["probability"] / row["suggestion_probability"]), abs=1e-6
        )


def test_labels_of_unlabelled_images(capsys: pytest.CaptureFixture[str]):
    pq.write_table(pa.table({"id": [1, 2], "features": [[1.0], [2.0]]}), "f.parquet")
    message = refused(capsys, "labels", "f.parquet")
    assert "no image has a label, so labels cannot disagree" in message


def test_select_writes_rows_in_order(tiny_run: Path, capsys: pytest.CaptureFixture[str]):
    result = json_of(capsys, "select", str(tiny_run), "--n", "7", "--out", "s.parquet")
    assert (result["candidates"], result["selected"], result["included"]) == (120, 7, 0)
    rows = pq.read_table("s.parquet").to_pylist()
    assert [row["order"] for row in rows] == [*range(1, 8)]
    assert rows[0]["distance"] is None
    assert {row["split"] for row in rows} == {"train"}
    Path("chosen.txt").write_text(f"{rows[0]['name']}\n{rows[1]['id']}\n")
    more = json_of(
        capsys, "select", str(tiny_run), "--n", "5", "--include", "chosen.txt", "--out", "more.parquet"
    )
    assert more["included"] == 2
    names = pq.read_table("more.parquet")["name"].to_pylist()
    assert names == [row["name"] for row in rows[2:]]  # the greedy choice goes on
    assert main(["select", str(tiny_run), "--n", "7", "--seed", "1"]) == 0
    assert "7 images of 120; every image is within" in capsys.readouterr().out


def test_search_finds_an_image_itself_first(
    tiny_run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
):
    files = [str(tiny_data / "test/disc/4.png"), str(tiny_data / "train/checks")]
    result = json_of(capsys, "search", str(tiny_run), *files, "--neighbours", "3", "--out", "s.parquet")
    assert result["queries"] == 41
    first = result["results"][0]
    assert first["query"] == files[0]
    assert first["neighbours"][0]["name"] == "test/disc/4.png"
    assert first["neighbours"][0]["similarity"] == pytest.approx(1, abs=1e-5)
    table = pq.read_table("s.parquet")
    assert table.num_rows == 3 * 41
    assert table["rank"].to_pylist()[:4] == [1, 2, 3, 1]


def test_search_of_a_file_of_features_needs_its_encoder(
    tiny_run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
):
    json_of(capsys, "embed", str(tiny_run), "--out", "f.parquet")
    query = str(tiny_data / "train/stripes/0.png")
    assert "name the one that embedded it with --encoder" in refused(capsys, "search", "f.parquet", query)
    result = json_of(capsys, "search", "f.parquet", query, "--encoder", str(tiny_run))
    best = result["results"][0]["neighbours"][0]
    assert best["name"] == "train/stripes/0.png"
    assert best["similarity"] == pytest.approx(1, abs=1e-4)
    message = refused(capsys, "search", str(tiny_run), query, "--encoder", str(tiny_run))
    assert "--encoder is for a file of features" in message


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["duplicates", "absent.parquet"], "absent.parquet does not exist"),
        (["duplicates", "RUN", "--out", "no/d.parquet"], "make the folder first"),
        (["labels", "RUN", "--out", "f.parquet"], "is not a table that labels wrote"),
        (["select", "RUN", "--n", "0"], "set --n to a number from 1 to 120"),
        (["select", "RUN", "--n", "3", "--include", "absent.txt"], "--include absent.txt cannot be read"),
        (["search", "RUN", "absent.png"], "absent.png does not exist"),
        (["search", "RUN", "f.parquet"], "no image can be read"),
        (["search", "RUN", "f.parquet", "--neighbours", "0"], "--neighbours is 0"),
        (["predict", "RUN", "empty"], "empty holds no image"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_mistakes_in_one_sentence(
    tiny_run: Path, command: list[str], words: str, capsys: pytest.CaptureFixture[str]
):
    pq.write_table(pa.table({"id": [1, 2], "features": [[1.0], [2.0]]}), "f.parquet")
    Path("empty").mkdir()
    assert words in refused(capsys, *(str(tiny_run) if text == "RUN" else text for text in command))


def test_nothing_is_written_into_the_data(
    tiny_run: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
):
    root = photos[1].partition("=")[2]
    for command in (["duplicates"], ["labels"], ["select", "--n", "2"]):
        out = f"{root}/new.parquet"
        message = refused(capsys, command[0], str(tiny_run), *command[1:], *photos, "--out", out)
        assert "belongs to the data set" in message
