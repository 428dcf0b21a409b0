"""How many files a reader opens to follow the code from one point to another: eight walks, in numbers.

    python scripts/walks.py                      # this checkout, as a table
    python scripts/walks.py --checkout ../other  # another one
    python scripts/walks.py --json walks.json    # and write all that was measured

Each walk is a command of ``contrastive`` that really runs, on a tiny scale, in its own process. A
profiler follows the calls of the main thread between functions of ``contrastive/``; a call that passes
through another library counts as one from the last function of ours. A reader reads a call once: **a call is
followed the first time that this function calls that one**, and loops, which repeat such pairs, count once.
What happens while a module is imported, or a lazy name resolved, is not followed. Of the calls followed:

stays
    Stretches in one file. A call into another file ends a stretch, and so does the return from it.
distinct files
    Files with at least one stay.
steps back up
    Calls from one file into another that imports the first, directly or through others (imports in functions
    and under ``TYPE_CHECKING`` count): a lower floor that calls an upper one. That is also what a base class
    does when it calls the method of a part derived from it.
files entered twice
    Files that are entered by a call after the reader has left them by a return.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

from import_graph import Package, reachable

ROOT = Path(__file__).resolve().parents[1]

#: What every walk changes of the recipe simclr: a run of seconds.
TINY = {
    "dataset": "{name: subset, of: fashion_mnist_sample, train: 200, test: 100}",
    "backbone.options.width": "0.125",
    "evaluate.knn.k": "5",
    "train.max_steps": "2",
    "train.batch_size": "32",
    "train.workers": "0",
    "train.precision": "fp32",
}
#: The module that executes a run, today's path and the one before the packages.
JOB = ("runs/job.py", "runs.py")
#: A part of a plugin that ends the walk when it is built.
PLUGIN = """
import sys
from contrastive import hookimpl
from contrastive.parts import Loss

class Walked(Loss):
    \"\"\"Ends a walk.\"\"\"

    def __init__(self) -> None:
        sys.setprofile(None)
        super().__init__()

    def compare(self, comparison):
        return sum((q - k).square().sum(-1).mean() for q, k in comparison.aligned())

@hookimpl
def register_loss(register):
    register("walked", Walked)
