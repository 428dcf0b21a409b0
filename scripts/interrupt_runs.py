"""Interrupt runs at twelve moments with SIGINT and SIGTERM, once and twice, and record what happens.

``python scripts/interrupt_runs.py WORK`` trains ``simclr`` on the Fashion-MNIST sample with a small encoder,
waits for the moment, and sends the signals as a terminal or a batch system does (Ctrl-C to the whole process
group, SIGTERM to one process). It notes what was printed, the exit code, how long it took, how many steps
were lost, and from which step the same command continues; what is wrong with that is printed, and gives exit
code 1. Moments that would pass too quickly are held by a call into C of six seconds. Each row is kept in
WORK: when restarted, the script continues. ``--page docs/runs.md`` puts the table between the page's markers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pages import put

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from contrastive.files import write_whole  # noqa: E402
from contrastive.training import Checkpoints, MetricsFile  # noqa: E402

SETS = {
    "backbone": "{name: timm, model: resnet10, stem: small, options: {width: 0.125}}",
    "train.batch_size": 128,
    "train.epochs": 400,
    "train.checkpoint_every": 400,
    "evaluate.every": 0,
    "evaluate.linear.l2": "[0.1]",
}
HERE = (sys.executable, "-m", "contrastive")
RUN = (*HERE, "run", "simclr", "--out=run")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m")
STEP = "contrastive.training.engine:Engine._update"


@dataclass(frozen=True)
class Moment:
    """When a process is interrupted.

    Attributes:
        slow_call: what takes :data:`SLOW` seconds there; None: the third step has been taken.
        number: which call of it is slow.
        sets: further ``--set`` options.
        command: the command line that comes to the moment, without ``--set`` options.
        processes: how many processes come to it.
    """

    slow_call: str | None
    number: int = 1
    sets: Mapping[str, Any] | None = field(default_factory=dict)
    command: tuple[str, ...] = RUN
    processes: int = 1

    def command_line(self) -> list[str]:
        pairs = {} if self.sets is None else {**SETS, **self.sets}
        return [*self.command, *(f"--set={key}={value}" for key, value in pairs.items())]


MOMENTS = {
    "opening the data": Moment("contrastive.build.builder:Builder._open"),
    "decoding": Moment("contrastive.datasets.fashion_mnist_sample:ArrayTable.decode", 500),
    "building the model": Moment("contrastive.build.builder:Builder.compose"),
    "a step": Moment(None),
    "a slow step": Moment(STEP, 5),
    "evaluation": Moment("contrastive.evaluation.evaluation:Evaluation.monitor", 1, {"evaluate.every": 1}),
    "saving": Moment("contrastive.training.checkpoints:Checkpoints._write", 1, {"train.checkpoint_every": 1}),
    "final evaluation": Moment(
        "contrastive.evaluation.evaluation:Evaluation.final", 1, {"train.max_steps": 3}
    ),
    "two processes": Moment(STEP, 5, command=(*RUN, "--processes=2"), processes=2),
    "torchrun": Moment(STEP, 5, command=(*TORCHRUN, *RUN[2:]), processes=2),
    "compare": Moment(STEP, 5, command=(*HERE, "compare", "simclr", "--seeds=1", "--out=comparison")),
    "evaluate": Moment(
        "contrastive.evaluation.evaluation:Evaluation.final",
        sets=None,
        command=(*HERE, "evaluate", "finished"),
    ),
}
WAYS = {"SIGINT": (signal.SIGINT, 1), "SIGINT twice": (signal.SIGINT, 2)} | {
    "SIGTERM": (signal.SIGTERM, 1),
    "SIGTERM twice": (signal.SIGTERM, 2),
}
PAUSE = 1.0  # seconds between two signals
SLOW = 6.0  # seconds that a slow call takes
PATIENCE = 180.0  # seconds for a moment to come, and for the process to end
#: Imported by every Python process of an attempt.
SITE = "import interrupt_runs\n\ninterrupt_runs.slow_down()\n"


@dataclass(frozen=True)
class Row:
    """What one attempt gave.

    Attributes:
        output: the lines printed after the first signal.
        delay: seconds from the first signal to the first of them.
        seconds: seconds from the last signal to the exit.
        steps_lost: steps in metrics.jsonl that no checkpoint holds; None without a run folder.
        whole: whether every checkpoint is whole.
        next_step: the step from which the same command continues; 0 if it begins, None if it does neither.
    """

    moment: str
    way: str
    output: list[str]
    delay: float | None
    code: int
    seconds: float
    steps_lost: int | None
    whole: bool
    next_step: int | None

    def stated_loss(self) -> int:
        """How many steps the command said were lost; metrics.jsonl is written one step late."""
        losses = re.findall(r"\blost (\d+) steps?", "\n".join(self.output))
        return max(map(int, losses), default=0)

    def faults(self) -> list[str]:
        """What is wrong with it."""
        text = "\n".join(self.output)
        is_torchrun = (
            self.moment == "torchrun"
        )  # it prints a traceback of its own, and passes on no second SIGINT
        is_saved = self.way != "SIGINT twice" or is_torchrun or "saved in" in text
        faults = {
            "exit code": self.code != (1 if is_torchrun else 130),
            "traceback": "Traceback" in text and not is_torchrun,
            "nothing said": not own_lines(self.output),
            "late answer": self.delay is None or self.delay > 1,
            "slow end": self.seconds > SLOW + 20,
            "more lost than said": (self.steps_lost or 0) > (0 if is_saved else self.stated_loss()),
            "damaged checkpoint": not self.whole,
            "does not resume": self.next_step is None,
        }
        return [name for name, is_fault in faults.items() if is_fault]


def own_lines(output: Sequence[str]) -> list[str]:
    """The lines in which the command reports that it was stopped."""
    return [line for line in output if re.match(r"(stopp|interrupted)", line)]


def attempt(name: str, way: str, place: Path) -> Row:
    """Come to the moment, send the signals, wait for the end, and start the same command again."""
    moment = MOMENTS[name]
    with command_of(moment, place, is_slow=True) as (process, log):
        wait_for(lambda: has_come(moment, place), process)
        time.sleep(0.5)
        size = log.stat().st_size
        delay, seconds = interrupt(process, way, lambda: log.stat().st_size > size)
        text = log.read_bytes()[size:].decode(errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    steps_lost, whole = state_of(run_folder(place))
    next_step = 0 if steps_lost is None else resumption(moment, place)
    return Row(name, way, lines, delay, process.returncode, seconds, steps_lost, whole, next_step)


def interrupt(
    process: subprocess.Popen[bytes], way: str, has_answered: Callable[[], bool]
) -> tuple[float | None, float]:
    """Send the signals and wait for the end: seconds to the answer, and from the last signal to the end."""
    number, count = WAYS[way]
    first, delay = time.monotonic(), None
    for index in range(count):
        if number == signal.SIGINT:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        elif process.poll() is None:
            process.send_signal(number)
        last = time.monotonic()
        end = last + (PAUSE if index + 1 < count else PATIENCE)
        while process.poll() is None and time.monotonic() < end:
            if delay is None and has_answered():
                delay = time.monotonic() - first
            time.sleep(0.01)
    return delay, time.monotonic() - last


@contextmanager
def command_of(
    moment: Moment, place: Path, *, is_slow: bool
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The command of a moment and the file with its output; at the end all its processes are killed."""
    log, site = place / ("first.log" if is_slow else "second.log"), place.parent / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(SITE)
    mark = f"{place}/{log.stem}"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(site), str(ROOT / "scripts"), str(ROOT)]),
        "OMP_NUM_THREADS": "1",
        "SLOW_CALL": (moment.slow_call or "") if is_slow else "",
        "SLOW_NUMBER": str(moment.number),
        "SLOW_MARK": mark,
    }
    with log.open("wb") as file:
        process = subprocess.Popen(
            moment.command_line(),
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,
            cwd=place,
        )
    try:
        yield process, log
    finally:
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"SLOW_MARK={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)
        process.wait()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until ``condition()``. Raises TimeoutError if the process ends before, or after much patience."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise TimeoutError(f"the moment did not come; exit code {process.returncode}")
        time.sleep(0.02)


