"""Kill runs of every shipped method with SIGKILL, and check that they end as if they had not been killed.

``python scripts/kill_runs.py WORK`` shrinks each recipe by ``--set`` (400 images of the Fashion-MNIST sample,
four epochs) and runs it twice: once undisturbed, and once killed from outside while it trains, writes a
checkpoint, evaluates and resumes, restarted by the same command each time. The run folder shows which phase a
kill hit; a kill that missed its phase is reported too and repeated. Then state, metrics and exported encoder
are compared, bit for bit except for timings and memory. Reports stay in WORK: when restarted, the script
continues with the next recipe. ``--page docs/reliability.md`` puts the table between the
page's markers. The processes are forked from one that has imported everything, so most time is training.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.context import ForkContext, ForkProcess
from pathlib import Path
from typing import Any

import numpy as np
from pages import put
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import contrastive.commands.run  # noqa: E402
import contrastive.timm_models  # noqa: E402,F401 - all that a run imports is imported before it is forked
from benchmarks.__main__ import machine  # noqa: E402
from benchmarks.harness import environment  # noqa: E402
from contrastive.cli import main as main_of_contrastive  # noqa: E402
from contrastive.files import write_whole  # noqa: E402
from contrastive.training import MetricsFile  # noqa: E402
from tests.support.same import assert_same_run  # noqa: E402

RECIPES = (
    "simclr", "moco_v1", "moco_v2", "moco_v3", "byol", "simsiam", "supcon", "simclr_queue", "moco_in_batch",
    "byol_negatives", "dcl", "debiased", "hard_negative", "photos",
)  # fmt: skip
PHASES = ("training", "writing a checkpoint", "evaluating", "resuming")
IMAGES, BATCH, EPOCHS = 400, 48, 4
STEPS = IMAGES // BATCH  # per epoch
PATIENCE = 6  # attempts at one kill
#: Maximum seconds from the chosen moment to the kill.
DELAYS = {"training": 0.2, "writing a checkpoint": 0.02, "evaluating": 0.1, "resuming": 1.0}


def short_sets(recipe: str, data: Path, epochs: int = EPOCHS) -> list[str]:
    """The ``--set`` options that shorten the recipe without changing its method."""
    sets = {
        "dataset": f"{{name: image_folder, root: {data / ('photos' if recipe == 'photos' else 'sample')}}}",
        "train.epochs": epochs,
        "train.batch_size": BATCH,
        "evaluate.every": 1,
        "evaluate.linear.l2": "[0.1, 0.01]",
    }
    if recipe == "photos":  # of different sizes: decoded and cropped by two workers
        sets |= {"augmentation.size": 32, "train.workers": 2}
    return [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]


def write_data(folder: Path) -> None:
    """``sample``: images of the Fashion-MNIST sample; ``photos``: the same in varied sizes."""
    if folder.is_dir():
        return
    with np.load(ROOT / "contrastive/datasets/fashion_mnist_sample.npz") as arrays:
        for split, count in (("train", IMAGES), ("test", 200)):
            for n in range(count):
                image = Image.fromarray(arrays[f"{split}_images"][n])
                label = str(int(arrays[f"{split}_labels"][n]))
                for name, side in (("sample", 28), ("photos", 40 + n % 17)):
                    class_folder = folder / name / split / label
                    class_folder.mkdir(parents=True, exist_ok=True)
                    image.resize((side, side)).save(class_folder / f"{n}.png")


@dataclass(frozen=True)
class Fall:
    """What a kill hit: the phase, and the last step in metrics.jsonl."""

    phase: str
    step: int


class Runs:
    """The runs of one recipe into one folder, by the command line, each in its own process."""

    def __init__(self, recipe: str, folder: Path, sets: Sequence[str]):
        self.folder, self.log = folder, folder.with_suffix(".log")
        self.command = ["run", recipe, "--out", str(folder), *sets]
        self.before: list[dict[str, Any]] = []  # lines of metrics.jsonl, when the process was started
        self.head, self.log_size = 0, 0  # when environment.json was written; bytes of the log

    def start(self) -> ForkProcess:
        self.before, self.head = self.lines(), self.started_at()
        self.log_size = self.log.stat().st_size if self.log.exists() else 0
        process = ForkContext().Process(target=_run, args=(self.command, self.log))
        process.start()
        return process

    def finish(self) -> None:
        """Run to the end."""
        process = self.start()
        process.join()
        assert process.exitcode == 0, f"exit code {process.exitcode}; see {self.log}"

    def kill(self, aim: str, chance: random.Random, last: bool) -> Fall | None:
        """Start, wait for the chosen moment and kill; what the kill hit, or None if the run ended first.

        Training is killed in the second epoch after the start, a checkpoint in the first or second one, an
        evaluation in the first one or, with ``last``, at the end of the run.
        """
        process = self.start()
        line_count = STEPS + 1 + chance.randint(2, STEPS)  # lines
        earlier = chance.choice((0, STEPS + 1))
        moments: dict[str, Callable[[], bool]] = {
            "training": lambda: len(self.new()) >= line_count,
            "writing a checkpoint": lambda: len(self.new()) > earlier and self.saves(),
            "evaluating": lambda: self.ends() if last else self.evaluates(),
            "resuming": lambda: self.started_at() != self.head,
        }
        while process.is_alive() and not moments[aim]():
            time.sleep(0.002)
        time.sleep(chance.uniform(0, DELAYS[aim]))
        process.kill()
        process.join()
        return None if process.exitcode == 0 else Fall(self.phase(), self.step())

    # -- what the folder shows ------------------------------------------------------------------------

    def lines(self) -> list[dict[str, Any]]:
        return MetricsFile(self.folder / "metrics.jsonl").read()

    def new(self) -> list[dict[str, Any]]:
        """The lines written since the process started; their timings differ from those before."""
        lines = self.lines()
        pairs = zip(self.before, lines, strict=False)
        return lines[sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)) :]

    def step(self) -> int:
        return self.lines()[-1]["step"] if self.lines() else 0

    def started_at(self) -> int:
        path = self.folder / "environment.json"
        return path.stat().st_mtime_ns if path.exists() else 0

    def saves(self) -> bool:
        return any((self.folder / "checkpoints").glob(".step_*"))

    def evaluates(self) -> bool:
        new = self.new()
        return bool(new) and "loss" in new[-1] and new[-1]["step"] % STEPS == 0

    def ends(self) -> bool:
        return b"final evaluation" in self.log.read_bytes()[self.log_size :]

    def phase(self) -> str:
        """The phase in which the process was killed."""
        new, checkpoint = self.new(), self.folder / "checkpoints" / f"step_{self.step():08d}"
        if self.started_at() == self.head:
            return "starting"
        if self.ends():
            return "evaluating"
        if not new:
            return "resuming" if self.before else "starting"
        if self.saves():
            return "writing a checkpoint"
        if self.evaluates():
            return "evaluating"
        return "training" if "loss" in new[-1] or checkpoint.is_dir() else "between evaluation and checkpoint"


def _run(command: list[str], log: Path) -> None:
    """Run the command line in this process, with its output in a file."""
    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.exit(main_of_contrastive(command))


def disturb(recipe: str, number: int, work: Path, data: Path) -> dict[str, Any]:
    """Kill a run of ``recipe`` in every phase, and compare its result with an undisturbed one."""
    for leftover in work.glob(f"{recipe}-*"):  # of an attempt of this script that did not end
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    sets, chance = short_sets(recipe, data), random.Random(recipe)
    whole_run, killed_run = (Runs(recipe, work / f"{recipe}-{how}", sets) for how in ("whole", "killed"))
    whole_run.finish()
    falls: list[Fall] = []
    aims = ["training", "resuming", "writing a checkpoint", PHASES[number % 4], "evaluating"]
    for position, aim in enumerate(aims):
        last = position == len(aims) - 1
        for _ in range(PATIENCE):
            fall = killed_run.kill(aim, chance, last and number % 2 == 0)
            falls += [fall] if fall else []
            if fall is None or fall.phase == aim:
                break
    killed_run.finish()
    try:
        assert_same_run(whole_run.folder, killed_run.folder)
        equal = "yes"
    except AssertionError as error:
        equal = f"no: {error}".splitlines()[0]
    return {"recipe": recipe, "kills": [asdict(fall) for fall in falls], "equal": equal}


def table(rows: Sequence[Mapping[str, Any]], machine_facts: Mapping[str, Any]) -> str:
    """The rows as Markdown, with totals and the machine."""
    fell = Counter(kill["phase"] for row in rows for kill in row["kills"])
    equal = sum(row["equal"] == "yes" for row in rows)
    lines = ["| recipe | killed while (last step known) | equal |", "|---|---|---|"]
    for row in rows:
        kills = ", ".join(f"{kill['phase']} ({kill['step']})" for kill in row["kills"])
        lines.append(f"| `{row['recipe']}` | {kills} | {row['equal']} |")
    sums = ", ".join(f"{count} while {phase}" for phase, count in fell.most_common())
    total = (
        f"{fell.total()} kills in {len(rows)} runs: {sums}. Bit for bit equal: {equal} of {len(rows)} runs."
    )
    return "\n".join([*lines, "", total, "", machine(machine_facts)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python scripts/kill_runs.py", description=__doc__)
    parser.add_argument("work", type=Path, help="folder for runs and reports")
    parser.add_argument("--recipes", nargs="*", default=RECIPES, help="recipes to run (all)")
    parser.add_argument("--page", type=Path, help="only write the current table into this page")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if arguments.page:
        reports = [work / f"{recipe}.json" for recipe in RECIPES]
        rows = [json.loads(path.read_text()) for path in reports if path.is_file()]
        text = table(rows, json.loads((work / "environment.json").read_text()))
        arguments.page.write_text(put(arguments.page.read_text(), "kills", text))
        return
    write_data(work / "data")
    (work / "environment.json").write_text(json.dumps(environment()))
    for number, recipe in enumerate(RECIPES):
        report = work / f"{recipe}.json"
        if recipe in arguments.recipes and not report.is_file():
            row = disturb(recipe, number, work, work / "data")
            write_whole(report, json.dumps(row))
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
