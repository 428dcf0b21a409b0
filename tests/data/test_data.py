"""Order, batches, replacement of unreadable images, and the evaluation reader."""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import signal
import subprocess
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from contrastive.augmentations import Pipeline, SimCLR
from contrastive.data import TrainLoader, augment, hold, holdout, read, tables
from contrastive.data.loader import epoch_order, substitutes
from contrastive.data.tables import MemoryTable, loader_workers, workers_for
from contrastive.datasets import ImageFolder
from contrastive.errors import DataError, UnreadableImage, UsageError
from contrastive.parts import EvaluationTransform, ImageTable
from contrastive.rng import Key
from contrastive.values import Batch
from tests.support.images import SIDE, Fake, Images, assert_equal, loader, views

# -- order and held-out tenth --------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 5000), st.integers(1, 400))
def test_order_is_a_permutation_and_a_pure_function(seed, epoch, n):
    order = epoch_order(seed, epoch, n)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(n))
    epoch_order.cache_clear()
    assert np.array_equal(order, epoch_order(seed, epoch, n))


def test_orders_differ_between_epochs_and_seeds():
    orders = {tuple(epoch_order(seed, epoch, 100)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25
    positions = np.stack([epoch_order(0, epoch, 10) for epoch in range(4000)])  # every row in every position
    counts = np.stack([np.bincount(positions[:, position], minlength=10) for position in range(10)])
    assert np.abs(counts - 400).max() < 100  # five standard deviations


def test_holdout_is_a_tenth_decided_by_the_id():
    ids = np.arange(100_000, dtype=np.int64)
    mask = holdout(ids)
    assert mask.dtype == bool
    assert abs(mask.mean() - 0.1) < 0.005
    assert abs(mask[::2].mean() - 0.1) < 0.007
    some = np.array([5, 99_999, 0, 31])
    assert np.array_equal(holdout(some), mask[some])
    assert holdout(np.array([2**63 - 1, -5])).shape == (2,)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 100))
def test_substitutes_go_round_the_residue_class(n, batch_size, seed):
    order = epoch_order(seed, 0, n)
    position = seed % n
    rows = list(substitutes(order, position, batch_size))
    assert rows[0] == order[position]
    positions = [int(np.flatnonzero(order == row)[0]) for row in rows]
    assert sorted(positions) == list(range(position % batch_size, n, batch_size))
    onward = list(range(position, n, batch_size)) + list(range(position % batch_size, position, batch_size))
    assert positions == onward


# -- batches -------------------------------------------------------------------------------------------


def test_epoch_holds_every_image_once_in_order():
    table = Images(43)
    train = loader(table)
    batches = list(train.epoch(2))
    assert train.steps_per_epoch == len(batches) == 5
    order = epoch_order(3, 2, 43)[:40]
    assert torch.cat([b.ids for b in batches]).tolist() == table.ids[order].tolist()
    expected = torch.stack([table.decode(i) for i in order])
    assert torch.equal(torch.cat([b.images for b in batches]), expected)
    assert all(b.images.dtype == torch.uint8 and b.labels is None for b in batches)


def test_memory_and_streaming_give_the_same():
    for bad in ((), (1, 5, 6, 30)):
        in_memory = loader(Images(43, bad))
        streamed = loader(Images(43, bad), memory_limit=0)
        assert isinstance(in_memory.table, MemoryTable)
        assert not isinstance(streamed.table, MemoryTable)
        assert_equal(list(in_memory.epoch(1)), list(streamed.epoch(1)))


@pytest.mark.parametrize("stage", ["crop", "all"])
def test_worker_stages_agree_with_the_whole_batch(stage):
    """Cropped or sampled in the worker, or augmented as a batch: the same views."""
    varying, whole = loader(Images(20, varying=True), stage), loader(Images(20))
    assert isinstance(next(varying.epoch(0)).images, list)
    table = varying.table
    for epoch in (0, 4):
        for batch, batch_views in zip(varying.epoch(epoch), views(varying, epoch, stage=stage), strict=True):
            rows = (batch.ids.numpy() - 100) // 7
            top = torch.stack([table.decode(row)[:, :4, :4] for row in rows])
            for view in range(2):
                expected = Fake()(top, batch.ids.numpy(), Key(3, epoch, view))
                assert torch.equal(batch_views[view], expected)
    sized = loader(Images(20), "all")
    staged_views, expected = views(sized, 1, stage="all"), views(whole, 1)
    assert all(
        torch.equal(a, b)
        for x, y in zip(staged_views, expected, strict=True)
        for a, b in zip(x, y, strict=True)
    )


