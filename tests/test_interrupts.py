"""What SIGINT and SIGTERM do to a process, in whatever call it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from contrastive import interrupts
from contrastive.errors import Interrupted

#: A process that is in one call into C, which no signal handler can enter, when the signals come.
SCRIPT = """
import hashlib, os, sys, time
from contrastive import interrupts

def hold(seconds):
    start = time.monotonic()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 100_000)
    hashlib.pbkdf2_hmac("sha256", b"", b"", int(100_000 * seconds / (time.monotonic() - start)))

step = interrupts.Response(
    lambda number: "stopping after this step", lambda: "lost 3 steps", breaks=False, ends=False
)
response, seconds = (interrupts.Response(), 60) if "break" in sys.argv else (step, float(sys.argv[1]))
with interrupts.guard(owns_process=True), interrupts.responding(response):
    print("ready", flush=True)
    hold(seconds)
    print("saved" if interrupts.stop_requested() else "no signal", flush=True)
"""


def start(*arguments: str, code: str = SCRIPT) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    return process


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.readline()


def test_the_first_signal_is_answered_at_once_and_a_second_sigint_ends_a_long_native_call():
    process = start("60")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert first_line(process) == "stopping after this step\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (out, err) == ("", "lost 3 steps\n")
    assert process.returncode == 130
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_sigterm_is_held_until_the_work_is_saved(first: signal.Signals):
    process = start("1.2")
    process.send_signal(first)
    assert first_line(process) == "stopping after this step\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30) == ("saved\n", "")
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_work_that_can_be_broken_off_ends_in_a_long_native_call(number: signal.Signals):
    process = start("break")
    process.send_signal(number)
    assert first_line(process) == "interrupted\n"
    assert process.wait(timeout=30) == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_after_the_work_leaves_the_exit_code(number: signal.Signals):
    """torch takes seconds to shut down."""
    code = SCRIPT + "print('over', flush=True)\nhold(1.2)\nsys.exit(130)"
    process = start("0.6", code=code)
    process.send_signal(number)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["saved\n", "over\n"]
    process.send_signal(number)
    assert process.wait(timeout=30) == 130


def test_a_stopped_command_ends_although_its_process_does_not_shut_down():
    end = "    interrupts.GRACE = 0.2\n    interrupts.end_soon()\nprint('over', flush=True)\nhold(60)\n"
    process = start("0.5", code=SCRIPT + end)
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["saved\n", "over\n"]
    assert process.wait(timeout=30) == 130


def test_a_signal_to_a_forked_worker_is_none_to_its_parent(capsys: pytest.CaptureFixture[str]):
    response = interrupts.Response(breaks=False, ends=False)
    with interrupts.guard(), interrupts.responding(response):
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        time.sleep(0.2)
        assert not interrupts.stop_requested()
    assert capsys.readouterr().err == ""


def test_in_a_program_of_someone_else_a_second_sigint_is_a_keyboard_interrupt():
    before = signal.getsignal(signal.SIGINT)
    response = interrupts.Response(breaks=False, ends=False)
    with interrupts.guard(), interrupts.responding(response):
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.stop_requested()
        os.kill(os.getpid(), signal.SIGTERM)  # held
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert not interrupts.stop_requested()


def test_a_signal_between_two_stages_breaks_off_the_next():
    step = interrupts.Response(lambda _: "stopping", breaks=False, ends=False)
    with interrupts.guard():
        with interrupts.responding(step):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted), interrupts.responding(interrupts.Response()):
            pytest.fail("it begins nothing")


def test_torchrun_passes_on_what_its_workers_got_themselves(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    process = start("1.2")
    process.send_signal(signal.SIGINT)
    assert first_line(process) == "stopping after this step\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("saved\n", "")