def has_come(moment: Moment, place: Path) -> bool:
    if moment.slow_call is None:
        return steps_in(run_folder(place)) >= 3
    return len(list(place.glob("first.*.mark"))) == moment.processes


def run_folder(place: Path) -> Path:
    """The folder of the run, which compare names itself."""
    return next(iter(sorted((place / "runs").glob("*"))), place / "run")


def steps_in(folder: Path) -> int:
    """The last step in metrics.jsonl."""
    path = folder / "metrics.jsonl"
    lines = MetricsFile(path).read() if path.is_file() else []
    return int(lines[-1]["step"]) if lines else 0


def state_of(folder: Path) -> tuple[int | None, bool]:
    """How many steps no checkpoint holds, and whether all checkpoints are whole."""
    if not (folder / "checkpoints").is_dir():
        return None, True
    problems: list[str] = []
    checkpoints = Checkpoints(folder / "checkpoints", "", problems.append)
    whole = [step for step in checkpoints.steps() if checkpoints.load(step) is not None]
    return max(0, steps_in(folder) - max(whole, default=0)), not problems


def resumption(moment: Moment, place: Path) -> int | None:
    """The step from which the same command continues, and 0 if it begins; None if it does neither."""
    step: int | None = None

    def has_resumed() -> bool:
        nonlocal step
        if line := re.search(r"continuing from step (\d+)", log.read_text(errors="replace")):
            step = int(line[1])
        elif "epochs, " in log.read_text(errors="replace") and steps_in(run_folder(place)):
            step = 0
        return step is not None

    with command_of(moment, place, is_slow=False) as (process, log), suppress(TimeoutError):
        wait_for(has_resumed, process)
    return step