@pytest.mark.parametrize("options", [{"varying": True}, {"varying": False}])
def test_any_number_of_workers_gives_the_same(options):
    bad = (0, 3, 11)
    alone = loader(Images(35, bad, **options), memory_limit=0)
    shared = loader(Images(35, bad, **options), memory_limit=0, workers=2)
    for epoch in (0, 1):
        assert_equal(list(alone.epoch(epoch)), list(shared.epoch(epoch)))
    stopped = shared.epoch(2)
    next(stopped)
    stopped.close()  # as max_steps does
    assert_equal(list(alone.epoch(3, start=1)), list(shared.epoch(3, start=1)))


@pytest.mark.parametrize("limit", [0, 2**30])
def test_start_continues_where_an_epoch_was_left(limit):
    whole = list(loader(Images(50, (2, 9)), memory_limit=limit).epoch(5))
    for start in range(6):
        rest = list(loader(Images(50, (2, 9)), memory_limit=limit).epoch(5, start))
        assert_equal(rest, whole[start:])
    assert list(loader(Images(50)).epoch(5, 6)) == []


def test_no_global_generator_is_touched():
    def states():
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()

    before = states()
    for train in (loader(Images(20)), loader(Images(20, varying=True), workers=1)):
        list(train.epoch(0))
        views(train, 1)
    assert states() == before


