"""Inputs that are easily misread, tried through the command line alone.

    python scripts/try_inputs.py --python PATH [--only 2a 2b] [--jobs N] [--json FILE]

PATH is the interpreter of the environment to try. Every case makes its input in a scratch folder, runs a few
``contrastive`` commands there and judges exit code, output and files: an input is read as what it means, or
refused by a message that names what is wrong with it. Anything else counts as wrong, as does a traceback or a
command that takes too long. With ``--json`` finished cases are kept, and a repeated call tries only the
others. ``--page docs/data.md --column now`` writes the numbers of right cases into a column of the page's
table, and tries nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from inputs.case import FAULTS, Attempt, Call, Case, Outcome, Verdict
from inputs.registry import CASES
from pages import put

TIMEOUT = 300  # seconds per command
COLUMNS = ("1a738a1", "now")
MARK = "inputs"
#: Of every command: one thread, plain output, nothing from a network.
VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "NO_COLOR": "1",
    "COLUMNS": "200",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
}


class Environment:
    """The installation to try: an interpreter, and where its contrastive lies."""

    def __init__(self, python: str, timeout: float):
        self.python, self.timeout = python, timeout
        command = [python, "-c", "import contrastive; print(contrastive.__file__)"]
        self.file = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd="/"
        ).stdout.strip()

    def call(self, command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> Call:
        """Run a command line in a folder."""
        start = [self.python] if command[0].startswith("-") else [self.python, "-m", "contrastive"]
        caches = {"XDG_CACHE_HOME": str(folder / ".cache"), "HF_HOME": str(folder / ".huggingface")}
        process = subprocess.Popen(
            [*start, *command],
            cwd=folder,
            env={**os.environ, **VARIABLES, **caches, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        try:
            output, errors = process.communicate(timeout=self.timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
            return Call(command, None, output, f"{errors} stopped after {self.timeout:.0f} s")
        return Call(command, process.returncode, output, errors)


def outcome_of(attempt: Attempt, folder: Path, environment: Environment) -> Outcome:
    """Build the inputs of an attempt and run its steps."""
    attempt.build(folder)
    variables = {name: value.format(folder=folder) for name, value in attempt.variables}
    calls: list[Call] = []
    for step in attempt.steps:
        if callable(step):
            step(folder)
            continue
        calls.append(environment.call(step, folder, variables))
        if calls[0].code != 0:
            break
    return Outcome(folder, calls)


def verdict_of(case: Case, outcome: Outcome) -> Verdict:
    """The case's own verdict, unless one of its commands crashed or a judge could not read the outcome."""
    try:
        verdict = case.judge(outcome)
    except Exception as error:  # an output of another shape than any that is right
        verdict = Verdict(False, f"{type(error).__name__}: {error}")
    crash = next((call for call in outcome.calls if call.crash), None)
    if verdict.right and crash is not None:
        return Verdict(False, f"exit {crash.code}: {crash.text[-300:]}")
    return verdict


def try_cases(cases: Sequence[Case], environment: Environment, jobs: int) -> Iterator[tuple[Case, Verdict]]:
    """Every case with its verdict, as attempts finish; those with the most steps begin first."""
    attempts: dict[int, list[Case]] = {}
    for case in cases:
        attempts.setdefault(id(case.attempt), []).append(case)

    def work(group: list[Case]) -> list[tuple[Case, Verdict]]:
        with tempfile.TemporaryDirectory(prefix="inputs-") as scratch:
            outcome = outcome_of(group[0].attempt, Path(scratch).resolve(), environment)
            return [(case, verdict_of(case, outcome)) for case in group]

    groups = sorted(attempts.values(), key=lambda group: -len(group[0].attempt.steps))
    pool = ThreadPoolExecutor(jobs)
    try:
        for future in as_completed([pool.submit(work, group) for group in groups]):
            yield from future.result()
    finally:  # an interrupt waits for the attempts that run, not for all
        pool.shutdown(cancel_futures=True)