def slow_down() -> None:
    """In a process of an attempt: let the slow call take :data:`SLOW` seconds in C."""
    from pkgutil import resolve_name

    target = os.environ["SLOW_CALL"]
    if not target:
        return
    owner, _, name = target.rpartition(".")
    original, calls = getattr(resolve_name(owner), name), []

    def slow_call(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == int(os.environ["SLOW_NUMBER"]):
            Path(f"{os.environ['SLOW_MARK']}.{os.getpid()}.mark").touch()
            hold()
        return original(*arguments, **options)

    setattr(resolve_name(owner), name, slow_call)


def hold() -> None:
    """Stay in one call into C for :data:`SLOW` seconds."""
    start = time.monotonic()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 100_000)
    rounds = SLOW / (time.monotonic() - start)
    hashlib.pbkdf2_hmac("sha256", b"", b"", int(100_000 * rounds))


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| interrupted in | by | printed | exit code | seconds to the exit | steps lost | continues from |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        words = "; then: ".join(
            dict.fromkeys(
                re.sub(r"in \S*/\S+?([;.]?)(?= |$)", r"in DIR\1", line).rstrip(".")
                for line in own_lines(row.output)
            )
        )
        loss = "no run folder" if row.steps_lost is None else max(row.steps_lost, row.stated_loss())
        start = f"step {row.next_step}" if row.next_step else "the beginning"
        lines.append(
            f"| {row.moment} | {row.way} | {words or 'nothing'} | {row.code} "
            f"| {row.seconds:.1f} | {loss} | {start} |"
        )
    whole = sum(row.whole for row in rows)
    delays = [row.delay for row in rows if row.delay is not None]
    total = (
        f"Checkpoints were whole after {whole} of {len(rows)} attempts. The first line came at most\n"
        f"{1000 * max(delays, default=0):.0f} ms after the first signal. "
        f"The second signal came {PAUSE:g} s later."
    )
    return "\n".join([*lines, "", total]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python scripts/interrupt_runs.py", description=__doc__)
    parser.add_argument("work", type=Path, help="folder for runs and reports")
    parser.add_argument("--moments", nargs="*", default=list(MOMENTS), help="moments to try (all)")
    parser.add_argument("--page", type=Path, help="only write the current table into this page")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and leave no process behind
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    reports = {(m, w): work / f"{re.sub(r'[^a-zA-Z]+', '-', f'{m}-{w}')}.json" for m in MOMENTS for w in WAYS}
    if arguments.page:
        rows = [Row(**json.loads(path.read_text())) for path in reports.values() if path.is_file()]
        arguments.page.write_text(put(arguments.page.read_text(), "interrupts", table(rows)))
        return 0
    if "evaluate" in arguments.moments and not (work / "finished" / "summary.json").is_file():
        finish = Moment(None, sets={"train.max_steps": 2}, command=(*HERE, "run", "simclr", "--out=finished"))
        subprocess.run(finish.command_line(), check=True, cwd=work)
    is_fine = True
    for (moment, way), report in reports.items():
        if moment in arguments.moments and not report.is_file():
            place = work / "attempts" / report.stem
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            if moment == "evaluate":
                (place / "finished").symlink_to(work / "finished")
            row = attempt(moment, way, place)
            write_whole(report, json.dumps(asdict(row)))
            print(json.dumps({**asdict(row), "faults": row.faults()}), flush=True)
            is_fine &= not row.faults()
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
