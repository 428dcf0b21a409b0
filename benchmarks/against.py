"""Two checkouts of this project, timed in turn: the work of ``python -m benchmarks --against PATH``.

Each benchmark runs in two child processes, one per checkout, that take turns, so that a drift of the
machine's speed meets both. Both run the benchmarks of this file's checkout; ``contrastive`` and the plugins
are those of the child's own. Bytecode goes to a scratch folder, so that nothing is written into a checkout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.harness import ROOT, Case, Row, commit, pair

#: Imports this checkout's benchmarks, and leaves its folder out of the path of everything else.
START = (
    "import sys; sys.path.insert(0, sys.argv[1]); import benchmarks; del sys.path[0]; "
    "from benchmarks.against import serve; serve(*sys.argv[2:])"
)


class AgainstError(Exception):
    """Why two checkouts cannot be compared, in one sentence."""


def check_checkout(path: Path) -> None:
    if not (path / "contrastive" / "__init__.py").is_file():
        raise AgainstError(f"{path} is not a checkout of this project: it has no contrastive/__init__.py")


def label(checkout: Path) -> str:
    """What tables call a checkout: its commit, or else its folder."""
    return commit(checkout) or checkout.resolve().name


def rows(module: str, ours: Path, other: Path, scratch: Path) -> Iterator[Row]:
    """Every case of a benchmark, the checkout ``ours`` against ``other``.

    Args:
        scratch: a folder for the bytecode of both, which further benchmarks can share.

    Raises:
        AgainstError: a child imports code from elsewhere, fails, or lists other cases than ours.
    """
    with ExitStack() as stack:
        mine, theirs = (stack.enter_context(Side(path, module, scratch)) for path in (ours, other))
        while True:
            case, counterpart = mine.next_case(), theirs.next_case()
            if (case and case.what) != (counterpart and counterpart.what):
                raise AgainstError(f"{module} does not time the same cases in {ours} and {other}")
            if case is None or counterpart is None:
                return
            yield pair(case, counterpart.measure, peer=label(other))


class Side:
    """A child process that measures the cases of a benchmark with the code of one checkout."""

    def __init__(self, checkout: Path, module: str, scratch: Path):
        self.checkout, self.module = checkout.resolve(), module
        paths = [self.checkout, *sorted(self.checkout.glob("plugins/*/"))]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "PYTHONPYCACHEPREFIX": str(scratch / "bytecode"),
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # without it every start would compile
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(ROOT), str(self.checkout), module],
            cwd=scratch,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Side:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.process.communicate(timeout=30)  # closes its input, which ends it
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()

    def next_case(self) -> Case | None:
        case = self.request("next")
        return case and Case(**case, measure=lambda: self.request("measure"))

    def request(self, name: str) -> Any:
        """The answer of the child to ``next`` or ``measure``."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):  # it has exited; its last answer has the reason
            print(name, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise AgainstError(
                f"the process that runs {self.module} with {self.checkout} has exited "
                f"with code {self.process.wait()}"
            )
        answer = json.loads(line)
        if "error" in answer:
            raise AgainstError(answer["error"])
        return answer["value"]


def serve(checkout: str, module: str) -> None:
    """Answer a parent's requests, one per line of standard input, with a line of JSON."""
    with os.fdopen(os.dup(1), "w") as channel:
        os.dup2(2, 1)  # what the code prints must not mix with the answers

        def reply(**answer: Any) -> None:
            print(json.dumps(answer), file=channel, flush=True)

        try:
            check_imports(Path(checkout))
            _answer_requests(import_module(module).cases(), reply)
        except AgainstError as error:
            reply(error=str(error))
        except Exception as error:
            traceback.print_exc()
            reply(error=f"{module} cannot run with {checkout}: {type(error).__name__}: {error}")


def check_imports(checkout: Path) -> None:
    """Raises AgainstError unless this process imports contrastive and the plugins of ``checkout`` from it."""
    plugins = {path.stem for path in checkout.glob("plugins/*/contrastive_*")}
    for name in ("contrastive", *sorted(plugins)):
        spec = find_spec(name)
        origin = spec and spec.origin
        if not (origin and Path(origin).resolve().is_relative_to(checkout)):
            raise AgainstError(f"{name} would be imported from {origin}, which is not in {checkout}")


def _answer_requests(cases: Iterator[Case], reply: Any) -> None:
    case: Case | None = None
    for line in sys.stdin:
        if line.strip() == "next":
            case = next(cases, None)
            reply(value=case and {k: v for k, v in vars(case).items() if k != "measure"})
        elif case is not None:
            reply(value=case.measure())
