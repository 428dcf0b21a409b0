"""Makes the baselines in tests/baselines: what the code of commit 1a738a1 wrote, printed and computed.

    python scripts/make_baselines.py CHECKOUT [--out DIR]

CHECKOUT is a clone of this repository at that commit; nothing is written into it. Two calls on one machine
give the same files except for timings and the time of day. tests/baselines/README.md describes what is made.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

COMMIT = "1a738a1306a8a18dc58486e6d8adc04be4fc2b19"
BASELINES = Path(__file__).resolve().parents[1] / "tests" / "baselines"
FINISHED, INTERRUPTED = ("simclr", "moco_v2"), "byol"
INTERRUPTED_AT = 8  # lines of metrics.jsonl, of 15: after step 9, in the second epoch

#: File of terminal/ -> the command, run in a folder that holds recipes/ and the run folders.
TERMINAL: dict[str, list[str]] = {
    "list": ["list"],
    "list_loss": ["list", "loss"],
    "list_recipe": ["list", "recipe"],
    "show_loss_nt_xent": ["show", "loss", "nt_xent"],
    "check_simclr": ["check", "recipes/simclr.yaml"],
    "plugin_list": ["plugin", "list"],
    "plugin_check": ["plugin", "check", "contrastive-negatives"],
    "run": ["run", "tiny.yaml", "--out", "new"],
    "run_finished": ["run", "tiny.yaml", "--out", "new"],
    "evaluate": ["evaluate", "simclr"],
    "embed": ["embed", "simclr", "--out", "features.parquet"],
    "compare": ["compare", "simclr", "moco_v2", "--out", "comparison"],
}


def _without_speed_and_memory(row: re.Match[str]) -> str:
    """A row of the table of costs whose two measured numbers became ``N``, as wide as before."""
    return re.sub(r"[\d,]+", lambda number: "N".rjust(len(number[0])), row[0])


#: What differs from call to call -> what is written in its place.
VOLATILE: dict[str, str | Callable[[re.Match[str]], str]] = {
    r"(\d+ h )?(\d+ min )?\d+ s\b": "N s",
    r"[\d,]+ images/s": "N images/s",
    r"[\d,]+ MiB(?=, [\d,]+ parameters)": "N MiB",
    r"(?<=│ )( *)[\d,]+ (│ +N s │ +)[\d,]+(?= │)": _without_speed_and_memory,
    r" +$": "",
}


def machine() -> dict[str, str]:
    """What decides the last bits of a result: processor and torch."""
    import torch

    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        facts = dict(
            re.findall(r"^(cpu family|model|model name)\t*: (.*)$", cpuinfo.read_text(), re.MULTILINE)
        )
        processor = " ".join(f"{name} {value}" for name, value in sorted(facts.items())) or processor
    return {
        "processor": processor,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


# -- fingerprints, also computed by tests/test_baselines.py ----------------------------------------


def cifar10() -> type:
    """In place of torchvision's CIFAR10: as large as the studies need, the same on every machine."""
    from PIL import Image
    from torchvision.datasets import VisionDataset

    class CIFAR10(VisionDataset):
        def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
            count = 10_000 if train else 5_000
            pixels = np.arange(count * 32 * 32 * 3, dtype=np.uint32) % 251
            self.data = pixels.astype(np.uint8).reshape(count, 32, 32, 3)
            self.targets = [row % 10 for row in range(count)]
            self.classes = [str(label) for label in range(10)]

        def __len__(self) -> int:
            return len(self.data)

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return Image.fromarray(self.data[index]), self.targets[index]

    return CIFAR10


