"""What is printed when a signal comes while a run trains."""

from __future__ import annotations

import os
import signal
import time

import pytest

from contrastive import interrupts
from contrastive.errors import Interrupted
from contrastive.training.state import State
from contrastive.training.stopping import Stopping


def notice(number: signal.Signals, *, breaks: bool = False) -> str:
    """What is printed at a signal after step 7, when step 4 is saved."""
    state, messages = State(), []
    stopping = Stopping(state)
    state.step = 4
    stopping.note_save()
    state.step = 7
    with interrupts.guard(), interrupts.printing(messages.append, lambda: None):
        try:
            with stopping.after("this work", breaks=breaks):
                os.kill(os.getpid(), number)
                time.sleep(0.1)
        except Interrupted:
            assert breaks
        deadline = time.monotonic() + 10
        while not messages and time.monotonic() < deadline:
            time.sleep(0.01)
    return messages[0]


@pytest.mark.parametrize("breaks", [False, True])
def test_the_first_signal_names_what_a_second_ctrl_c_loses(breaks: bool):
    work = "this work" if breaks else "after this work"
    assert (
        notice(signal.SIGINT, breaks=breaks) == f"stopping {work}; press again to stop now and lose 3 steps"
    )
    assert notice(signal.SIGTERM, breaks=breaks) == (
        f"stopping {work}; press Ctrl-C to stop now and lose 3 steps"
    )


def test_torchrun_passes_on_no_second_ctrl_c_so_none_is_suggested(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    for number in (signal.SIGINT, signal.SIGTERM):
        assert notice(number) == "stopping after this work; if torchrun ends it first, you lose 3 steps"
