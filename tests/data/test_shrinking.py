"""Shrunk images: the same pixels wherever they are held, made once, complete, and near the originals."""

from __future__ import annotations

import errno
import io
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from contrastive.augmentations import SimCLR
from contrastive.data import Cache, ImageCosts, ShrunkTable, TrainLoader, hold, read, whereabouts
from contrastive.data.shrinking import StoredTable, shrunk_size
from contrastive.data.tables import MemoryTable
from contrastive.datasets import decode_image
from contrastive.datasets.decoding import EncodedTable
from contrastive.errors import Interrupted, UnreadableImage
from contrastive.parts import ImageTable
from tests.support.images import Images, assert_equal
from tests.support.photographs import difference, photograph, turned

SHORT = 32
BAD = 3  # the row of the file that is cut off


def files() -> list[bytes]:
    """Photographs, one of them smaller than a shrunk one, one of exactly its size, one cut off."""
    sizes = [(150, 100), (97, 160), (20, 30), (120, 120), (32, 50), (70, 65), (33, 64), (200, 90)]
    contents = [photograph(*size, noise=3) for size in sizes]
    contents[BAD] = contents[BAD][:300]
    return contents


FILES = files()


class Photographs(EncodedTable):
    """Encoded photographs that count how often each is read."""

    def __init__(self, contents: list[bytes] | None = None, size: tuple[int, int] | None = None):
        self.contents, self.size = FILES if contents is None else contents, size
        self.ids = np.arange(len(self.contents), dtype=np.int64) * 5 + 2
        self.labels = self.ids % 2
        self.requests: list[int] = []

    def file_bytes(self, index: int) -> bytes:
        self.requests.append(index)
        return self.contents[index]

    def name(self, index: int) -> str:
        return f"{index}.jpg"


def shrunk(table: ImageTable | None = None, quality: int = 92) -> ShrunkTable:
    return ShrunkTable(table or Photographs(), SHORT, quality)


def requests(table: StoredTable | ShrunkTable) -> list[int]:
    """Which rows of the photographs were read, and how often."""
    of = table.table.of if isinstance(table, StoredTable) else table.of
    assert isinstance(of, Photographs)
    return sorted(of.requests)


@pytest.fixture
def messages() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, messages: list[str]) -> Cache:
    return Cache(tmp_path / "cache", "photos-train", {"data": "abc"}, messages.append, messages.append)


def stored(cache: Cache, table: ShrunkTable | None = None) -> StoredTable:
    stored_table = hold(table or shrunk(), 0, cache)
    assert isinstance(stored_table, StoredTable)
    return stored_table


def assert_whole(table: ImageTable) -> None:
    """Every row is that of a table without a cache."""
    plain = shrunk()
    for row in range(len(table)):
        if row == BAD:
            with pytest.raises(UnreadableImage, match=r"^3\.jpg: .*[Tt]runcated"):
                table.decode(row)
        else:
            assert torch.equal(table.decode(row), plain.decode(row))


def batches(table: ImageTable, **options: Any) -> list[Any]:
    settings = {"batch_size": 4, "seed": 0, "workers": 0, "max_unreadable": 1.0, **options}
    train = TrainLoader(table, SimCLR(size=16).pipelines(), **settings)
    return [batch for epoch in (0, 1) for batch in train.epoch(epoch)]


# -- pixels --------------------------------------------------------------------------------------------


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 600))
def test_the_short_side_is_exact_and_the_other_is_rounded(height: int, width: int, short_side: int):
    size = shrunk_size((height, width), short_side)
    assert size == shrunk_size((width, height), short_side)[::-1]
    if min(height, width) <= short_side:
        assert size == (height, width)
    else:
        assert min(size) == short_side
        for before, after in zip((height, width), size, strict=True):
            assert abs(Fraction(before * short_side, min(height, width)) - after) <= Fraction(1, 2)


def test_an_image_longer_than_a_jpeg_can_be_stays_as_it_is():
    assert shrunk_size((70_000, 33), 32) == (70_000, 33)
    assert shrunk_size((70_000, 40), 32) == (56_000, 32)


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize(("height", "width"), [(240, 320), (601, 403)])
def test_shrunk_images_are_near_pillows_of_the_whole_image(orientation: int, height: int, width: int):
    data = photograph(height, width, quality=95, exif=turned(orientation))
    whole = decode_image(data, "x")
    pixels = shrunk(Photographs([data])).decode(0)
    size = shrunk_size((whole.shape[1], whole.shape[2]), SHORT)
    picture = Image.fromarray(whole.permute(1, 2, 0).numpy())
    buffer = io.BytesIO()
    picture.resize(size[::-1], Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=92)
    assert pixels.shape == (3, *size)
    assert difference(pixels, decode_image(buffer.getvalue(), "x")) < 1.5


