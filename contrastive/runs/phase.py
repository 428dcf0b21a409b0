"""What a run does before its first step and after its last: a phase, such as opening the data set."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from contrastive.text import duration

#: Seconds that a phase lasts before a plain line names it, and the most between two such lines.
FIRST_LINE, LONGEST_PAUSE = 2.0, 60.0


class Phase:
    """A phase of a run that has begun.

    Attributes:
        text: what is going on; replaced as it advances.
    """

    def __init__(self, text: str):
        self.text = text
        self._start = time.monotonic()
        self._end = threading.Event()

    def __str__(self) -> str:
        """The text, and how long the phase lasts already."""
        return f"{self.text}  {duration(time.monotonic() - self._start)}"

    def print_while_it_lasts(self, log: Callable[[str], None], delay: float = FIRST_LINE) -> None:
        """Print plain lines from a thread, whatever the main thread does.

        One after ``delay`` seconds, then one whenever the text has changed, with pauses that double.
        """

        def report() -> None:
            pause, last = delay, ""
            while not self._end.wait(pause):
                if self.text != last:
                    last = self.text
                    log(last)
                    pause = min(2 * pause, LONGEST_PAUSE)

        threading.Thread(target=report, daemon=True).start()

    def end(self) -> None:
        """Print no more lines."""
        self._end.set()
