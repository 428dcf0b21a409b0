"""Compare recipes with the same methods built from lightly's parts, at equal wall clock and in turn.

python scripts/peers.py FOLDER --train FILE --test FILE [--minutes 10] [--seeds 0 1 2] [METHOD ...]

Of each method, ``cifar10/METHOD-cpu`` trains for the minutes, evaluation included; then the method of
lightly_methods.py trains the same network on the same images from the same initial weights for the minutes,
evaluation not included. It makes its views in the main process or in two workers, whichever is faster. The
same protocol scores both on the test images. FOLDER keeps every result, so that the script resumes, and their
table, results.md. Needs lightly, and a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightly_methods import EXAMPLES, Example, LightlyMethod
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from contrastive.build import Composition, Data, build
from contrastive.parts import ImageTable
from contrastive.recipe import Recipe, load_recipe
from contrastive.registry import load_registry
from contrastive.runs.assembly import evaluation_of

SIDES = ("ours", "lightly")
#: kNN of the trained encoder alone.
EVALUATE = ("evaluate.every=0", "evaluate.linear=none")
WORKERS, WARM_UP, STEPS = (0, 2), 2, 5  # of the choice of workers


def main() -> None:
    parser = argparse.ArgumentParser(prog="python scripts/peers.py", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the results")
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"of {', '.join(EXAMPLES)}")
    parser.add_argument("--train", type=Path, required=True, help="parquet file of the training images")
    parser.add_argument("--test", type=Path, required=True, help="of the images that score")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each side; default: 10")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    parser.add_argument("--side", choices=SIDES, help="only this one, in this process")
    arguments = parser.parse_args()
    unknown = set(arguments.methods) - set(EXAMPLES)
    if unknown:
        parser.error(f"no example {', '.join(sorted(unknown))}; there are {', '.join(EXAMPLES)}")
    dataset = f"{{name: parquet, train: {arguments.train.resolve()}, test: {arguments.test.resolve()}}}"
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        sets = [f"dataset={dataset}", f"train.seed={seed}", *EVALUATE]
        for method in arguments.methods or EXAMPLES:
            for side in [arguments.side] if arguments.side else SIDES:
                file = arguments.folder / f"{method}-{side}-{seed}.json"
                if file.is_file():
                    continue
                if side == "ours":
                    result = train_ours(method, sets, arguments.minutes, file.with_suffix(""))
                elif arguments.side:
                    result = train_lightly(method, sets, arguments.minutes)
                else:  # in a process of its own, so that no run warms up another
                    options = ["--side", side, "--seeds", str(seed), "--minutes", str(arguments.minutes)]
                    files = ["--train", str(arguments.train), "--test", str(arguments.test)]
                    command = [sys.executable, __file__, str(arguments.folder), method, *files, *options]
                    subprocess.run(command, check=True)
                    continue
                file.write_text(json.dumps(result) + "\n")
    table = "\n".join(table_of(arguments.folder)) + "\n"
    (arguments.folder / "results.md").write_text(table)
    if not arguments.side:
        print(table)


def train_ours(method: str, sets: Sequence[str], minutes: float, out: Path) -> dict[str, Any]:
    """The result of ``contrastive run`` with these overrides."""
    overrides = [word for each in sets for word in ("--set", each)]
    command = [sys.executable, "-m", "contrastive", "run", recipe_name(method), "--out", str(out)]
    subprocess.run([*command, "--minutes", f"{minutes:g}", *overrides], check=True)
    summary = json.loads((out / "summary.json").read_text())
    images = summary["steps"] * load_recipe(out / "recipe.yaml", [], load_registry()).train.batch_size
    return {"knn": summary["trained"]["knn_top1"], "images": images, "seconds": summary["wall_seconds"]}


def train_lightly(method: str, sets: Sequence[str], minutes: float) -> dict[str, Any]:
    """The result of lightly's example with the data, network and seed of our recipe."""
    example, overrides = EXAMPLES[method], [*sets, f"train.epochs={10**6}"]
    recipe = load_recipe(recipe_name(method), overrides, load_registry())
    data, composition = build(recipe)
    torch.manual_seed(recipe.train.seed)
    images = Pictures(data.train, example)
    workers = fastest_workers(recipe, images, example)
    backbone = composition.method.backbone
    training = example.build(backbone, backbone.width)
    start, steps = time.perf_counter(), 0
    for epoch, views in batches(images, example.batch, workers):
        take_step(training, views, epoch)
        steps += 1
        if time.perf_counter() - start >= 60 * minutes:
            break
    seconds = time.perf_counter() - start
    knn = score(recipe, data, composition)
    return {"knn": knn, "images": steps * example.batch, "seconds": seconds, "workers": workers}


