"""Choose a learning rate and one parameter of its own for each method, by the same small search for all.

python scripts/method_search.py FOLDER --train FILE --validation FILE [METHOD ...]

Of every method of method_search.yaml, ``cifar10/METHOD-cpu`` is trained with its learning rate, a third of it
and three times as much; then, at the best of them, with other values of its own parameter: at most five runs
of equal time. FOLDER/METHOD.yaml gets the settings with the best kNN accuracy on the validation images. No
table uses their seed, and the test split is never read. Runs resume; a method whose file is there stays. Then

contrastive compare FOLDER/*.yaml --minutes 3 --set 'dataset={name: parquet, train: FILE, test: TEST}'

makes the table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from contrastive.recipe import load_recipe
from contrastive.registry import load_registry

SPACES = Path(__file__).with_suffix(".yaml")
SEED, FACTORS = 100, (1.0, 1 / 3, 3.0)
EVALUATE = ("evaluate.every=0", "evaluate.linear=none")

Settings = Mapping[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python scripts/method_search.py", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", type=Path, help="of the runs and of the recipes that are chosen")
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="default: all")
    parser.add_argument("--train", type=Path, required=True, help="parquet file of the training images")
    parser.add_argument("--validation", type=Path, required=True, help="of the images that score a run")
    parser.add_argument("--minutes", type=float, default=1.0, help="of each run; default: 1")
    arguments = parser.parse_args()
    files = f"train: {arguments.train.resolve()}, validation: {arguments.validation.resolve()}"
    dataset = f"dataset={{name: parquet, {files}}}"
    spaces = search_spaces()
    unknown = set(arguments.methods) - set(spaces)
    if unknown:
        parser.error(f"{SPACES.name} has no {', '.join(sorted(unknown))}")
    for method in arguments.methods or spaces:
        file = arguments.folder / f"{method}.yaml"
        if not file.is_file():
            runs = Runs(arguments.folder / "runs", method, dataset, arguments.minutes)
            text = recipe_text(method, runs.best(spaces[method]))
            file.write_text(text)
            print(text, flush=True)


def search_spaces() -> dict[str, dict[str, list[float]]]:
    """Method -> its own parameter -> values to try besides the recipe's."""
    spaces: dict[str, dict[str, list[float]]] = yaml.safe_load(SPACES.read_text())
    return spaces


class Runs:
    """The runs of one method's search.

    Args:
        folder: of the runs of all methods.
        method: its recipe is ``cifar10/METHOD-cpu``.
        dataset: ``--set`` override of the data.
        minutes: of each run.
    """

    def __init__(self, folder: Path, method: str, dataset: str, minutes: float):
        self.folder, self.method, self.dataset, self.minutes = folder, method, dataset, minutes

    def best(self, space: Mapping[str, list[float]]) -> Settings:
        """The settings with the best score; the first of equals.

        Args:
            space: the method's own parameter and its other values.
        """
        key, rate = learning_rate(self.method)
        settings: Settings = max(({key: rate * factor} for factor in FACTORS), key=self.score)
        [(parameter, values)] = space.items()
        return max([settings, *({**settings, parameter: value} for value in values)], key=self.score)

    def score(self, settings: Settings) -> float:
        """kNN accuracy after a run with these settings; of its summary, if it is finished. A run that fails,
        as at too high a rate, has none."""
        label = "-".join(f"{key.rpartition('.')[2]}_{value:.4g}" for key, value in settings.items())
        out = self.folder / f"{self.method}-{label}"
        failure = out.with_suffix(".failed")
        if not (out / "summary.json").is_file() and not failure.is_file():
            overrides = [self.dataset, f"train.seed={SEED}", *EVALUATE, *override_texts(settings)]
            command = [
                sys.executable,
                "-m",
                "contrastive",
                "run",
                recipe_name(self.method),
                "--out",
                str(out),
            ]
            command += [
                "--minutes",
                f"{self.minutes:g}",
                *(word for each in overrides for word in ("--set", each)),
            ]
            self.folder.mkdir(parents=True, exist_ok=True)
            if subprocess.run(command, check=False).returncode == 1:  # neither interrupted nor misused
                failure.touch()
        if failure.is_file():
            return 0.0
        metrics: dict[str, Any] = json.loads((out / "summary.json").read_text())["trained"]
        return float(metrics["knn_top1"])


def recipe_name(method: str) -> str:
    return f"cifar10/{method}-cpu"


def learning_rate(method: str) -> tuple[str, float]:
    """Path and value of the learning rate in a method's recipe."""
    lr = load_recipe(recipe_name(method), [], load_registry()).dump()["optimizer"]["lr"]
    if isinstance(lr, Mapping):
        [(rule, value)] = [(rule, value) for rule, value in lr.items() if value is not None]
        return f"optimizer.lr.{rule}", value
    return "optimizer.lr", lr


def override_texts(settings: Settings) -> list[str]:
    return [f"{key}={value:.6g}" for key, value in settings.items()]


def recipe_text(method: str, settings: Settings) -> str:
    """The method's recipe with these settings, as YAML."""
    tree: dict[str, Any] = {"extends": recipe_name(method), "name": method}
    for path, value in settings.items():
        *parents, last = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return yaml.safe_dump(tree, sort_keys=False)


if __name__ == "__main__":
    main()
