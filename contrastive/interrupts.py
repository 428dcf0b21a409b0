"""What SIGINT and SIGTERM do: the first asks the process to stop, and a second SIGINT stops it at once.

Python runs a signal handler between two bytecodes of the main thread, so a slow step or a long decode would
delay it. Here a thread of its own wakes up at each signal. It prints at once what happens and, if the process
is to end, ends it whatever the main thread does. Files are written whole or not at all, so that is safe.

A second SIGTERM is ignored: launchers and batch systems send it to the processes and once more to their
parent, which passes it on.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

from contrastive.errors import Interrupted

#: Seconds in which a process that abandons its work cleans up.
GRACE = 3.0
#: Seconds after which the main thread no longer waits for the answer to a signal.
_LONGEST_ANSWER = 1.0
#: Seconds in which torchrun passes on a signal that its workers may have got themselves.
_TORCHRUN_WINDOW = 2.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_END = b"\0"  # ends the thread that listens


def _nothing() -> str:
    return ""


@dataclass(frozen=True)
class Response:
    """What a stage of the work does when the user asks to stop.

    Attributes:
        notice: returns what is printed at the first signal, whose number it gets.
        loss: returns what is printed when a second SIGINT ends the process.
        breaks: whether the first signal breaks the stage off: KeyboardInterrupt in the main thread. Otherwise
            the stage looks at :func:`stop_requested`.
        ends: whether the process then ends after :data:`GRACE`, also in the middle of a native call.
        pass_on: sends a signal on to the processes that do the work.
    """

    notice: Callable[[int], str] = lambda _: "interrupted"
    loss: Callable[[], str] = _nothing
    breaks: bool = True
    ends: bool = True
    pass_on: Callable[[int], None] | None = None


def passing_on(send: Callable[[int], None]) -> Response:
    """The response of a process that waits for others: ``send`` gives them each signal, and they answer it.

    A second SIGINT ends it a little later than them.
    """
    return Response(lambda _: "", breaks=False, ends=False, pass_on=send)


def is_first_process() -> bool:
    """Whether this process prints for all that a launcher started, as far as its environment shows it."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def is_under_torchrun() -> bool:
    """Whether torchrun, or accelerate launch with it, started this process.

    Each process then has a session of its own, which no terminal interrupts, and gets SIGINT or SIGTERM once.
    """
    return "TORCHELASTIC_RUN_ID" in os.environ


def print_on_stderr(message: str) -> None:
    """Print a message at once."""
    print(message, file=sys.stderr, flush=True)


class _Guard:
    """The signals of this process.

    Args:
        owns_process: whether it may end the process. Otherwise a second SIGINT raises KeyboardInterrupt.
    """

    def __init__(self, owns_process: bool):
        self.owns_process = owns_process
        self.responses = [Response()]
        self.printers: list[Callable[[str], None]] = [print_on_stderr]
        self.is_stopping = False  # as the main thread sees it
        self.is_broken_off = False
        self.message = ""
        self.process = os.getpid()
        self._first_answer: float | None = None
        self._answer_printed = threading.Event()  # set once it is printed what the first signal does
        self.closers: list[Callable[[], None]] = []

    def handle(self, number: int, _: FrameType | None) -> None:
        """The signal handler: in the main thread, perhaps long after the signal."""
        if os.getpid() != self.process:
            return  # a worker that was forked from this process: its parent answers
        is_first, self.is_stopping = not self.is_stopping, True
        if is_first:
            self._answer_printed.wait(_LONGEST_ANSWER)  # or another stage would answer
        if is_first and self.responses[-1].breaks:
            self.is_broken_off = self.responses[-1].ends
            raise KeyboardInterrupt
        if not is_first and number == signal.SIGINT and not self.owns_process:
            raise KeyboardInterrupt

    def answer(self, number: int) -> None:
        """Print what a signal does, and do what cannot wait for the main thread."""
        now, response = time.monotonic(), self.responses[-1]
        if self._first_answer is None:
            self._first_answer = now
            self.print(response.notice(number))
            if response.breaks and response.ends and self.owns_process:
                self.exit_after(GRACE)
            self._answer_printed.set()
        elif number == signal.SIGINT and now - self._first_answer >= _window():
            if self.owns_process:
                self.exit_after(GRACE if response.pass_on else 0.5)  # even if printing waits for a lock
            self.print(response.loss())
            if self.owns_process and not response.pass_on:
                self._exit()
        else:
            return
        if response.pass_on:
            response.pass_on(number)

    def print(self, message: str) -> None:
        """Print a message unless another process of the run prints it."""
        if message and is_first_process():
            self.message = message
            with suppress(Exception):  # the terminal is gone: the signal counts all the same
                self.printers[-1](message)

    def _exit(self) -> None:
        threading.Timer(0.5, os._exit, (Interrupted.exit_code,)).start()  # closing may wait for a lock
        for close in self.closers:
            close()
        os._exit(Interrupted.exit_code)

    def exit_after(self, seconds: float) -> None:
        timer = threading.Timer(seconds, self._exit)
        timer.daemon = True
        timer.start()


