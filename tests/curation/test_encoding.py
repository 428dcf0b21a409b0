"""Features of an encoder: as embed writes them, computed once, and kept safely."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from contrastive.commands.embed import embed
from contrastive.curation import FeatureTable, encode, open_features, read_feature_file
from contrastive.data import Reader
from contrastive.registry import load_registry
from contrastive.runs import LoadedEncoder, load_encoder


def load(run: Path, overrides: dict[str, object] | None = None) -> LoadedEncoder:
    return load_encoder(run, load_registry(), overrides or {})


def features(run: Path, overrides: dict[str, object] | None = None) -> FeatureTable:
    return encode(load(run, overrides))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of each batch that was read to be encoded."""
    counts: list[int] = []
    whole = Reader.whole

    def counting(self, table, rows):
        for index, pixels in whole(self, table, rows):
            counts.append(len(index))
            yield index, pixels

    monkeypatch.setattr(Reader, "whole", counting)
    return counts


def test_they_are_those_that_embed_writes(tiny_run: Path, tmp_path: Path):
    table = features(tiny_run)
    embed(tiny_run, tmp_path / "f.parquet")
    rows = pq.read_table(tmp_path / "f.parquet")
    for name, column in (("split", table.splits), ("id", table.ids), ("name", table.names)):
        assert rows[name].to_pylist() == column.tolist()
    assert rows["label"].to_pylist() == table.labels.tolist()
    assert torch.equal(table.vectors, torch.tensor(rows["features"].to_pylist()))
    assert table.classes == ["checks", "disc", "stripes"]


def test_a_second_call_does_not_encode_again(tiny_run: Path, passes: list[int]):
    first = features(tiny_run)
    assert sum(passes) == 150
    second = features(tiny_run)
    assert sum(passes) == 150
    assert torch.equal(first.vectors, second.vectors)


def test_other_pixels_are_encoded(tiny_run: Path, tiny_data: Path, passes: list[int], tmp_path: Path):
    features(tiny_run)
    for name in ("train/disc", "train/checks", "test/disc"):
        (tmp_path / "new" / name).mkdir(parents=True)
        for n in range(2):
            data = (tiny_data / name / f"{n}.png").read_bytes()
            (tmp_path / "new" / name / f"{n}.png").write_bytes(data)
    passes.clear()
    assert len(features(tiny_run, {"dataset.root": str(tmp_path / "new")})) == sum(passes) == 6


def test_other_weights_are_another_cache(tiny_run: Path, passes: list[int], caches: Path):
    features(tiny_run)
    other = load(tiny_run)
    with torch.no_grad():
        next(other.parts.method.backbone.parameters()).mul_(1.5)
    encode(other)
    assert sum(passes) == 300
    assert len([*caches.glob("*.features")]) == 4


def test_without_a_cache_nothing_is_kept(tiny_run: Path, passes: list[int], caches: Path):
    for _ in range(2):
        features(tiny_run, {"train.cache": "none"})
    assert sum(passes) == 300
    assert not caches.exists()


def damage_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def damage_manifest(file: Path) -> None:
    file.with_suffix(".json").write_text("{")


def forget_manifest(file: Path) -> None:
    file.with_suffix(".json").unlink()


@pytest.mark.parametrize("damage", [damage_byte, cut, damage_manifest, forget_manifest])
def test_a_damaged_cache_is_made_again(damage, tiny_run: Path, passes: list[int], caches: Path):
    before = features(tiny_run).vectors
    (file,) = caches.glob("*-train-*.features")
    content = file.read_bytes()
    damage(file)
    passes.clear()
    assert torch.equal(features(tiny_run).vectors, before)
    assert sum(passes) == 120
    assert file.read_bytes() == content


def test_a_stop_while_encoding_leaves_no_cache(tiny_run: Path, monkeypatch: pytest.MonkeyPatch, caches: Path):
    def stop(self, table, rows):
        yield from ()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Reader, "whole", stop)
        with pytest.raises(KeyboardInterrupt):
            features(tiny_run)
    assert not [path for path in caches.iterdir() if path.suffix != ".lock"]
    assert len(features(tiny_run)) == 150


def test_what_a_kill_leaves_is_replaced(tiny_run: Path, caches: Path):
    before = features(tiny_run).vectors
    (file,) = caches.glob("*-train-*.features")
    file.with_name(f".{file.name}.tmp").write_bytes(b"half")
    file.unlink()
    assert torch.equal(features(tiny_run).vectors, before)
    assert not [*caches.glob(".*.tmp")]


def test_two_at_a_time_encode_once(tiny_run: Path, passes: list[int]):
    encoders, tables = [load(tiny_run), load(tiny_run)], []
    threads = [
        threading.Thread(target=lambda own=own: tables.append(encode(own).vectors)) for own in encoders
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(passes) == 150
    assert torch.equal(*tables)


def test_unreadable_images_are_named_each_time(tiny_run: Path, tiny_data: Path, tmp_path: Path):
    folder = tmp_path / "photos" / "train" / "disc"
    folder.mkdir(parents=True)
    for n in range(3):
        (folder / f"{n}.png").write_bytes((tiny_data / "train" / "disc" / f"{n}.png").read_bytes())
    (folder / "1.png").write_bytes(b"no image")
    for _ in range(2):
        table = features(tiny_run, {"dataset.root": str(tmp_path / "photos")})
        assert [Path(name).name for name in table.names] == ["0.png", "2.png"]
        (line,) = table.unreadable
        assert "1.png: " in line


def test_a_cache_that_cannot_be_written_costs_only_time(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").write_text("")
    table = features(tiny_run, {"train.cache": str(tmp_path / "file")})
    assert len(table) == 150
    assert "every command encodes the images again. Set train.cache" in capsys.readouterr().err


def test_a_file_of_features_finds_its_images(tiny_run: Path, tiny_data: Path, tmp_path: Path):
    file = tmp_path / "f.parquet"
    embed(tiny_run, file)
    dataset = {"dataset": {"name": "image_folder", "root": str(tiny_data)}}
    table = open_features(file, load_registry(), dataset)
    own, reference = read_feature_file(file), features(tiny_run)
    assert own.images is None
    assert table.images is not None
    assert reference.images is not None
    np.testing.assert_array_equal(table.images.rows, reference.images.rows)
    np.testing.assert_array_equal(table.held_out, reference.held_out)
    assert torch.equal(table.vectors, own.vectors)
    division = load(tiny_run).data.division
    assert set(table.ids[table.held_out]) == set(
        division.train.ids[np.setdiff1d(np.arange(120), division.fit_rows)]
    )


def test_the_manifest_names_what_determines_features(tiny_run: Path, caches: Path):
    features(tiny_run)
    (file,) = caches.glob("*-train-*.features")
    manifest = json.loads(file.with_suffix(".json").read_text())
    assert manifest["shape"] == [120, 64]
    assert {"weights", "transform", "backbone", "data", "split", "decoder"} <= manifest.keys()
