"""Two checkouts of this project, timed in turn: the work of ``python -m benchmarks --against PATH``.

Each benchmark runs in two child processes, one per checkout, that take turns, so that a drift of the
machine's speed meets both. Both run the benchmarks of this file's checkout; ``contrastive`` and the plugins
are those of the child's own. Bytecode goes to a scratch folder, so that nothing is written into a checkout.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.children import Child, serve
from benchmarks.harness import ROOT, Case, MeasurementError, Row, commit, pair

#: Imports this checkout's benchmarks, and leaves its folder out of the path of everything else.
START = (
    "import sys; sys.path.insert(0, sys.argv[1]); import benchmarks; del sys.path[0]; "
    "from benchmarks.against import serve_cases; serve_cases(*sys.argv[2:])"
)


def check_checkout(path: Path) -> None:
    if not (path / "contrastive" / "__init__.py").is_file():
        raise MeasurementError(f"{path} is not a checkout of this project: it has no contrastive/__init__.py")


def label(checkout: Path) -> str:
    """What tables call a checkout: its commit, or else its folder."""
    return commit(checkout) or checkout.resolve().name


def rows(module: str, ours: Path, other: Path, scratch: Path) -> Iterator[Row]:
    """Every case of a benchmark, the checkout ``ours`` against ``other``.

    Args:
        scratch: a folder for the bytecode of both, which further benchmarks can share.

    Raises:
        MeasurementError: a child imports code from elsewhere, fails, or lists other cases than ours.
    """
    with ExitStack() as stack:
        mine, theirs = (stack.enter_context(Side(path, module, scratch)) for path in (ours, other))
        while True:
            case, counterpart = mine.next_case(), theirs.next_case()
            if (case and case.what) != (counterpart and counterpart.what):
                raise MeasurementError(f"{module} does not time the same cases in {ours} and {other}")
            if case is None or counterpart is None:
                return
            yield pair(case, counterpart.measure, peer=label(other))


class Side(Child):
    """A child process that measures the cases of a benchmark with the code of one checkout."""

    def __init__(self, checkout: Path, module: str, scratch: Path):
        checkout = checkout.resolve()
        paths = [checkout, *sorted(checkout.glob("plugins/*/"))]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "PYTHONPYCACHEPREFIX": str(scratch / "bytecode"),
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # without it every start would compile
        command = [sys.executable, "-c", START, str(ROOT), str(checkout), module]
        super().__init__(command, f"runs {module} with {checkout}", scratch, environment)

    def next_case(self) -> Case | None:
        case = self.request("next")
        return case and Case(**case, measure=lambda: self.request("measure"))


def serve_cases(checkout: str, module: str) -> None:
    """Answer ``next`` with the next case of a benchmark, or None, and ``measure`` with its time."""
    cases: Iterator[Case] | None = None
    case: Case | None = None

    def answer(request: str) -> Any:
        nonlocal cases, case
        if cases is None:
            check_imports(Path(checkout))
            cases = import_module(module).cases()
        if request == "next":
            case = next(cases, None)
            return case and {key: value for key, value in vars(case).items() if key != "measure"}
        assert case is not None
        return case.measure()

    serve(answer, f"{module} with {checkout}")


def check_imports(checkout: Path) -> None:
    """Raises MeasurementError unless contrastive and the plugins of ``checkout`` are imported from it."""
    plugins = {path.stem for path in checkout.glob("plugins/*/contrastive_*")}
    for name in ("contrastive", *sorted(plugins)):
        spec = find_spec(name)
        origin = spec and spec.origin
        if not (origin and Path(origin).resolve().is_relative_to(checkout)):
            raise MeasurementError(f"{name} would be imported from {origin}, which is not in {checkout}")