"""


class Function(NamedTuple):
    """A function of the package: its file, relative to the package, and its name and line there."""

    file: str
    name: str
    line: int


class Call(NamedTuple):
    """A call that has not returned, from a function or (None) from outside the walk.

    Attributes:
        imports: whether it runs while a module is imported or a lazy name resolved.
        is_new: whether the reader follows it.
    """

    function: Function
    caller: Function | None
    imports: bool
    is_new: bool


class Moment(NamedTuple):
    """When a walk begins or ends: at the first ``call`` of a function, or the first ``return`` from it.

    A generator returns when it yields. A walk that begins at a call comes from outside.
    """

    event: str
    name: str


@dataclass
class Walk:
    """What a reader passes.

    Attributes:
        stays: file of every stretch, in order.
        back_up: (from, to) of every call into a file that imports the one it comes from.
        twice: files entered again after they were left.
        entered_from: file -> the file from which it was entered first ("" for the start), in order of visits.
    """

    stays: list[str] = field(default_factory=list)
    back_up: list[tuple[str, str]] = field(default_factory=list)
    twice: set[str] = field(default_factory=set)
    entered_from: dict[str, str] = field(default_factory=dict)

    def stay(self, file: str) -> None:
        if not self.stays or self.stays[-1] != file:
            self.entered_from.setdefault(file, self.stays[-1] if self.stays else "")
            self.stays.append(file)

    def numbers(self) -> dict[str, int]:
        return {
            "stays": len(self.stays),
            "distinct files": len(self.entered_from),
            "steps back up": len(self.back_up),
            "files entered twice": len(self.twice),
        }


class Tracer:
    """Follows the calls of a package while a function runs.

    Args:
        folder: of the package.
        begin, end: between which moments; None for the start and the end of the function.
    """

    def __init__(self, folder: Path, begin: Moment | None = None, end: Moment | None = None):
        package = Package(folder.resolve())
        files, graph = package.files, package.graph()
        names = {module: path.relative_to(package.folder).as_posix() for module, path in files.items()}
        self.walk = Walk()
        self._above = {  # file -> the files that it imports, directly or not
            file: {names[other] for other in reachable(graph, module) if other in names}
            for module, file in names.items()
        }
        self._files: dict[str, str | None] = {str(package.folder / file): file for file in names.values()}
        self._begin, self._end = begin, end
        self._on = begin is None
        self._stack: list[Call] = []
        self._calls: set[tuple[Function | None, Function]] = set()
        self._exits: set[str] = set()

    def run(self, function: Callable[[], object]) -> Walk:
        """The walk of ``function()``. Raises ValueError if it never came to the moment to begin or end."""
        sys.setprofile(self._event)
        try:
            function()
        finally:
            sys.setprofile(None)
        for missing in filter(None, (self._begin, self._end)):
            raise ValueError(f"there was no {missing.event} of {missing.name}: rename it in WALKS")
        return self.walk

    def _event(self, frame: FrameType, event: str, _: object) -> None:
        if event not in ("call", "return"):
            return
        code = frame.f_code
        file = self._files.get(code.co_filename)
        if file is None:
            return
        function = Function(file, code.co_qualname, code.co_firstlineno)
        if event == "call":
            begins = self._switch(event, function)
            self._call(function, _is_import(code), begins)
        elif self._stack:
            self._return()
            self._switch(event, function)

    def _switch(self, event: str, function: Function) -> bool:
        """Begin or end the walk if this is the moment; whether it begins."""
        if self._begin and not self._on and self._begin == (event, function.name):
            self._begin, self._on = None, True
            return True
        if self._end and self._on and self._end == (event, function.name):
            self._end, self._on = None, False
            sys.setprofile(None)
        return False

    def _call(self, function: Function, imports: bool, begins: bool) -> None:
        caller = self._stack[-1].function if self._stack and not begins else None
        imports = imports or bool(self._stack and self._stack[-1].imports)
        is_new = self._on and not imports and (caller, function) not in self._calls
        self._stack.append(Call(function, caller, imports, is_new))
        if not is_new:
            return
        self._calls.add((caller, function))
        if caller is not None:
            self.walk.stay(caller.file)
        if caller is None or caller.file != function.file:
            if function.file in self._exits:
                self.walk.twice.add(function.file)
            if caller is not None and caller.file in self._above[function.file]:
                self.walk.back_up.append((caller.file, function.file))
        self.walk.stay(function.file)

    def _return(self) -> None:
        call = self._stack.pop()
        if call.is_new and self._on and (call.caller is None or call.caller.file != call.function.file):
            self._exits.add(call.function.file)
            if call.caller is not None:
                self.walk.stay(call.caller.file)


def _is_import(code: CodeType) -> bool:
    """Whether a frame runs a module's body, or resolves a module's lazy name."""
    is_method = "." in code.co_qualname.rpartition("<locals>.")[2]
    return code.co_name == "<module>" or (code.co_name == "__getattr__" and not is_method)


@dataclass(frozen=True)
class Route:
    """A walk: a command line, where {work} is a folder of files, and what of it is walked."""

    command: str
    begin: Moment | None = None
    end: Moment | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)


_FOLDER = {"dataset": "{name: image_folder, root: {work}/images}", "train.batch_size": "16"}
_FIRST_BATCH = Moment("return", "TrainLoader.epoch")
#: In an order in which each walk finds the files that it reads.
WALKS = {
    "load_recipe(path)": Route(
        "run simclr --out {work}/recipe", Moment("call", "load_recipe"), Moment("return", "load_recipe")
    ),
    "contrastive run -> weights": Route("run simclr --out {work}/run"),
    "one image file -> one view": Route(
        "run simclr --out {work}/view",
        Moment("call", "TrainLoader.epoch"),
        Moment("call", "Method.forward"),
        _FOLDER,
    ),
    "one batch -> loss": Route(
        "run simclr --out {work}/loss", _FIRST_BATCH, Moment("return", "Method.forward")
    ),
    # its class ends the walk
    "a plugin's class -> a built part": Route(
        "check simclr", Moment("call", "load_registry"), overrides={"loss": "walked"}
    ),
    "compare -> report.html": Route("compare simclr {work}/other.yaml --seeds 1 --out {work}/comparison"),
    "profile": Route("profile simclr --steps 2", overrides={"train.max_steps": "null"}),
    "evaluate": Route("evaluate {work}/run --protocol knn"),
}


def measure(name: str, work: Path) -> dict[str, Any]:
    """One walk, in this process. ``work`` is a folder that :func:`prepare` filled."""
    cli = import_module("contrastive.cli")
    folder = Path(str(cli.__file__)).parent
    route = WALKS[name]
    argv = [word.replace("{work}", str(work)) for word in route.command.split()]
    if argv[0] != "evaluate":  # it evaluates the run as it was trained
        sets = {**TINY, **route.overrides}
        argv += [f"--set={key}={value.replace('{work}', str(work))}" for key, value in sets.items()]
    for library in ("accelerate", "plotly.graph_objects", "scipy.stats", "timm", "torch", "torchvision"):
        import_module(library)  # slow while calls are followed

    def command() -> None:
        with redirect_stdout(sys.stderr):
            code = cli.main(argv)
        if code:
            raise SystemExit(f"contrastive {' '.join(argv)}: exit code {code}")

    walk = Tracer(folder, route.begin, route.end).run(command)
    job = next(file for file in JOB if (folder / file).exists())
    return {
        **walk.numbers(),
        "enters the job of runs from": walk.entered_from.get(job),
        "first visits": list(walk.entered_from),
        "back up": sorted({f"{start} -> {end}" for start, end in walk.back_up}),
        "twice": sorted(walk.twice),
    }


def prepare(work: Path) -> None:
    """Write what the walks read: images of several sizes, a second recipe and an installed plugin."""
    from PIL import Image

    for split, count in (("train", 40), ("test", 20)):
        for label in ("dark", "light"):
            (work / "images" / split / label).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (32 + number % 3, 30), (number, 120 * (label == "light"), 40))
                image.save(work / "images" / split / label / f"{number}.png")
    simclr = (ROOT / "recipes" / "simclr.yaml").read_text()
    (work / "other.yaml").write_text(simclr.replace("name: simclr", "name: other", 1).replace("0.2}", "0.5}"))
    (work / "walked.py").write_text(PLUGIN)
    metadata = work / "walked-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: walked\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[contrastive]\nwalked = walked\n")


def measure_all(checkout: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The walks of a checkout, each in its own process."""
    walks = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(work)
        for name in names:
            path = os.pathsep.join(map(str, (checkout, Path(__file__).parent, work)))
            command = [sys.executable, __file__, "--walk", name, "--work", folder]
            environment = {**os.environ, "PYTHONPATH": path}
            result = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
            if result.returncode:
                raise SystemExit(f"{name}: the walk failed\n{result.stderr}")
            walks[name] = json.loads(result.stdout)
    return walks


def table(walks: Mapping[str, Mapping[str, Any]]) -> str:
    """The numbers as a Markdown table, and which walks enter the module that executes a run."""
    columns = list(Walk().numbers())
    lines = [f"| walk | {' | '.join(columns)} |", f"|---{'|---:' * len(columns)}|"]
    lines += [f"| {name} | {' | '.join(str(walk[c]) for c in columns)} |" for name, walk in walks.items()]
    lines.append("")
    for name, walk in walks.items():
        start = walk["enters the job of runs from"]
        entry = "never enters" if start is None else f"enters, first from {start or 'outside'},"
        lines.append(f"- {name}: {entry} the module that executes a run")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkout", type=Path, default=ROOT, metavar="PATH", help="which to measure (this)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers and the files there")
    parser.add_argument("--walk", choices=WALKS, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.walk:
        print(json.dumps(measure(arguments.walk, arguments.work)))
        return
    walks = measure_all(arguments.checkout.resolve(), list(WALKS))
    if arguments.json:
        arguments.json.write_text(json.dumps(walks, indent=1) + "\n")
    print(table(walks))


if __name__ == "__main__":
    main()
