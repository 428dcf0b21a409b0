"""Child processes that measure in turn: each is stopped, with all its workers, while it is not its turn.

A peer's workers, or our own, would otherwise prepare batches, or wait busily, at the other side's expense.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.harness import ROOT, MeasurementError


class Child:
    """A process that answers requests, one per line of its standard input, with a line of JSON each.

    It leads a process group, which runs only between a request and its answer.

    Args:
        command: to start it.
        what: it does, for messages: "the process that ...".
        cwd, environment: as of :class:`subprocess.Popen`.
    """

    def __init__(
        self, command: Sequence[str], what: str, cwd: Path, environment: Mapping[str, str] | None = None
    ):
        self.what = what
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.signal(signal.SIGCONT)
        with suppress(subprocess.TimeoutExpired):
            self.process.communicate(timeout=30)  # closes its input, which ends it
        self.signal(signal.SIGKILL)  # workers that it left, and itself if it hangs
        self.process.communicate()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the child and all its workers."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def request(self, name: str) -> Any:
        """The child's answer to a request. Raises MeasurementError if it has none."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.signal(signal.SIGCONT)
        with suppress(BrokenPipeError):  # it has exited; its last answer has the reason
            print(name, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        self.signal(signal.SIGSTOP)
        if not line:
            self.signal(signal.SIGCONT)
            raise MeasurementError(f"the process that {self.what} has exited with code {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise MeasurementError(answer["error"])
        return answer["value"]


class Contender(Child):
    """One side of a comparison, in a process of its own.

    Args:
        function: ``package.module:function``, which returns a measure.
        arguments: of the function, as JSON can hold them.
        environment: its variables, by default this process's.
    """

    def __init__(self, function: str, *arguments: Any, environment: Mapping[str, str] | None = None):
        command = [sys.executable, "-m", "benchmarks.children", function, json.dumps(arguments)]
        super().__init__(command, f"runs {function}", ROOT, environment)

    def measure(self) -> float:
        return float(self.request("measure"))


def serve(answer: Callable[[str], Any], subject: str) -> None:
    """Answer a parent's requests until standard input ends.

    Args:
        answer: the value for a request.
        subject: of the message if that fails: "... cannot run".
    """
    with os.fdopen(os.dup(1), "w") as channel:
        os.dup2(2, 1)  # what the code prints must not mix with the answers
        try:
            for line in sys.stdin:
                print(json.dumps({"value": answer(line.strip())}), file=channel, flush=True)
        except MeasurementError as error:
            print(json.dumps({"error": str(error)}), file=channel, flush=True)
        except Exception as error:
            traceback.print_exc()
            message = f"{subject} cannot run: {type(error).__name__}: {error}"
            print(json.dumps({"error": message}), file=channel, flush=True)


def main(function: str, arguments: str) -> None:
    """Serve the measure that a function returns."""
    module, _, name = function.partition(":")
    measures: list[Callable[[], float]] = []

    def answer(request: str) -> float:
        if not measures:
            measures.append(getattr(import_module(module), name)(*json.loads(arguments)))
        return measures[0]()

    serve(answer, function)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
