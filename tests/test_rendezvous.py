"""Processes that wait for each other: as long as the other works, not if it hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from datetime import timedelta

import pytest
import torch

from contrastive import distributed, rendezvous
from contrastive.errors import ContrastiveError
from contrastive.testing.processes import Pair

LIMIT = 1.0  # seconds


def slow_first() -> str:
    """Process 0 works for three limits while the other waits, and then the other."""
    rendezvous.set_limit(timedelta(seconds=LIMIT))

    def work() -> str:
        time.sleep(3 * LIMIT)
        return "made by the first"

    answer = distributed.on_first(work)
    distributed.on_each(lambda: time.sleep(3 * LIMIT * distributed.rank()))
    return answer


def hang(rank: int) -> str:
    """The message of a process whose partner stops in a collective of a step; that of ``rank`` stops."""
    rendezvous.set_limit(timedelta(seconds=LIMIT))
    if distributed.rank() == rank:
        subprocess.Popen(["sh", "-c", f"sleep {4 * LIMIT}; kill -CONT {os.getpid()}"])
        os.kill(os.getpid(), signal.SIGSTOP)
    try:
        distributed.mean(torch.ones(1))
    except RuntimeError as error:
        explanation = distributed.explain_lost_connection(error, LIMIT / 60)
        return str(explanation or error)
    return "no error"


def hang_first() -> str:
    """The message of process 1 if process 0 stops in work that the other waits for."""
    rendezvous.set_limit(timedelta(seconds=LIMIT))

    def stop() -> None:
        subprocess.Popen(["sh", "-c", f"sleep {4 * LIMIT}; kill -CONT {os.getpid()}"])
        os.kill(os.getpid(), signal.SIGSTOP)

    try:
        distributed.on_first(stop)
    except RuntimeError as error:
        return str(distributed.explain_lost_connection(error, LIMIT / 60) or error)
    return "no error"


@pytest.fixture
def pair():
    """Two processes of their own: a collective that times out ends their connection."""
    processes = Pair()
    yield processes
    processes.close()


@pytest.mark.slow
def test_waiting_for_work_is_not_a_hang_and_a_stopped_process_is(pair: Pair):
    assert pair.call(slow_first) == ["made by the first"] * 2
    first, _ = pair.call(hang, 1)
    assert first.startswith("process 0 of 2 waited 0.0166667 min (train.timeout) for another process, which ")


@pytest.mark.slow
def test_a_first_process_that_stops_while_the_other_waits_is_noticed(pair: Pair):
    _, second = pair.call(hang_first)
    assert "process 1 of 2 waited 0.0166667 min (train.timeout) for another process" in second


def test_other_errors_are_not_explained(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    assert distributed.explain_lost_connection(RuntimeError("mat1 and mat2 cannot be multiplied"), 1) is None
    lost = distributed.explain_lost_connection(RuntimeError("[gloo] Connection closed by peer"), 1)
    assert isinstance(lost, ContrastiveError)
    assert "has exited" in str(lost)
