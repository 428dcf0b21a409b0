"""Interrupt runs at twelve moments with SIGINT and SIGTERM, once and twice, and record what happens.

``python scripts/interrupt_runs.py WORK`` trains ``simclr`` on the Fashion-MNIST sample with a small encoder,
waits for the moment, sends the signals as a terminal or a batch system does (Ctrl-C to the whole process
group, SIGTERM to one process), and notes what was printed, the exit code, how long it took, and how many
steps were lost. Moments that would pass too quickly are held by a call into C of six seconds. Each row is
kept in WORK: when restarted, the script continues. ``--page docs/runs.md`` puts the table between the page's
markers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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
#: Moment -> (what is held there by a slow call, further --set options).
SLOW_CALLS: dict[str, tuple[str | None, Mapping[str, Any]]] = {
    "opening the data": ("contrastive.build.builder:Builder._open", {}),
    "decoding": ("contrastive.datasets.fashion_mnist_sample:ArrayTable.decode", {}),
    "building the model": ("contrastive.build.builder:Builder.compose", {}),
    "a step": (None, {}),
    "a slow step": ("contrastive.training.engine:Engine._update", {}),
    "evaluation": ("contrastive.evaluation.evaluation:Evaluation.monitor", {"evaluate.every": 1}),
    "saving": ("contrastive.training.checkpoints:Checkpoints._write", {"train.checkpoint_every": 1}),
    "final evaluation": ("contrastive.evaluation.evaluation:Evaluation.final", {"train.max_steps": 3}),
}
#: Which call is slow, if not the first.
SLOW_CALL_NUMBER = {"a slow step": 5, "decoding": 500}
COMMANDS = ("two processes", "torchrun", "compare", "evaluate")
MOMENTS = (*SLOW_CALLS, *COMMANDS)
WAYS = {"SIGINT": (signal.SIGINT, 1), "SIGINT twice": (signal.SIGINT, 2)} | {
    "SIGTERM": (signal.SIGTERM, 1),
    "SIGTERM twice": (signal.SIGTERM, 2),
}
PAUSE = 1.0  # seconds between two signals
SLOW = 6.0  # seconds that a slow call takes
PATIENCE = 120.0  # seconds for a moment to come, and for the process to end


@dataclass(frozen=True)
class Row:
    """What one attempt gave.

    Attributes:
        output: the lines printed after the first signal.
        delay: seconds from the first signal to the first of them.
        seconds: seconds from the last signal to the exit.
        steps_lost: steps in metrics.jsonl that no checkpoint holds; None without a run folder.
        whole: whether every checkpoint is whole.
    """

    moment: str
    way: str
    output: list[str]
    delay: float | None
    code: int
    seconds: float
    steps_lost: int | None
    whole: bool


def sets(more: Mapping[str, Any] = {}) -> list[str]:
    return [f"--set={key}={value}" for key, value in {**SETS, **more}.items()]


def command(moment: str, folder: Path, work: Path) -> list[str]:
    """The command line that comes to the moment."""
    here = [sys.executable, "-m", "contrastive"]
    run = ["run", "simclr", f"--out={folder}"]
    if moment in SLOW_CALLS:
        return [sys.executable, __file__, str(work), "--child", moment, *run, *sets(SLOW_CALLS[moment][1])]
    return {
        "two processes": [*here, *run, "--processes=2", *sets()],
        "torchrun": [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"),
            *("-m", "contrastive", *run, *sets()),
        ],
        "compare": [*here, "compare", "simclr", "--seeds=1", f"--out={folder}", *sets()],
        "evaluate": [sys.executable, __file__, str(work), "--child", moment, "evaluate", "finished"],
    }[moment]


def attempt(moment: str, way: str, work: Path) -> Row:
    """Come to the moment, send the signals, and wait for the end."""
    name = re.sub(r"\W+", "-", f"{moment}-{way}")
    folder, log = work / name, work / f"{name}.log"
    environment = {**os.environ, "SLOW_MARK": str(work / f"{name}.mark"), "OMP_NUM_THREADS": "1"}
    with log.open("wb") as file:
        process = subprocess.Popen(
            command(moment, folder, work),
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,
            cwd=work,
        )
    wait_for(moment, folder, Path(environment["SLOW_MARK"]), process, work)
    time.sleep(0.5)
    size = log.stat().st_size
    number, count = WAYS[way]
    first, delay = time.monotonic(), None
    for index in range(count):
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        elif process.poll() is None:
            process.send_signal(number)
        last = time.monotonic()
        end = last + (PAUSE if index + 1 < count else PATIENCE)
        while process.poll() is None and time.monotonic() < end:
            if delay is None and log.stat().st_size > size:
                delay = time.monotonic() - first
            time.sleep(0.01)
    seconds = time.monotonic() - last
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    text = log.read_bytes()[size:].decode(errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    steps_lost, whole = state_of(run_folder(moment, folder, work))
    return Row(moment, way, lines, delay, process.returncode, seconds, steps_lost, whole)


def run_folder(moment: str, folder: Path, work: Path) -> Path:
    """The folder of the run, which compare names itself."""
    return next(iter(sorted((work / "runs").glob("*"))), folder) if moment == "compare" else folder


def wait_for(moment: str, folder: Path, mark: Path, process: subprocess.Popen[bytes], work: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    slow_call = (
        SLOW_CALLS[moment][0] if moment in SLOW_CALLS else "evaluate" if moment == "evaluate" else None
    )
    while process.poll() is None and time.monotonic() < deadline:
        metrics = run_folder(moment, folder, work) / "metrics.jsonl"
        if mark.exists() if slow_call else metrics.is_file() and len(MetricsFile(metrics).read()) >= 3:
            return
        time.sleep(0.02)


def state_of(folder: Path) -> tuple[int | None, bool]:
    """How many steps no checkpoint holds, and whether all checkpoints are whole."""
    if not (folder / "checkpoints").is_dir():
        return None, True
    problems: list[str] = []
    checkpoints = Checkpoints(folder / "checkpoints", "", problems.append)
    checkpoint_step = max(
        (step for step in checkpoints.steps() if checkpoints.load(step) is not None), default=0
    )
    lines = MetricsFile(folder / "metrics.jsonl").read()
    return max(0, (lines[-1]["step"] if lines else 0) - checkpoint_step), not problems


def child(moment: str, argv: Sequence[str]) -> None:
    """Run the command line in this process, which takes :data:`SLOW` seconds in C at the moment."""
    from pkgutil import resolve_name

    from contrastive.cli import main

    target = (
        "contrastive.evaluation.evaluation:Evaluation.final"
        if moment == "evaluate"
        else SLOW_CALLS[moment][0]
    )
    if target is not None:
        owner, _, name = target.rpartition(".")
        original, calls = getattr(resolve_name(owner), name), []

        def slow_call(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) == SLOW_CALL_NUMBER.get(moment, 1):
                Path(os.environ["SLOW_MARK"]).touch()
                hold()
            return original(*arguments, **options)

        setattr(resolve_name(owner), name, slow_call)
    sys.argv = ["contrastive", *argv]
    sys.exit(main())


def hold() -> None:
    """Stay in one call into C for :data:`SLOW` seconds."""
    start = time.monotonic()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 100_000)
    rounds = SLOW / (time.monotonic() - start)
    hashlib.pbkdf2_hmac("sha256", b"", b"", int(100_000 * rounds))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| interrupted in | by | printed at once | exit code | seconds to the exit | steps lost |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        own = [line for line in row["output"] if re.match(r"(stopp|interrupted)", line)]
        words = "; then: ".join(dict.fromkeys(re.sub(r"in \S*/\S+", "in DIR", line) for line in own))
        loss = "no run folder" if row["steps_lost"] is None else row["steps_lost"]
        lines.append(
            f"| {row['moment']} | {row['way']} | {words or 'nothing'} | {row['code']} "
            f"| {row['seconds']:.1f} | {loss} |"
        )
    whole = sum(row["whole"] for row in rows)
    delays = [row["delay"] for row in rows if row["delay"] is not None]
    total = (
        f"Checkpoints whole after {whole} of {len(rows)} attempts. The first line came at most "
        f"{max(delays, default=0):.1f} s after the first signal. The second signal came {PAUSE:g} s later."
    )
    return "\n".join([*lines, "", total]) + "\n"


def main() -> None:
    if "--child" in sys.argv:
        position = sys.argv.index("--child")
        child(sys.argv[position + 1], sys.argv[position + 2 :])
    parser = argparse.ArgumentParser(prog="python scripts/interrupt_runs.py", description=__doc__)
    parser.add_argument("work", type=Path, help="folder for runs and reports")
    parser.add_argument("--moments", nargs="*", default=MOMENTS, help="moments to try (all)")
    parser.add_argument("--page", type=Path, help="only write the current table into this page")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    reports = {(m, w): work / f"{re.sub(r'[^a-zA-Z]+', '-', f'{m}-{w}')}.json" for m in MOMENTS for w in WAYS}
    if arguments.page:
        rows = [json.loads(path.read_text()) for path in reports.values() if path.is_file()]
        arguments.page.write_text(put(arguments.page.read_text(), "interrupts", table(rows)))
        return
    if "evaluate" in arguments.moments and not (work / "finished" / "summary.json").is_file():
        options = sets({"train.max_steps": 2})
        finish = [sys.executable, "-m", "contrastive", "run", "simclr", f"--out={work / 'finished'}"]
        subprocess.run([*finish, *options], check=True)
    for (moment, way), report in reports.items():
        if moment in arguments.moments and not report.is_file():
            place = work / "attempts" / report.stem
            place.mkdir(parents=True, exist_ok=True)
            if moment == "evaluate":
                (place / "finished").symlink_to(work / "finished")
            row = attempt(moment, way, place)
            write_whole(report, json.dumps(asdict(row)))
            print(json.dumps(asdict(row)), flush=True)


if __name__ == "__main__":
    main()
