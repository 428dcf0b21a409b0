"""What other programs use of the processors, and that ``profile`` says so."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from contrastive.commands import contention, profiler
from contrastive.commands.contention import Contention


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine of four processors: seconds of all programs, of this one and on the clock."""
    state = SimpleNamespace(busy=100.0, own=20.0, clock=0.0)
    monkeypatch.setattr(contention, "_busy_seconds", lambda: state.busy)
    monkeypatch.setattr(contention, "_own_seconds", lambda: state.own)
    monkeypatch.setattr(contention.psutil, "cpu_count", lambda: 4)
    monkeypatch.setattr(contention.time, "perf_counter", lambda: state.clock)
    return state


@pytest.mark.parametrize(
    ("busy", "own", "share"),
    [(20.0, 20.0, 0.0), (30.0, 20.0, 0.25), (19.0, 20.0, 0.0), (90.0, 0.0, 1.0)],
)
def test_the_share_of_other_programs(machine, busy, own, share):
    measurement = Contention()
    machine.busy, machine.own, machine.clock = 100 + busy, 20 + own, 10.0
    assert measurement.share() == pytest.approx(share)


def test_work_of_a_child_is_our_own():
    before = contention._own_seconds()
    code = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert contention._own_seconds() - before >= 0.3
    assert contention._busy_seconds() > 0


@pytest.mark.parametrize(("share", "is_reported"), [(0.09, False), (0.42, True)])
def test_a_profile_says_if_the_machine_was_busy(share, is_reported, tiny_recipe, monkeypatch, capsys):
    monkeypatch.setattr(Contention, "share", lambda self: share)
    profiler.render(report := profiler.profile(tiny_recipe, steps=1))
    assert report["other_programs"] == share
    text = " ".join(capsys.readouterr().out.split())
    assert ("other programs used 42.0 % of its processors, so these times are long." in text) is is_reported