def test_real_pipelines_agree_between_workers_and_batches():
    pipelines = SimCLR(size=SIDE).pipelines()
    assert isinstance(pipelines[0], Pipeline)
    all_views = []
    for workers in (0, 2):
        train = TrainLoader(Images(16, varying=True), pipelines, batch_size=8, seed=0, workers=workers)
        all_views.append([augment(b, pipelines, seed=0, epoch=0, device="cpu") for b in train.epoch(0)])
    for a, b in zip(*all_views, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        assert a[0].shape == (8, 3, SIDE, SIDE)
        assert a[0].dtype == torch.float32
        assert not torch.equal(a[0], a[1])


@pytest.mark.parametrize("limit", [0, 2**30])
def test_large_images_of_one_size_are_cropped_one_by_one(limit, monkeypatch):
    small = views(loader(Images(20), memory_limit=limit), 1)
    monkeypatch.setattr("contrastive.data.loader.MAX_BATCHED_PIXELS", SIDE * SIDE - 1)
    train = loader(Images(20), memory_limit=limit)
    batch = next(train.epoch(1))
    assert isinstance(batch.images, list)
    assert batch.images[0].shape == (8, 3, 4, 4)
    large = views(train, 1)
    assert all(
        torch.equal(a, b) for x, y in zip(large, small, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_images_are_decoded_once_with_progress():
    table, progress = Images(600), []
    train = loader(table, progress=lambda count, all_: progress.append((count, all_)))
    assert table.decoded == 0
    list(train.epoch(0))
    list(train.epoch(1))
    assert table.decoded == 600
    assert progress[-1] == (600, 600)
    assert progress == sorted(progress)


def test_views_of_different_sizes_are_refused():
    class Keeps(Fake):
        def before(self, image, id, key):  # noqa: A002
            return image

    for workers in (0, 1):
        train = TrainLoader(Images(16, varying=True), [Keeps("all")], batch_size=8, seed=0, workers=workers)
        with pytest.raises(UsageError, match=r"^augmentation: .*random_resized_crop\.$"):
            list(train.epoch(0))


def test_batch_larger_than_the_data_is_refused():
    with pytest.raises(DataError, match=r"batch_size is 8.*only 7 images.*Set train\.batch_size to 7"):
        loader(Images(7))


# -- labels --------------------------------------------------------------------------------------------


def test_labels_come_only_when_asked_and_never_of_the_held_out_tenth():
    table = Images(200)
    assert all(batch.labels is None for batch in loader(table).epoch(0))
    for options in ({}, {"memory_limit": 0, "workers": 1}):
        batches = list(loader(table, labels=True, **options).epoch(0))
        ids, labels = (torch.cat([getattr(b, name) for b in batches]).numpy() for name in ("ids", "labels"))
        mask = holdout(ids)
        assert 0 < mask.sum() < 60
        assert (labels[mask] == -1).all()
        assert np.array_equal(labels[~mask], ((ids[~mask] - 100) // 7) % 5)
    with pytest.raises(DataError, match="positives"):
        loader(Images(20, labels=False), labels=True)


# -- unreadable images ---------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_replacement_rule_against_brute_force(data):
    n = data.draw(st.integers(8, 60))
    batch_size = data.draw(st.integers(1, 8))
    bad = data.draw(st.sets(st.integers(0, n - 1), max_size=n // 3))
    table = Images(n, bad)
    train = loader(table, batch_size=batch_size, memory_limit=data.draw(st.sampled_from([0, 2**30])))
    order = epoch_order(3, 0, n)
    positions = [[p for p in range(n) if p % batch_size == residue] for residue in range(batch_size)]
    if any(all(order[p] in bad for p in group) for group in positions):
        with pytest.raises(DataError, match="too few images"):
            list(train.epoch(0))
        return
    for step, batch in enumerate(train.epoch(0)):
        expected, reasons = [], []
        for position in range(step * batch_size, (step + 1) * batch_size):
            while order[position] in bad:
                row = int(order[position])
                reasons.append((int(table.ids[row]), f"{row}.jpg: truncated"))
                position = position + batch_size if position + batch_size < n else position % batch_size
            expected.append(table.ids[order[position]])
        assert batch.ids.tolist() == expected
        assert len(set(expected)) == batch_size
        assert batch.unreadable == reasons


@pytest.mark.parametrize("options", [{}, {"memory_limit": 0}, {"memory_limit": 0, "workers": 2}])
def test_too_many_unreadable_images_stop_the_run(options):
    table = Images(100, bad=range(4))
    fine = loader(table, max_unreadable=0.04, **options)
    assert len(list(fine.epoch(0))) == 12
    assert len(list(fine.epoch(1))) == 12
    assert set(fine.unreadable) <= {100, 107, 114, 121}
    strict = loader(table, max_unreadable=0.03, **options)
    with pytest.raises(DataError) as error_info:
        [list(strict.epoch(epoch)) for epoch in range(3)]
    message = str(error_info.value)
    assert message.startswith("4 of 100 images")
    assert "3.jpg: truncated" in message
    assert "train.max_unreadable=0.03" in message
    assert "\n" not in message


def test_one_unreadable_image_is_too_many_where_none_is_allowed():
    with pytest.raises(DataError, match=r"1 of 20 images.*5\.jpg: truncated"):
        list(loader(Images(20, bad=[5]), max_unreadable=0.0).epoch(0))
    assert len(list(loader(Images(20), max_unreadable=0.0).epoch(0))) == 2


def test_image_of_another_size_than_promised_is_unreadable():
    class Odd(Images):
        def shape(self, index):
            return (SIDE, SIDE + 1) if index == 4 else (SIDE, SIDE)

    for limit in (0, 2**30):
        batches = list(loader(Odd(16), memory_limit=limit).epoch(0))
        reasons = {text for batch in batches for _, text in batch.unreadable}
        assert reasons == {"4.jpg: is 8 x 9 pixels, not 8 x 8 like the others"}


def test_folder_of_photos_three_of_them_corrupt(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(30):
        shape = (int(rng.integers(9, 30)), int(rng.integers(9, 30)), 3)
        image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
        image.save(tmp_path / f"{index:02}.{'jpg' if index % 2 else 'png'}")
    for index in (3, 7, 20):
        path = next(tmp_path.glob(f"{index:02}.*"))
        path.write_bytes(path.read_bytes()[:60])
    pipelines = SimCLR(size=SIDE).pipelines()
    table = ImageFolder(tmp_path).table("train")
    train = TrainLoader(table, pipelines, batch_size=10, seed=0, workers=2, max_unreadable=0.1)
    for epoch in range(2):
        for batch in train.epoch(epoch):
            assert len(set(batch.ids.tolist())) == 10
    assert {text.split(":")[0] for text in train.unreadable.values()} == {"03.jpg", "07.jpg", "20.png"}
    unreadable = []
    rows = [
        r for r, _ in read(table, np.arange(30), size=16, on_unreadable=lambda i, why: unreadable.append(i))
    ]
    assert sorted(np.concatenate(rows).tolist() + unreadable) == list(range(30))
    assert unreadable == [3, 7, 20]


# -- workers -------------------------------------------------------------------------------------------


def test_workers_leave_interruption_to_the_parent():
    class Telling(Images):
        def decode(self, index):
            default = int(signal.getsignal(signal.SIGINT) is not signal.SIG_IGN)
            return torch.full((3, SIDE, SIDE), 10 * default + torch.get_num_threads(), dtype=torch.uint8)

    for batch in loader(Telling(16), memory_limit=0, workers=1).epoch(0):
        assert batch.images.unique().tolist() == [1]  # ignored, one thread


@pytest.fixture
def workers() -> Callable[[], list[multiprocessing.process.BaseProcess]]:
    """Processes started since then: other tests keep some for the whole session."""
    before = multiprocessing.active_children()
    return lambda: [child for child in multiprocessing.active_children() if child not in before]


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="this system does not tell who sends a signal")
def test_only_the_parent_ends_a_worker(workers):
    batches = loader(Images(800), memory_limit=0, workers=1).epoch(0)
    next(batches)
    (worker,) = workers()
    for name in ("TERM", "INT"):
        subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    assert len(list(batches)) == 99
    suspended = loader(Images(800), memory_limit=0, workers=1).epoch(0)
    next(suspended)
    (worker,) = workers()
    worker.terminate()  # as the interpreter does with workers that remain at its exit
    worker.join(60)
    assert worker.exitcode == 0


def test_left_epochs_leave_no_workers(workers):
    batches = loader(Images(800), memory_limit=0, workers=2).epoch(0)
    next(batches)
    assert len(workers()) == 2
    batches.close()
    assert workers() == []
    with pytest.raises(DataError) as error_info:
        list(loader(Images(16, bad=[3]), memory_limit=0, workers=2, max_unreadable=0.0).epoch(0))
    assert workers() == []
    assert error_info.value is not None


def test_auto_workers():
    assert workers_for(3) == loader_workers(3) == 3
    assert 1 <= workers_for("auto") <= min(8, os.cpu_count())
    assert loader(Images(16), workers="auto")._loader.num_workers == 0
    assert loader(Images(16), workers=2)._loader.num_workers == 0
    assert loader(Images(16), workers="auto", memory_limit=0)._loader.num_workers == loader_workers("auto")
    assert loader(Images(16), "all", workers="auto")._loader.num_workers == loader_workers("auto")


@pytest.mark.parametrize(
    ("processors", "processes", "workers"), [(64, 8, 8), (16, 8, 2), (4, 8, 1), (64, 1, 16), (12, None, 12)]
)
def test_training_processes_divide_the_processors(
    processors: int, processes: int | None, workers: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tables, "_usable_processors", lambda: processors)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert loader_workers("auto") == workers
    assert workers_for("auto") == min(processors, 8)
    torch_loader = loader(Images(16), workers="auto", memory_limit=0)._loader
    assert torch_loader.num_workers == workers
    assert torch_loader.num_workers * torch_loader.prefetch_factor <= 16


def test_workers_stay_from_epoch_to_epoch(workers):
    train = loader(Images(64), memory_limit=0, workers=2)
    batches = train.epoch(0, stop=2)
    assert len([next(batches), next(batches)]) == 2
    batches.close()  # as the engine does after the last batch of an epoch
    first = {worker.pid for worker in workers()}
    assert len(first) == 2
    whole = list(loader(Images(64)).epoch(1))
    assert_equal(list(train.epoch(1)), whole)
    assert_equal(list(train.epoch(1, stop=3)), whole[:3])
    assert {worker.pid for worker in workers()} == first
    train.close()
    assert workers() == []


def test_batches_for_a_gpu_are_pinned_by_the_loader(monkeypatch: pytest.MonkeyPatch):
    pinned: list[int] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self.data_ptr()) or self)
    assert not loader(Images(16))._loader.pin_memory
    assert loader(Images(16), pin=True)._loader.pin_memory
    image = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    for images in (image, [image, image.clone()]):
        batch = Batch(torch.arange(2), images, torch.zeros(2), [(1, "broken")])
        copy = batch.pin_memory()
        views = images if isinstance(images, list) else [images]
        assert pinned == [batch.ids.data_ptr(), *(view.data_ptr() for view in views), batch.labels.data_ptr()]
        assert (type(copy.images), copy.unreadable) == (type(images), batch.unreadable)
        pinned.clear()
    assert Batch(torch.arange(2), image).pin_memory().labels is None


# -- memory --------------------------------------------------------------------------------------------


def test_hold_keeps_what_fits():
    table = Images(20, bad=[3])
    memory_table = hold(table, 20 * 3 * SIDE * SIDE)
    assert isinstance(memory_table, MemoryTable)
    assert hold(memory_table) is memory_table
    assert hold(table, 20 * 3 * SIDE * SIDE - 1) is table
    assert hold(Images(20, varying=True)) is not memory_table
    assert (memory_table.size, memory_table.channels, memory_table.name(2)) == (table.size, 3, "2.jpg")
    assert np.array_equal(memory_table.ids, table.ids)
    assert np.array_equal(memory_table.labels, table.labels)
    assert torch.equal(memory_table.decode(5), table.decode(5))
    assert list(memory_table.unreadable) == [3]
    for _ in range(2):
        with pytest.raises(UnreadableImage, match=r"3\.jpg: truncated"):
            memory_table.decode(3)


# -- evaluation ----------------------------------------------------------------------------------------


def test_only_the_middle_of_a_strip_is_enlarged():
    strip = torch.zeros(1, 1, 4_000_000, dtype=torch.uint8)  # whole it would be 1 TB
    strip[..., 1_999_995:2_000_005] = 9
    assert EvaluationTransform.of(224, None).apply(strip).unique().tolist() == [9]


def test_images_of_the_right_size_stay_as_they_are_if_none_is_cropped():
    image = torch.randint(0, 256, (3, 48, 48), dtype=torch.uint8)
    assert torch.equal(EvaluationTransform(48).apply(image), image)


@pytest.mark.parametrize("workers", [0, 1, 3, "auto"])
@pytest.mark.parametrize("in_memory", [False, True])
def test_read_in_order_without_the_unreadable(workers, in_memory):
    table: ImageTable = Images(50, bad=[7, 8, 9, 30])
    table = hold(table) if in_memory else table
    indices = np.array([30, 40, 7, 8, 9, 0, 1, 2, 3, 49])
    reasons = []
    outputs = list(
        read(
            table,
            indices,
            size=SIDE,
            batch_size=2,
            workers=workers,
            on_unreadable=lambda index, reason: reasons.append((index, reason)),
        )
    )
    assert [rows.tolist() for rows, _ in outputs] == [[40], [0], [1, 2], [3, 49]]
    assert reasons == [(30, "truncated"), (7, "truncated"), (8, "truncated"), (9, "truncated")]
    plain = Images(50)
    for rows, pixels in outputs:
        assert rows.dtype == np.int64
        assert pixels.dtype == torch.float32
        assert torch.equal(pixels, torch.stack([plain.decode(row) for row in rows]).float() / 255)


def test_read_can_be_left_early_and_may_be_empty():
    reader = read(Images(500), np.arange(500), size=SIDE, batch_size=10, workers=2)
    next(reader)
    reader.close()
    assert list(read(Images(5), np.arange(0), size=SIDE)) == []
    assert list(read(Images(5, bad=range(5)), np.arange(5), size=SIDE)) == []


def test_encoded_photo_is_read_whole():
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), (10, 200, 90)).save(buffer, "PNG")

    class One(Images):
        def decode(self, index):
            from contrastive.datasets.decoding import decode_image

            return decode_image(buffer.getvalue(), "one")

    (_, pixels), *_ = read(One(1, varying=True), np.arange(1), size=16)
    assert (pixels * 255).round().unique(dim=0).shape == (1, 3, 16, 16)
    assert torch.allclose(pixels[0, :, 3, 3] * 255, torch.tensor([10.0, 200.0, 90.0]))


@pytest.mark.parametrize("size", [32, 224])
def test_an_image_for_evaluation_is_never_a_pixel_short(size: int):
    """49 pixels on each side become 32, not int(32 / 49 * 49) = 31."""
    transform = EvaluationTransform.of(size, None)
    for side in range(20, 120):
        for height, width in ((side, side), (side, side + 1), (side + 1, side)):
            square = transform.apply(torch.zeros(1, height, width, dtype=torch.uint8))
            assert square.shape == (1, size, size), (height, width)