def picture(mode: str) -> Image.Image:
    return Image.open(io.BytesIO(photograph(90, 120, noise=0))).convert(mode)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1"])
def test_every_kind_of_pixel(mode: str):
    buffer = io.BytesIO()
    picture(mode).save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    pixels = shrunk(Photographs([buffer.getvalue()])).decode(0)
    whole = decode_image(buffer.getvalue(), "x")
    assert pixels.shape == (3, SHORT, 43)
    assert abs(float(pixels.float().mean() - whole.float().mean())) < 3


def test_a_table_of_grey_images_stays_grey(cache: Cache):
    class Grey(Images):
        def shape(self, index: int) -> tuple[int, int]:
            return 90, 60

    table = Grey(5, channels=1, varying=True)
    stored_table = stored(cache, shrunk(table))
    assert stored_table.decode(1).shape == (1, 48, 32)
    assert torch.equal(stored_table.decode(1), shrunk(table).decode(1))


def test_smaller_images_stay_as_they_are(cache: Cache):
    stored_table = stored(cache)
    for row in (2, 4):
        original = decode_image(FILES[row], "x")
        assert torch.equal(shrunk().decode(row), original)
        assert torch.equal(stored_table.decode(row), original)


def test_quality_changes_pixels():
    assert not torch.equal(shrunk(quality=92).decode(0), shrunk(quality=50).decode(0))


# -- wherever they are held ----------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_with_a_cache_and_without(cache: Cache, workers: int):
    plain = batches(shrunk())
    table = stored(cache)
    assert_equal(batches(table, workers=workers), plain)
    assert requests(table).count(0) <= 2  # for the estimate, and once


def test_images_of_one_size_are_held_in_memory_too(cache: Cache):
    contents = [photograph(90 + n % 2, 120 + n % 2, noise=n) for n in (0, 2, 4, 6)]
    table = shrunk(Photographs(contents, size=(90, 120)))
    assert table.size == (32, 43)
    assert whereabouts(table, 2**20, True) == "memory"
    in_memory = hold(table, 2**20, cache)
    assert isinstance(in_memory, MemoryTable)
    for row in range(4):
        assert torch.equal(in_memory.decode(row), shrunk(Photographs(contents)).decode(row))
    again = shrunk(Photographs(contents, size=(90, 120)))
    hold(again, 2**20, cache).decode(0)
    assert requests(again) == []


def test_an_image_of_another_size_than_promised_is_unreadable():
    table = shrunk(Photographs([photograph(90, 120), photograph(90, 121)], size=(90, 120)))
    with pytest.raises(UnreadableImage, match="is 90 x 121 pixels, not 90 x 120 like the others"):
        table.decode(1)


def test_evaluation_reads_the_shrunk_images(cache: Cache):
    def pixels(table: ImageTable) -> torch.Tensor:
        return torch.cat([x for _, x in read(table, np.arange(len(table)), size=24, crop_pct=0.875)])

    assert torch.equal(pixels(stored(cache)), pixels(shrunk()))
    assert not torch.equal(pixels(shrunk()), pixels(Photographs()))


# -- made once, and again if needed --------------------------------------------------------------------


def test_they_are_shrunk_once(cache: Cache, messages: list[str]):
    table = stored(cache)
    assert not cache.folder.exists()
    assert_whole(table)
    assert table.unreadable.keys() == {BAD}
    (file,) = cache.folder.glob("*.images")
    assert re.fullmatch(
        rf"shrinking 8 images, once, into {re.escape(str(file))} \(0\.0 MiB\)", messages.pop()
    )
    again = stored(cache)
    assert_whole(again)
    assert requests(again) == [2, 4]  # which stay as they are
    assert messages == []


def test_another_setting_gets_another_cache(cache: Cache):
    for count, table in enumerate(
        [shrunk(), shrunk(quality=91), ShrunkTable(Photographs(), SHORT + 1, 92)], 1
    ):
        stored(cache, table).load()
        assert len(list(cache.folder.glob("*.images"))) == count


@pytest.mark.parametrize("size", [0, 7, 8, 100, -8, -1])
def test_a_cut_file_is_made_again(cache: Cache, size: int):
    stored(cache).load()
    (file,) = cache.folder.glob("*.images")
    os.truncate(file, size % file.stat().st_size)
    again = stored(cache)
    assert_whole(again)
    assert 0 in requests(again)