def write_stand_ins(folder: Path) -> None:
    """What the shipped recipes name besides CIFAR-10 and the sample: ``data/imagenet`` and ``photos``."""
    for root, count in (("data/imagenet/train", 4096), ("data/imagenet/val", 16), ("photos", 64)):
        for label in ("class0", "class1"):
            parent = folder / root / label
            parent.mkdir(parents=True)
            for row in range(count // 2):
                (parent / f"{row:04}.ppm").write_bytes(b"P6 2 2 255\n" + bytes(12))


def shipped_recipes(repository: Path) -> list[str]:
    """Names of the recipe files of a checkout: ``simclr``, ``cifar10/simclr``, ``studies/queue``."""
    folder = repository / "recipes"
    return sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yaml"))


def fingerprints(recipe: str, folder: Path) -> dict[str, str]:
    """Name -> training fingerprint of a shipped recipe, or of every recipe that its grid stands for.

    Args:
        recipe: its name, ``studies/temperature``.
        folder: holds what :func:`write_stand_ins` writes.
    """
    from torchvision import datasets

    with contextlib.chdir(folder), mock.patch.object(datasets, "CIFAR10", cifar10()):
        report = json.loads(contrastive("check", recipe, "--json"))
    return {entry["name"]: entry["fingerprint"] for entry in report["recipes"]}


def contrastive(*arguments: str) -> str:
    """What a command prints to standard output. Raises SystemExit if it fails."""
    from contrastive.cli import main

    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = main(arguments)
    if code:
        raise SystemExit(f"contrastive {' '.join(arguments)} ended with exit code {code}")
    return output.getvalue()


# -- files that need only the checkout ---------------------------------------------------------------


def make_runs(checkout: Path, out: Path, scratch: Path) -> None:
    """``run_folders/``: two finished runs and one that SIGINT stopped in its second epoch."""
    from tests.tiny import interrupted_after

    import contrastive as framework
    from contrastive.errors import Interrupted

    with contextlib.chdir(scratch):  # no path of this machine comes into the folders
        for name in FINISHED:
            contrastive("run", str(BASELINES / f"recipes/{name}.yaml"), "--out", name)
        with interrupted_after(INTERRUPTED_AT), contextlib.suppress(Interrupted):
            framework.run(BASELINES / f"recipes/{INTERRUPTED}.yaml", out=INTERRUPTED)
    for name in (*FINISHED, INTERRUPTED):
        shutil.copytree(scratch / name, out / "run_folders" / name)


def make_exports(checkout: Path, out: Path, scratch: Path) -> None:
    """``exports/``: the SimCLR run's backbone for timm and as ONNX, and its features."""
    import onnxruntime
    import torch

    import contrastive as framework

    run, exports = str(scratch / "simclr"), out / "exports"
    exports.mkdir()
    for form in ("timm", "onnx"):
        contrastive("export", run, "--format", form, "--out", str(exports / form))
    contrastive("embed", run, "--out", str(exports / "embedded.parquet"))
    with np.load(checkout / "contrastive/datasets/fashion_mnist_sample.npz") as sample:
        images = sample["test_images"][:4, None]  # uint8 [4, 1, 28, 28]
    pixels = images.astype(np.float32) / 255
    with torch.no_grad():
        timm = framework.load_backbone(exports / "timm")(torch.from_numpy(pixels)).numpy()
    session = onnxruntime.InferenceSession(str(exports / "onnx/model.onnx"))
    (onnx,) = session.run(["features"], {"pixels": pixels})
    np.savez_compressed(exports / "features.npz", images=images, timm=timm, onnx=onnx)


def make_plugins(checkout: Path, out: Path, scratch: Path) -> None:
    """``plugins/``: the shipped plugins, the examples of the plugin guide, and a new package of each kind."""
    from contrastive.kinds import KINDS

    for plugin in sorted(path.parent for path in (checkout / "plugins").glob("*/pyproject.toml")):
        target = out / "plugins/shipped" / plugin.name
        target.mkdir(parents=True)
        for file in (*plugin.glob("*.py"), plugin / "pyproject.toml", plugin / "README.md"):
            shutil.copy(file, target)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(checkout / "tests/plugins", out / "plugins/examples", ignore=ignore)
    for kind in KINDS:
        target = out / "plugins/new" / f"my-{kind}"
        contrastive("plugin", "new", f"my-{kind}", "--kind", kind, "--out", str(target))


def make_fingerprints(checkout: Path, out: Path, scratch: Path) -> None:
    """``fingerprints.json``: training fingerprints of all shipped recipes."""
    write_stand_ins(scratch)
    write_json(
        out / "fingerprints.json", {name: fingerprints(name, scratch) for name in shipped_recipes(checkout)}
    )


def make_terminal(checkout: Path, out: Path, scratch: Path) -> None:
    """``terminal/``: what commands print at 80 columns, standard error included."""
    shutil.copytree(checkout / "recipes", scratch / "recipes")
    shutil.copy(BASELINES / "recipes/simclr.yaml", scratch / "tiny.yaml")
    (out / "terminal").mkdir()
    for name, arguments in TERMINAL.items():
        command = [sys.executable, "-m", "contrastive", *arguments]
        process = subprocess.run(
            command, cwd=scratch, text=True, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        text = f"$ contrastive {' '.join(arguments)}\n{process.stdout}"
        text = text.replace(str(scratch), "FOLDER").replace(str(checkout), "CHECKOUT")
        (out / "terminal" / f"{name}.txt").write_text(normalised(text))


def normalised(text: str) -> str:
    """What a command printed, without what differs from call to call."""
    for pattern, replacement in VOLATILE.items():
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


#: In this order: later ones need the run folders that the first leaves in the scratch folder.
MAKERS: tuple[Callable[[Path, Path, Path], None], ...] = (
    make_runs,
    make_exports,
    make_plugins,
    make_fingerprints,
    make_terminal,
)


def use(checkout: Path) -> None:
    """Import the framework and its tests' helpers from a checkout, here and in processes to come. Raises
    SystemExit if it is at another commit, or the framework is not imported from it."""
    from compare_weights import environment

    revision = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "HEAD"], text=True, stdout=subprocess.PIPE, check=True
    )
    if revision.stdout.strip() != COMMIT:
        raise SystemExit(f"{checkout} is at {revision.stdout.strip()}, not at {COMMIT}")
    variables = {**environment(checkout), "COLUMNS": "80"}
    os.environ.update(variables)
    sys.dont_write_bytecode = True
    sys.path[:0] = variables["PYTHONPATH"].split(os.pathsep)
    import contrastive as framework

    if not Path(framework.__file__ or "").is_relative_to(checkout):
        raise SystemExit(f"the framework is imported from {framework.__file__}, not from {checkout}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="a clone of the repository at that commit")
    parser.add_argument("--out", type=Path, default=BASELINES, help="where to write (tests/baselines)")
    arguments = parser.parse_args()
    use(arguments.checkout.resolve())
    import torch

    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in ("run_folders", "exports", "plugins", "terminal"):
        shutil.rmtree(arguments.out / name, ignore_errors=True)
    write_json(arguments.out / "machine.json", machine())
    with tempfile.TemporaryDirectory(prefix="baselines-") as scratch:
        for make in MAKERS:
            make(arguments.checkout.resolve(), arguments.out.resolve(), Path(scratch))
            print(make.__name__, flush=True)


if __name__ == "__main__":
    main()
