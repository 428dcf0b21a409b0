"""What processes send and hold in a step: counts of real steps against the formulas of the page."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import put
from torch import Tensor
from torch.nn.modules._functions import SyncBatchNorm

from contrastive import distributed
from contrastive.comparison import Comparison, comparison
from contrastive.losses import NTXent
from contrastive.registry import load_registry

communication = pytest.importorskip("communication", exc_type=ImportError)  # an older torch cannot fake a GPU
from collectives import Recorder, counts_of_fake_group, fake_group, record  # noqa: E402

ROOT = Path(__file__).parents[2]
METHODS = tuple(communication.FORMULAS)
#: Of the tiny networks of scripts/collectives.py: 28 x 28 pixels, patches of 4 x 4.
TINY = communication.Sizes(1, images=2, parameters=0, width=128, patches=49, queue=4096, pixels=28**2)
SIZES = {
    **dict.fromkeys(METHODS, TINY),
    "moco_v2, shuffle_bn": replace(TINY, queue=24),
    "dino": replace(TINY, width=12, views=4),
    "ibot": replace(TINY, width=12, views=4),
}
compare = NTXent.compare


def gathers_twice(loss: NTXent, comparison: Comparison) -> Tensor:
    """A planted fault: a gather that nobody needs."""
    comparison.gather(comparison.own_keys.z)  # [V B, D]
    return compare(loss, comparison)


def compares_all(loss: NTXent, comparison: Comparison) -> Tensor:
    """A planted fault: scores of all pairs of the global batch."""
    return compare(loss, comparison) + 0 * (comparison.keys.z @ comparison.keys.z.T).sum()  # [V B, V B]


def expected(method: str, processes: int, counts: dict[str, Any]) -> Any:
    """The bytes of a tiny step by the formula."""
    sizes = replace(SIZES[method], processes=processes, parameters=counts["parameters"])
    return communication.FORMULAS[method].of(sizes)


def growth(method: str, of_half: dict[str, Any], of_all: dict[str, Any]) -> tuple[int, int]:
    """How much more a process holds among 1,024 than among 512: counted, and by the formula."""
    half, whole = expected(method, 512, of_half), expected(method, 1024, of_all)
    return of_all["peak"] - of_half["peak"], whole.foreign - half.foreign


def test_a_step_among_1024_processes_sends_what_the_formula_says():
    for method, counts in counts_of_fake_group(1024, ["simclr", "dino"]).items():
        assert counts["payloads"] == expected(method, 1024, counts).payloads()
    assert distributed.world_size() == 1


def test_a_needless_gather_shows(monkeypatch):
    monkeypatch.setattr(NTXent, "compare", gathers_twice)
    counts = counts_of_fake_group(16, ["simclr"])["simclr"]
    payloads = expected("simclr", 16, counts).payloads()
    assert counts["payloads"] == {**payloads, "all-gather": payloads["all-gather"] + 4 * 128 * 8}


@pytest.mark.slow
@pytest.mark.parametrize("small", [2**20, 0])  # scores in float64, as of few images, and in float32
def test_among_1024_processes_bytes_sent_and_held_grow_as_the_formulas_say(small, monkeypatch):
    monkeypatch.setattr(comparison, "SMALL", small)
    half, whole = (counts_of_fake_group(count) for count in (512, 1024))
    for method in METHODS:
        assert whole[method]["payloads"] == expected(method, 1024, whole[method]).payloads(), method
        counted, by_formula = growth(method, half[method], whole[method])
        assert counted == by_formula, method
    for method, (trained, average) in communication.NORM_PASSES.items():
        passes = {("target" in path, count) for path, count in whole[method]["norm_passes"].items()}
        assert passes == {(False, trained)} | ({(True, average)} if average else set())


@pytest.mark.slow
def test_scores_of_all_pairs_of_the_global_batch_show(monkeypatch):
    monkeypatch.setattr(NTXent, "compare", compares_all)
    half, whole = (counts_of_fake_group(count, ["simclr"])["simclr"] for count in (512, 1024))
    counted, by_formula = growth("simclr", half, whole)
    assert counted > 5 * by_formula


@pytest.mark.slow
def test_one_process_sends_nothing():
    for method in METHODS:
        if method != "moco_v2, shuffle_bn":  # refused in one process
            assert record(method)["payloads"] == {}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_real_processes_send_what_the_formulas_say(processes):
    script = [str(ROOT / "scripts" / "collectives.py"), "--processes", str(processes)]
    output = subprocess.run([sys.executable, "-W", "ignore", *script], capture_output=True, text=True)
    assert output.returncode == 0, output.stderr
    ranks = json.loads(output.stdout)
    assert len(ranks) == processes
    for counts in ranks:
        for method in METHODS:
            assert counts[method]["payloads"] == expected(method, processes, counts[method]).payloads()


def test_batch_norm_of_all_processes_sends_what_the_formula_says(monkeypatch):
    """Torch's own function, with kernels that CPUs lack replaced by ones that return as much."""
    x, ones = torch.ones(6, 5, requires_grad=True), torch.ones(5)
    kernels = {
        "stats": lambda *_: [ones] * 2,
        "gather_stats_with_counts": lambda *_: [ones] * 2,
        "backward_reduce": lambda *_: [ones] * 4,
        "elemt": lambda x, *_: x.clone(),
        "backward_elemt": lambda x, *_: x.clone(),
    }
    for name, kernel in kernels.items():
        monkeypatch.setattr(torch, f"batch_norm_{name}", kernel)
    # With gloo it gathers into a list. A fake group fails at the flat tensor of other backends.
    monkeypatch.setattr(torch.distributed.ProcessGroup, "_get_backend_name", lambda _: "gloo")
    with fake_group(4), Recorder() as recorder:
        group = torch.distributed.group.WORLD
        SyncBatchNorm.apply(x, ones, ones, None, None, 1e-5, 0.1, group, 4).sum().backward()
    assert recorder.payloads == communication.norm_statistics([5], [], (1, 0)).payloads()


def test_the_queue_takes_what_the_formula_says():
    queue = load_registry().entry("negatives", "queue").load()(in_features=128, size=100)
    held = communication.moco_v2(replace(TINY, queue=100)).queue
    assert sum(buffer.nbytes for buffer in queue.buffers()) == held


def test_what_a_ring_sends():
    step = communication.Bytes(all_gather=10, all_reduce=8, broadcast=4)
    assert step.traffic(1) == 0
    assert step.traffic(4) == 3 * 10 + 2 * 8 * 3 / 4 + 4 * 3 / 4


@pytest.mark.slow
def test_the_page_has_these_tables():
    page = communication.PAGE.read_text()
    assert put(page, communication.MARK, communication.table()) == page