def test_it_is_there_whole_or_not_at_all(cache: Cache):
    class Stopped(Photographs):
        def file_bytes(self, index: int) -> bytes:
            if index == 7 and len(self.requests) > len(FILES):  # the first ones are for the estimate
                raise KeyboardInterrupt
            return super().file_bytes(index)

    with pytest.raises(KeyboardInterrupt):
        stored(cache, shrunk(Stopped())).load()
    assert {path.suffix for path in cache.folder.iterdir()} == {".lock"}
    (lock,) = cache.folder.iterdir()
    left_over = cache.folder / f".{lock.stem}.images.tmp"  # by a run that was killed
    left_over.write_bytes(b"x" * 100_000)
    assert_whole(stored(cache))
    assert not left_over.exists()


def test_the_user_may_stop_it(cache: Cache):
    def stop(count: int, images: int) -> None:
        raise Interrupted("interrupted")

    with pytest.raises(Interrupted):
        StoredTable(shrunk(), cache, stop).load()
    assert list(cache.folder.glob("*.images")) == []


def test_runs_at_the_same_time_make_it_once(cache: Cache, messages: list[str]):
    first, second = stored(cache), stored(Cache(cache.folder, cache.title, cache.source, messages.append))
    threads = [threading.Thread(target=table.load) for table in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(messages) == 1
    assert_whole(first)
    assert_whole(second)


def test_a_copy_for_another_process_maps_the_file(cache: Cache):
    contents = [photograph(200, 300, noise=20)] * 60
    table = stored(cache, shrunk(Photographs(contents)))
    table.decode(0)
    data = pickle.dumps(table)
    assert len(data) < len(pickle.dumps(Photographs(contents))) + 20_000 < 60 * len(table.table.shrink(0))
    assert torch.equal(pickle.loads(data).decode(2), table.decode(2))


_KILLED = """
import sys, time
from pathlib import Path
from contrastive.data import Cache
from tests.data.test_shrinking import Photographs, shrunk, stored

class Slow(Photographs):
    def file_bytes(self, index):
        print("reading", flush=True)
        time.sleep(0.5 if len(self.requests) > 8 else 0)
        return super().file_bytes(index)

stored(Cache(Path(sys.argv[1]), "photos-train", {"data": "abc"}), shrunk(Slow())).load()
"""


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_that_another_reads(cache: Cache):
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", _KILLED, str(cache.folder)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list(cache.folder.glob(".*.tmp")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert len(list(cache.folder.glob(".*.tmp"))) == 1
    assert_whole(stored(cache))
    assert list(cache.folder.glob(".*.tmp")) == []


# -- if it cannot be written ---------------------------------------------------------------------------


def full(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))


def filled_by_others(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)


def not_a_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    folder.write_text("a file")


@pytest.mark.parametrize(
    ("obstacle", "why"),
    [
        (full, "No space left on device"),
        (filled_by_others, "No space left on device"),
        (not_a_folder, "(Not a directory|File exists)"),
    ],
)
def test_without_room_they_are_shrunk_in_every_epoch_after_one_warning(
    cache: Cache, messages: list[str], monkeypatch: pytest.MonkeyPatch, obstacle, why: str
):
    plain = batches(shrunk())
    obstacle(monkeypatch, cache.folder)
    assert_equal(batches(stored(cache)), plain)
    (warning,) = [text for text in messages if not text.startswith("shrinking")]
    assert re.fullmatch(
        rf"no cache of shrunk images in {re.escape(str(cache.folder))} \({why}\): every epoch shrinks them "
        r"again\. Set train\.cache to a folder with 0\.0 MiB of free space, or train\.shrink to null\.",
        warning,
    )
    assert not list(cache.folder.glob(".*.tmp"))


# -- what an image costs -------------------------------------------------------------------------------


def test_costs_are_those_of_decoding_and_of_views():
    class Slow(Images):
        def decode(self, index: int) -> torch.Tensor:
            until = time.thread_time() + 0.02
            while time.thread_time() < until:
                pass
            return super().decode(index)

    pipelines, threads = SimCLR(size=16).pipelines(), torch.get_num_threads()
    slow = ImageCosts.of(Slow(12, bad=range(0, 12, 2), varying=True), pipelines, seed=0)
    assert 0.02 <= slow.decoding < 0.04
    quick = ImageCosts.of(Images(12, varying=True), pipelines, seed=0)
    assert quick.decoding < 0.01 < slow.views + 0.01
    assert slow.decoding_share == slow.decoding / (slow.decoding + slow.views)
    assert ImageCosts.of(Images(12, bad=range(12), varying=True), pipelines, seed=0) is None
    assert torch.get_num_threads() == threads