_guard: _Guard | None = None


def _window() -> float:
    """Seconds after the first signal in which a SIGINT is the same request."""
    return _TORCHRUN_WINDOW if is_under_torchrun() else 0.0


@contextmanager
def guard(*, owns_process: bool = False) -> Iterator[None]:
    """Answer SIGINT and SIGTERM within the block, unless a block around it does already.

    Outside the main thread signals cannot be caught, and nothing changes.

    Args:
        owns_process: whether the process may be ended: that of a command, not one that imports contrastive.
    """
    global _guard
    if _guard is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    guard = _Guard(owns_process)
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    listener = threading.Thread(target=_listen, args=(read_end, guard), daemon=True)
    listener.start()
    wakeup = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    before: dict[int, Any] = {number: signal.signal(number, guard.handle) for number in _SIGNALS}
    _guard = guard
    try:
        yield
    finally:
        _guard = None
        for number, handler in before.items():
            if owns_process and guard.is_stopping:  # everything is said and saved, and the process is ending
                handler = signal.SIG_IGN
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(wakeup)
        os.write(write_end, _END)  # a forked worker may have the pipe too, so closing it ends nothing
        listener.join(GRACE)
        os.close(write_end)


def _listen(read_end: int, guard: _Guard) -> None:
    with os.fdopen(read_end, "rb", buffering=0) as pipe:
        while (number := pipe.read(1)) != _END:
            if number[0] in _SIGNALS:
                guard.answer(number[0])


def _forget_wakeup() -> None:
    """In a forked process: its signals must not wake the listener of its parent."""
    if _guard is not None:
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget_wakeup)


@contextmanager
def responding(response: Response) -> Iterator[None]:
    """Answer signals with ``response`` within the block; nothing changes without :func:`guard`.

    Raises:
        Interrupted: the first signal came, and ``response.breaks``.
    """
    guard = _guard
    if guard is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        guard.responses.append(response)
        if response.breaks and guard.is_stopping:
            raise KeyboardInterrupt  # a signal came while the stage before this one ended
        yield
    except KeyboardInterrupt:
        if response.breaks:
            raise Interrupted(guard.message or "interrupted") from None
        raise
    finally:
        guard.responses.remove(response)


@contextmanager
def printing(printer: Callable[[str], None], close: Callable[[], None]) -> Iterator[None]:
    """Print what signals do by ``printer`` within the block, such as above a live line.

    Args:
        close: called before the process ends at once, to leave the terminal as it was.
    """
    guard = _guard
    if guard is None:
        yield
        return
    guard.printers.append(printer)
    guard.closers.append(close)
    try:
        yield
    finally:
        guard.printers.remove(printer)
        guard.closers.remove(close)


def end_soon() -> None:
    """End the process of a command that was stopped within :data:`GRACE`: torch takes longer to shut down."""
    if _guard is not None and _guard.owns_process and _guard.is_stopping:
        sys.stdout.flush()
        _guard.exit_after(GRACE)


def stop_requested() -> bool:
    """Whether a signal has asked this process to stop."""
    return _guard is not None and _guard.is_stopping


def is_broken_off() -> bool:
    """Whether a signal broke off work that ends with it, so that any error since then may be its effect."""
    return _guard is not None and _guard.is_broken_off


def has_printed(message: str) -> bool:
    """Whether this message was printed when the signal came."""
    return _guard is not None and _guard.message == message