def recipe_name(method: str) -> str:
    return f"cifar10/{method}-cpu"


class Pictures(torch.utils.data.Dataset[Any]):
    """Images as Pillow's, decoded once, under an example's transform."""

    def __init__(self, table: ImageTable, example: Example):
        self.transform = example.transform()
        self.images = [
            Image.fromarray(table.decode(row).permute(1, 2, 0).numpy()) for row in range(len(table))
        ]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return [*self.transform(self.images[index])]


def batches(images: Pictures, batch: int, workers: int) -> Iterator[tuple[int, list[Tensor]]]:
    """The number of the epoch, and views [N, C, H, W]; without end."""
    loader = DataLoader(images, batch, shuffle=True, drop_last=True, num_workers=workers)
    epoch = 0
    while True:
        for views in loader:
            yield epoch, views
        epoch += 1


def take_step(training: LightlyMethod, views: Sequence[Tensor], epoch: int) -> None:
    training.loss(views, epoch).backward()
    training.optimizer.step()
    training.optimizer.zero_grad()
    training.after_step()


def fastest_workers(recipe: Recipe, images: Pictures, example: Example) -> int:
    """The number of workers with the faster steps of a network that is thrown away."""

    def seconds(workers: int) -> float:
        backbone = build(recipe)[1].method.backbone
        training, source = example.build(backbone, backbone.width), batches(images, example.batch, workers)
        for step in range(WARM_UP + STEPS):
            if step == WARM_UP:
                start = time.perf_counter()
            epoch, views = next(source)
            take_step(training, views, epoch)
        return time.perf_counter() - start

    return min(WORKERS, key=seconds)


def score(recipe: Recipe, data: Data, composition: Composition) -> float:
    """kNN accuracy of the recipe's protocol on the test images."""
    method = composition.method.eval()
    evaluation = evaluation_of(recipe, data, composition, torch.device("cpu"))
    return float(evaluation.final(method.backbone, None)["knn_top1"])


def table_of(folder: Path) -> Iterator[str]:
    """Lines of Markdown: means over the seeds that both sides have."""
    yield "| method | seeds | kNN ours | lightly | difference (least to greatest) | images ours | lightly |"
    yield "|---|---|---|---|---|---|---|"
    for method in EXAMPLES:
        pairs = [[json.loads(file.read_text()) for file in files] for files in finished(folder, method)]
        if pairs:
            knn, images = ([[side[key] for side in pair] for pair in pairs] for key in ("knn", "images"))
            differences = [100 * (ours - theirs) for ours, theirs in knn]
            ours, theirs = (100 * statistics.fmean(side) for side in zip(*knn, strict=True))
            images_ours, images_theirs = (statistics.fmean(side) for side in zip(*images, strict=True))
            spread = f"{min(differences):+.1f} to {max(differences):+.1f}"
            yield (
                f"| `{method}` | {len(pairs)} | {ours:.1f} | {theirs:.1f} "
                f"| {statistics.fmean(differences):+.1f} ({spread}) "
                f"| {images_ours:,.0f} | {images_theirs:,.0f} |"
            )


def finished(folder: Path, method: str) -> Iterator[tuple[Path, Path]]:
    """The results of both sides, for each seed that both have."""
    for ours in sorted(folder.glob(f"{method}-ours-*.json")):
        theirs = ours.with_name(ours.name.replace("-ours-", "-lightly-"))
        if theirs.is_file():
            yield ours, theirs


if __name__ == "__main__":
    main()
