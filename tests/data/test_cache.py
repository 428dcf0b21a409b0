"""The cache of decoded images: the same pixels as without it, created once, complete, and again if needed."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import contrastive
from contrastive.cli import main
from contrastive.commands.check import check
from contrastive.data import Cache, cache_folder, hold, read
from contrastive.data.cache import CachedTable
from contrastive.data.tables import MemoryTable
from contrastive.datasets import ImageFolder
from contrastive.errors import Interrupted, UnreadableImage
from contrastive.recipe import load_recipe, training_fingerprint
from contrastive.registry import load_registry
from tests.runs.test_runs import assert_same_run
from tests.support.images import SIDE, Images, assert_equal, loader
from tests.support.tiny import interrupted_after, write_data

BAD = (1, 5, 6, 30)


@pytest.fixture
def messages() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, messages: list[str]) -> Cache:
    return make(tmp_path / "cache", messages)


def make(folder: Path, messages: list[str], source: dict[str, Any] | None = None) -> Cache:
    return Cache(folder, "noise-train", source or {"data": "abc"}, messages.append, messages.append)


def cached(table: Images, cache: Cache) -> CachedTable:
    cached_table = hold(table, 0, cache)
    assert isinstance(cached_table, CachedTable)
    return cached_table


def files(cache: Cache, kind: str) -> list[Path]:
    return sorted(cache.folder.glob(f"*.{kind}"))


def assert_whole(cached_table: CachedTable) -> None:
    """Check every row against ``Images``, unreadable ones by name."""
    plain = Images(len(cached_table))
    assert cached_table.unreadable.keys() == cached_table.table.bad
    for row in range(len(cached_table)):
        if row in cached_table.table.bad:
            with pytest.raises(UnreadableImage, match=rf"^{row}\.jpg: truncated$"):
                cached_table.decode(row)
        else:
            assert torch.equal(cached_table.decode(row), plain.decode(row))


# -- the same pixels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [(), BAD])
@pytest.mark.parametrize("stage", ["crop", "all"])
@pytest.mark.parametrize("workers", [0, 2])
def test_memory_cache_and_streaming_give_the_same(cache: Cache, bad, stage: str, workers: int):
    in_memory = loader(Images(43, bad), stage)
    stored = loader(Images(43, bad), stage, memory_limit=0, cache=cache, workers=workers)
    streamed = loader(Images(43, bad), stage, memory_limit=0)
    assert isinstance(in_memory.table, MemoryTable)
    assert isinstance(stored.table, CachedTable)
    assert isinstance(streamed.table, Images)
    for epoch in (0, 3):
        batches = list(stored.epoch(epoch))
        assert_equal(batches, list(in_memory.epoch(epoch)))
        assert_equal(batches, list(streamed.epoch(epoch)))
        assert_equal(list(stored.epoch(epoch, start=2)), batches[2:])
    assert stored.table.table.decoded == 43
    assert stored.unreadable == in_memory.unreadable


def test_evaluation_reads_the_same(cache: Cache):
    unreadable_rows: dict[str, list[int]] = {"cache": [], "memory": []}
    outputs = {
        where: list(
            read(
                table,
                np.arange(43),
                size=4,
                batch_size=10,
                on_unreadable=lambda row, _, where=where: unreadable_rows[where].append(row),
            )
        )
        for where, table in (
            ("cache", hold(Images(43, BAD), 0, cache)),
            ("memory", hold(Images(43, BAD))),
        )
    }
    assert unreadable_rows["cache"] == unreadable_rows["memory"] == list(BAD)
    for (rows, pixels), (others, same) in zip(outputs["cache"], outputs["memory"], strict=True):
        assert np.array_equal(rows, others)
        assert torch.equal(pixels, same)


def test_many_chunks_and_an_image_of_another_size(cache: Cache, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("contrastive.data.tables._CHUNK", 3 * 3 * SIDE * SIDE)

    class Odd(Images):
        def shape(self, index):
            return (SIDE, SIDE + 1) if index == 4 else (SIDE, SIDE)

    table = Odd(20)
    progress: list[tuple[int, int]] = []
    cached_table = cache.table(table, lambda count, images: progress.append((count, images)))
    assert {row: error.reason for row, error in cached_table.unreadable.items()} == {
        4: "is 8 x 9 pixels, not 8 x 8 like the others"
    }
    assert torch.equal(cached_table.decode(19), Images(20).decode(19))
    assert progress == [(count, 20) for count in (3, 6, 9, 12, 15, 18, 20)]


# -- created once, and again if needed -----------------------------------------------------------------


def test_it_is_made_on_first_use_and_found_again(cache: Cache, messages: list[str]):
    table = Images(43, BAD)
    cached_table = cached(table, cache)
    assert not cache.folder.exists()
    assert_whole(cached_table)
    assert table.decoded == 43
    (pixels,) = files(cache, "pixels")
    assert pixels.stat().st_size == 43 * 3 * SIDE * SIDE
    assert pixels.name.startswith("noise-train-")
    assert messages == [f"decoding 43 images, once, into {pixels} (0.0 MiB)"]
    manifest = json.loads(pixels.with_suffix(".json").read_text())
    assert manifest["data"] == "abc"
    assert manifest["unreadable"]["30"] == ["30.jpg", "truncated"]
    again = cached(Images(43, BAD), cache)
    assert_whole(again)
    assert again.table.decoded == 0
    assert len(messages) == 1


def test_a_changed_source_gets_another(cache: Cache, tmp_path: Path):
    class Stamped(Images):
        def stamp(self):
            return "painted over"

    tables = {
        "as it was": (Images(20), cache),
        "data": (Images(20), make(cache.folder, [], {"data": "abd"})),
        "split": (Images(20), make(cache.folder, [], {"data": "abc", "split": "test"})),
        "rows": (Images(21), cache),
        "channels": (Images(20, channels=1), cache),
        "stamp": (Stamped(20), cache),
    }
    for count, (table, where) in enumerate(tables.values(), 1):
        cached(table, where).load()
        assert table.decoded == len(table)
        assert len(files(cache, "pixels")) == count, "old ones stay"


def damage_pixels(pixels: Path) -> None:
    with pixels.open("r+b") as file:
        file.truncate(100)


def damage_manifest(content: str | None) -> Any:
    def damage(pixels: Path) -> None:
        manifest = pixels.with_suffix(".json")
        manifest.unlink() if content is None else manifest.write_text(content)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        damage_pixels,
        lambda pixels: pixels.unlink(),
        *map(damage_manifest, [None, "", "{", "[]", "{}", '{"unreadable": {}}', '{"unreadable": 3}']),
    ],
)
def test_a_damaged_one_is_made_anew(cache: Cache, damage):
    cached(Images(43, BAD), cache).load()
    (pixels,) = files(cache, "pixels")
    damage(pixels)
    again = cached(Images(43, BAD), cache)
    assert_whole(again)
    assert again.table.decoded == 43
    last = cached(Images(43, BAD), cache)
    assert_whole(last)
    assert last.table.decoded == 0


def test_it_is_there_whole_or_not_at_all(cache: Cache):
    class Stopped(Images):
        def decode(self, index):
            if index == 11:
                raise KeyboardInterrupt
            return super().decode(index)

    with pytest.raises(KeyboardInterrupt):
        cached(Stopped(43), cache).load()
    assert {path.suffix for path in cache.folder.iterdir()} == {".lock"}
    (lock,) = files(cache, "lock")
    killed = cache.folder / f".{lock.stem}.pixels.tmp"  # what a run that was killed leaves
    killed.write_bytes(b"x" * 100_000)
    cached_table = cached(Images(43), cache)
    assert_whole(cached_table)
    assert cached_table.table.decoded == 43
    assert not killed.exists()


def test_the_user_may_stop_it(cache: Cache):
    def stop(count: int, images: int) -> None:
        raise Interrupted("interrupted")

    with pytest.raises(Interrupted):
        list(loader(Images(43), memory_limit=0, cache=cache, progress=stop).epoch(0))
    assert files(cache, "pixels") == []


def test_runs_at_the_same_time_make_it_once(cache: Cache, messages: list[str]):
    barrier = threading.Barrier(2, timeout=30)
    rows: list[int] = []

    class Slow(Images):
        def decode(self, index):
            if not rows:  # until the other run waits at the lock, or will find the cache complete
                rows.append(index)
                barrier.wait()
            return super().decode(index)

    first, second = Slow(43, BAD), Images(43, BAD)
    one = threading.Thread(target=cached(first, cache).load)
    one.start()
    while not messages:  # the first holds the lock
        one.join(0.01)
    cached_table = cached(second, make(cache.folder, []))
    two = threading.Thread(target=lambda: (barrier.wait(), cached_table.load()))
    two.start()
    one.join(30)
    two.join(30)
    assert first.decoded == 43
    assert second.decoded == 0
    assert_whole(cached_table)


def test_a_copy_for_another_process_maps_the_file(cache: Cache):
    data = pickle.dumps(cached(Images(400, BAD), cache))  # not loaded before
    assert len(data) < 400 * 3 * SIDE * SIDE / 4
    copy = pickle.loads(data)
    before = copy.table.decoded
    assert_whole(copy)
    assert copy.table.decoded == before


# -- if it cannot be written ---------------------------------------------------------------------------


def full(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))


def filled_by_others(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def pwrite(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", pwrite)


def not_a_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    folder.write_text("a file")


def closed(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def mkdir(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", mkdir)


@pytest.mark.parametrize(
    ("obstacle", "why"),
    [
        (full, "No space left on device"),
        (filled_by_others, "No space left on device"),
        (not_a_folder, "(Not a directory|File exists)"),
        (closed, "Permission denied"),
    ],
)
def test_without_room_images_are_streamed_after_one_warning(
    cache: Cache, messages: list[str], monkeypatch: pytest.MonkeyPatch, obstacle, why: str
):
    obstacle(monkeypatch, cache.folder)
    train = loader(Images(43, BAD), memory_limit=0, cache=cache, workers=1)
    streamed = loader(Images(43, BAD), memory_limit=0)
    for epoch in (0, 1):
        assert_equal(list(train.epoch(epoch)), list(streamed.epoch(epoch)))
    warnings = [text for text in messages if not text.startswith("decoding")]
    assert len(warnings) == 1
    assert re.fullmatch(
        rf"no cache of decoded images in {re.escape(str(cache.folder))} \({why}\): every epoch decodes them "
        r"again\. Set train\.cache to a folder with 0\.0 MiB of free space or to none, or raise "
        r"train\.memory_limit\.",
        warnings[0],
    )
    assert not list(cache.folder.glob(".*.tmp"))


def test_pixels_that_are_written_in_pieces(cache: Cache, monkeypatch: pytest.MonkeyPatch):
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: whole(file, data[:1000], offset))
    assert_whole(cached(Images(43, BAD), cache))


# -- the recipe ----------------------------------------------------------------------------------------


def test_the_folder_of_the_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/mine")
    assert cache_folder("auto") == Path("/var/mine/contrastive")
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache_folder("auto") == tmp_path / ".cache/contrastive"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder("auto") == tmp_path / ".cache/contrastive"
    assert cache_folder("none") is None
    assert cache_folder("~/pixels") == tmp_path / "pixels"
    assert cache_folder("pixels") == Path("pixels")


@pytest.mark.ci
def test_runs_differ_in_nothing_and_may_go_on_from_each_other(
    tiny_run: Path, tiny_recipe: Path, tmp_path: Path
):
    store = {"train.memory_limit": 0, "train.cache": str(tmp_path / "cache"), "train.workers": 1}
    with interrupted_after(9), pytest.raises(Interrupted):
        contrastive.run(tiny_recipe, store, out=tmp_path / "run")
    assert len(list((tmp_path / "cache").glob("*.pixels"))) == 1
    contrastive.run(tiny_recipe, {"train.memory_limit": 0, "train.cache": "none"}, out=tmp_path / "run")
    assert_same_run(tmp_path / "run", tiny_run)
    contrastive.run(tiny_recipe, store, out=tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tiny_run)
    names = {path.name.rsplit("-", 1)[0] for path in (tmp_path / "cache").glob("*.pixels")}
    assert names == {"image_folder-train", "image_folder-test"}


def test_the_fingerprint_leaves_it_out(tiny_recipe: Path):
    registry = load_registry()
    plain = load_recipe(tiny_recipe, [], registry)
    stored = load_recipe(tiny_recipe, ["train.memory_limit=5", "train.cache=here"], registry)
    assert training_fingerprint(plain, "data") == training_fingerprint(stored, "data")


def test_check_tells_where_images_will_be(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/mine")
    assert check(tiny_recipe)["decoded"] == "once, held in memory (0.1 MiB)"
    none = ["train.memory_limit=0"]
    assert check(tiny_recipe, none)["decoded"] == "once, held in /var/mine/contrastive (0.1 MiB)"
    assert check(tiny_recipe, [*none, "train.cache=none"])["decoded"] == "again in every epoch"


def test_mistakes_in_the_recipe(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]):
    sets = ["--set", "train.memory_limit=-1", "--set", "train.cache=null"]
    assert main(["check", str(tiny_recipe), *sets]) == 2
    output = capsys.readouterr().err
    assert "train.memory_limit  must be greater than or equal to 0, not -1" in output
    assert "train.cache  must be text, not null" in output


def test_an_image_painted_over_in_place_is_decoded_anew(tmp_path: Path):
    """It may keep its size in bytes, and the fingerprint of a folder depends on nothing else."""
    root = write_data(tmp_path / "data", train=4, test=1)

    def stamps() -> tuple[str, str]:
        dataset = ImageFolder(root)
        return dataset.fingerprint(), dataset.table("train").stamp()

    before = stamps()
    assert stamps() == before
    image = root / "train" / "disc" / "0.png"
    os.utime(image, ns=(0, image.stat().st_mtime_ns + 1))
    assert stamps()[0] == before[0]
    assert stamps()[1] != before[1]
    table = ImageFolder(root).table("train")
    image.unlink()
    assert table.stamp() != stamps()[1]