class Report:
    """Verdicts by the key of the case, kept in a file if there is one."""

    def __init__(self, path: Path | None, environment: Environment | None = None):
        self.path, self._lock = path, threading.Lock()
        self.verdicts: dict[str, Verdict] = {}
        self.file = None if environment is None else environment.file
        if path is not None and path.is_file():
            content = json.loads(path.read_text())
            if self.file not in (None, content["contrastive"]):
                sys.exit(f"{path} is of {content['contrastive']}, not of {self.file}; name another file.")
            self.file = content["contrastive"]
            self.verdicts = {key: Verdict(*value) for key, value in content["cases"].items()}

    def add(self, case: Case, verdict: Verdict) -> None:
        with self._lock:
            self.verdicts[case.key] = verdict
            if self.path is not None:
                content = {"contrastive": self.file, "cases": self.verdicts}
                partial = self.path.with_name(f".{self.path.name}.tmp")
                partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
                partial.replace(self.path)

    def counts(self) -> dict[str, tuple[int, int, int]]:
        """For each fault: right cases, cases with a verdict, and all."""
        rows = {}
        for fault in FAULTS:
            cases = [case for case in CASES if case.fault == fault]
            verdicts = [self.verdicts[case.key] for case in cases if case.key in self.verdicts]
            rows[fault] = sum(verdict.right for verdict in verdicts), len(verdicts), len(cases)
        return rows


def summary(report: Report) -> str:
    """A line per fault: right of the cases tried."""
    rows = {fault: row for fault, row in report.counts().items() if row[1]}
    lines = [
        f"{fault:4}{FAULTS[fault]:38}{right:4} of {verdicts}" for fault, (right, verdicts, _) in rows.items()
    ]
    right, verdicts = (sum(row[position] for row in rows.values()) for position in (0, 1))
    return "\n".join([*lines, f"{'all':42}{right:4} of {verdicts}"])


def table(page: str, column: str, report: Report) -> str:
    """The page's table with the numbers of a report in one column; the other column stays."""
    former = _cells(page)
    lines = [
        "| inputs | tried | " + " | ".join(f"right, {name}" for name in COLUMNS) + " |",
        "|---|--:|--:|--:|",
    ]
    sums = dict.fromkeys(COLUMNS, 0)
    counts = report.counts()
    for fault, (right, verdicts, total) in counts.items():
        if verdicts < total:
            sys.exit(f"{report.path}: {fault} has {verdicts} of {total} verdicts; finish it first.")
        values = {name: former.get((fault, name), "") for name in COLUMNS} | {column: str(right)}
        for name, value in values.items():
            sums[name] += int(value or 0)
        cells = " | ".join(values[name] for name in COLUMNS)
        lines.append(f"| {fault}: {FAULTS[fault]} | {total} | {cells} |")
    total = sum(row[2] for row in counts.values())
    cells = " | ".join(str(value) if value else "" for value in sums.values())
    return "\n".join([*lines, f"| all | {total} | {cells} |"]) + "\n"


def _cells(page: str) -> dict[tuple[str, str], str]:
    """Numbers of the page's table by fault and column."""
    cells = {}
    inside = page.partition(f"<!-- {MARK} -->")[2].partition(f"<!-- /{MARK} -->")[0]
    for line in inside.splitlines():
        parts = [part.strip() for part in line.strip("|").split("|")]
        fault = parts[0].partition(":")[0]
        if fault in FAULTS and len(parts) == 2 + len(COLUMNS):
            cells |= {(fault, name): value for name, value in zip(COLUMNS, parts[2:], strict=True)}
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python scripts/try_inputs.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--python", metavar="PATH", help="the interpreter of the environment to try")
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=[*FAULTS], help="faults to try (all)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="attempts at a time (processors)")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help=f"seconds per command ({TIMEOUT})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keeps the verdicts; resumes from them")
    parser.add_argument("--page", type=Path, help="only write the verdicts of FILE into this page's table")
    parser.add_argument("--column", choices=COLUMNS, default=COLUMNS[-1], help="of the table (now)")
    arguments = parser.parse_args()
    if arguments.page:
        text = arguments.page.read_text()
        arguments.page.write_text(put(text, MARK, table(text, arguments.column, Report(arguments.json))))
        return
    if arguments.python is None:
        parser.error("name an interpreter with --python")
    environment = Environment(arguments.python, arguments.timeout)
    print(environment.file, flush=True)
    report = Report(arguments.json, environment)
    cases = [case for case in CASES if case.fault in arguments.only and case.key not in report.verdicts]
    for case, verdict in try_cases(cases, environment, arguments.jobs):
        report.add(case, verdict)
        evidence = "" if verdict.right else f": {verdict.evidence}"
        print(f"{'right' if verdict.right else 'WRONG'}  {case.key}{evidence}", flush=True)
    print(summary(report))


if __name__ == "__main__":
    main()
