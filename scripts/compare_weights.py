"""Compares the weights that this checkout and another one train, bit for bit.

    python scripts/compare_weights.py --against CHECKOUT [RECIPE ...]

Each recipe (a shipped one, by name) is trained for 20 steps by the code of either checkout, in processes of
one thread each. Exit code 0 if every tensor of the trained model has the same SHA-256, else 1, with the
distance of the weights relative to their length. The interpreter that runs this script needs the plugins
installed; from which checkout does not matter.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

RECIPES = ("simclr", "moco_v2", "byol")
#: Evaluation changes no weight.
SETS = ("train.max_steps=20", "evaluate.every=0", "evaluate.knn=none", "evaluate.linear=none")
OWN = Path(__file__).resolve().parents[1]


def environment(checkout: Path) -> dict[str, str]:
    """Environment variables with which Python imports a checkout's code, computes on the CPU in one thread
    and leaves nothing behind in the checkout."""
    paths = [checkout, *sorted(path for path in (checkout / "plugins").iterdir() if path.is_dir())]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def require_imported(checkout: Path, folder: Path) -> None:
    """Check that Python, started in ``folder``, imports the framework from a checkout. Raises SystemExit."""
    command = [sys.executable, "-c", "import contrastive; print(contrastive.__file__)"]
    process = subprocess.run(command, env=environment(checkout), cwd=folder, capture_output=True, text=True)
    if process.returncode or not Path(process.stdout.strip()).resolve().is_relative_to(checkout):
        raise SystemExit(f"{checkout}: Python does not import the framework from there. {process.stderr}")


def train(checkout: Path, recipe: str, folder: Path) -> Path:
    """Train a recipe by the code of a checkout; returns the run folder. Raises SystemExit if that fails."""
    out = folder / recipe.replace("/", "-")
    sets = [word for assignment in SETS for word in ("--set", assignment)]
    command = [sys.executable, "-m", "contrastive", "run", recipe, "--out", str(out), *sets]
    process = subprocess.run(command, env=environment(checkout), cwd=folder, capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(f"{checkout}: {recipe} failed: {process.stderr[-2000:]}")
    return out


def digests(run: Path) -> dict[str, str]:
    """Name -> SHA-256 of type, shape and bytes of every tensor of the model in a run's last checkpoint."""
    return {name: digest(tensor) for name, tensor in model_of(run).items()}


def model_of(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the model in a run's last checkpoint, by name."""
    checkpoint = max((run / "checkpoints").glob("step_*"))
    return torch.load(checkpoint / "state.pt", map_location="cpu", weights_only=True)["method"]


def distance(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> float:
    """The distance of the floating-point tensors that both sides have, relative to the length of theirs."""
    names = [name for name in ours.keys() & theirs.keys() if theirs[name].is_floating_point()]
    apart = sum((ours[name].double() - theirs[name].double()).square().sum() for name in names)
    length = sum(theirs[name].double().square().sum() for name in names)
    return float((apart / length) ** 0.5)


def digest(tensor: torch.Tensor) -> str:
    """SHA-256 (hex) of a tensor's type, shape and bytes."""
    content = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    content.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """Names of the tensors that only one side has, or that differ; sorted."""
    return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))


def compare(recipe: str, against: Path) -> list[str]:
    """Train a recipe on both sides, print a row of the table, and return the tensors that differ."""
    with tempfile.TemporaryDirectory(prefix="compare-weights-") as scratch:
        sides = []
        for name, checkout in (("ours", OWN), ("theirs", against)):
            folder = Path(scratch, name)
            folder.mkdir()
            require_imported(checkout, folder)
            run = train(checkout, recipe, folder)
            sides.append((digests(run), model_of(run)))
    (ours, our_model), (theirs, their_model) = sides
    names = differences(ours, theirs)
    result = "identical" if not names else f"{len(names)} differ"
    whole = hashlib.sha256("".join(f"{name} {ours[name]}\n" for name in sorted(ours)).encode()).hexdigest()
    print(f"{recipe:<24} {len(ours):>7}  {result:<12} {whole[:16]}", flush=True)
    if names:
        print(f"  relative distance of the weights: {distance(our_model, their_model):.1e}")
    for name in names:
        print(f"  {name}: {ours.get(name, 'absent')[:16]}, theirs {theirs.get(name, 'absent')[:16]}")
    return names


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", metavar="RECIPE", nargs="*", default=RECIPES, help=", ".join(RECIPES))
    parser.add_argument("--against", type=Path, required=True, metavar="CHECKOUT", help="the other checkout")
    arguments = parser.parse_args()
    against = arguments.against.resolve()
    print(f"{'recipe':<24} {'tensors':>7}  {'result':<12} SHA-256")
    different = [recipe for recipe in arguments.recipes if compare(recipe, against)]
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
