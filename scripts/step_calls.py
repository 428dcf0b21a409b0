"""What a training step of each shipped recipe asks of a GPU, measured on a fake one (scripts/fake_device.py).

python scripts/step_calls.py                              calls by stage, and where the host waits, per recipe
python scripts/step_calls.py cifar10/simclr --operators   of these recipes, operator by operator
python scripts/step_calls.py --studies                    of every cell of the studies, instead
python scripts/step_calls.py --write [RECIPE ...]         make these calls the ceilings of the test's table

A call is that of an operator of torch that is not a view, about one kernel on a GPU.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import json
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import yaml
from fake_device import Wait, fake_gpu

from contrastive.backbones import Timm
from contrastive.build import build
from contrastive.recipe import Recipe, load_cells, resolve
from contrastive.recipe.sources import shipped_recipes
from contrastive.registry import load_registry
from contrastive.runs import Display, assemble
from contrastive.training import make_accelerator

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.random_images import RandomImages, random_data  # noqa: E402

#: The ceilings that tests/training/test_fake_gpu.py checks.
TABLE = ROOT / "tests" / "training" / "step_calls.yaml"
HEADER = """\
# The most calls of torch's operators that a training step may make on a GPU, by stage; views do not count.
# Written by python scripts/step_calls.py --write, checked by test_fake_gpu.py.
"""
#: Function in which the host may wait for the device -> how often in all steps, and why.
ALLOWED_WAITS: dict[str, tuple[int, str]] = {
    "contrastive/monitors.py: _finite": (1, "collapse_watch checks step 1 and every 20th step"),
    "contrastive/monitors.py: embedding_std": (1, "the same check"),
}
#: Recipes that are measured besides the shipped ones: name -> the shipped one, and what differs.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    f"{name} with ema alone": (name, {"target": {"name": "ema", "momentum": 0.99}})
    for name in ("imagenet/moco_v2", "cifar10/moco_v2")
}
#: Recipe that names a network trained elsewhere -> the key, and channels, side and patches of a small
#: one in its place.
TEACHERS: dict[str, tuple[str, tuple[int, int, int]]] = {
    "distill": ("target.weights", (1, 28, 4)),
    "cifar10/distill-vit-cpu": ("target.weights", (3, 32, 4)),
    "guided": ("negatives.1.guide.weights", (1, 28, 4)),
    "cifar10/guided-cpu": ("negatives.1.guide.weights", (3, 32, 4)),
}
#: Recipes that continue a network trained elsewhere. Here they start a new one, whose steps are the same.
CONTINUATIONS = {"dinov2_gram"}
#: Recipe that starts from weights that are downloaded -> what it has in their place.
PRETRAINED: dict[str, dict[str, Any]] = {
    "adapt": {
        "backbone.pretrained": False,
        "backbone.options": {"embed_dim": 48, "num_heads": 2},
        "objectives.anchor.target.pretrained": False,
        "objectives.anchor.target.model": None,
    },
}
#: Recipes that are left out, as recipes of the same names on the sample take the same steps: large
#: transformers take minutes each to build, and one recipe whitens as many dimensions as a batch has images.
LEFT_OUT = {"cifar10/w_mse"} | {
    f"imagenet/{name}"
    for name in (
        *("cmae", "data2vec", "dino", "dinov2", "dinov2_gram", "distill", "ibot"),
        *("ijepa", "lejepa", "mae", "msn", "simclr_mae", "simmim", "visreg"),
    )
}
#: Images per batch: enough for every branch of the augmentation to have some.
BATCH = 64
#: Steps taken; the calls of the last are counted, the waits of all.
STEPS = 3
#: Of the data set.
IMAGES = 2 * STEPS * BATCH
STUDIES = "studies/"
OVERRIDES: dict[str, Any] = {"train.batch_size": BATCH, "train.workers": 0, "train.trackers": []}


@dataclass
class StepCalls:
    """What a step of a recipe asks of the device.

    Attributes:
        operators: stage -> operator -> calls that are not views.
        waits: where the host waits for the device, in any of the steps.
        error: why the step ended early.
    """

    operators: Mapping[str, Counter[str]] = field(default_factory=dict)
    waits: Mapping[Wait, int] = field(default_factory=dict)
    error: str | None = None

    @property
    def calls(self) -> dict[str, int]:
        """Stage -> calls, and their total."""
        calls = {stage: counts.total() for stage, counts in sorted(self.operators.items())}
        return {**calls, "total": sum(calls.values())}


class Table(NamedTuple):
    """Recorded ceilings, and the release of torch with which they were measured."""

    torch: str
    ceilings: dict[str, dict[str, int]]  # recipe -> stage -> calls


def read_table() -> Table:
    """The recorded ceilings."""
    return Table(**yaml.safe_load(TABLE.read_text()))


def torch_release() -> str:
    return torch.__version__.partition("+")[0]


def write_table(ceilings: Mapping[str, Mapping[str, int]]) -> None:
    """Record ceilings, one line per recipe."""
    lines = [f"torch: {torch_release()}", "ceilings:"]
    for name, calls in ceilings.items():
        stages = ", ".join(f"{stage}: {count}" for stage, count in calls.items())
        lines.append(f"  {name}: {{{stages}}}")
    TABLE.write_text(HEADER + "\n".join(lines) + "\n")


def recipe_names() -> list[str]:
    """What is measured by default: shipped recipes but studies and large transformers, and the variants."""
    names = (name for name in shipped_recipes() if name not in LEFT_OUT)
    return [*(name for name in names if not name.startswith(STUDIES)), *VARIANTS]


def load(name: str) -> list[tuple[str, Recipe]]:
    """A recipe, or the cells of a study, with their names."""
    recipe, sets = VARIANTS.get(name, (name, {}))
    if recipe in TEACHERS:
        key, form = TEACHERS[recipe]
        sets = {**sets, key: _teacher(*form)}
    if recipe in PRETRAINED:
        weights = {"objectives.anchor.target.weights": _teacher(3, 112, 14)}
        sets = {**sets, **PRETRAINED[recipe], **weights}
    if recipe in CONTINUATIONS:
        sets = {**sets, "backbone.weights": None}
    cells = load_cells(recipe, {**OVERRIDES, **sets})
    names = [" ".join([name, *cell.labels.values()]) for cell in cells] if len(cells) > 1 else [name]
    return [(label, resolve(cell.tree, load_registry())) for label, cell in zip(names, cells, strict=True)]


@functools.cache
def _teacher(channels: int, size: int, patch: int) -> str:
    """A folder with an exported transformer, which goes when this process ends."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    options = {"patch_size": patch, "depth": 1, "embed_dim": 48}
    Timm(channels, size, "vit_tiny_patch16_224", options=options).export(folder)
    return folder


def selection(names: Sequence[str], studies: bool) -> Iterator[tuple[str, Recipe]]:
    """The recipes to measure: those named, or else all; of studies, every cell."""
    if studies:
        names = [name for name in shipped_recipes() if name.startswith(STUDIES)]
    for name in names or recipe_names():
        yield from load(name)


def measure(recipe: Recipe) -> StepCalls:
    """Take :data:`STEPS` steps of a recipe on a fake GPU."""
    dataset = recipe.dataset
    data = random_data(_images_like(recipe))
    _, composition = build(recipe, open_data_sets=[(dataset, data)])
    with TemporaryDirectory() as folder, fake_gpu() as ledger:
        accelerator = make_accelerator(recipe.train.precision, folder, [], composition.is_narrow)
        ledger.move(composition.method)
        with ledger.fake, ledger:
            engine, _ = assemble(recipe, data, composition, Path(folder), accelerator, Display.silent())
        engine.method.stages = ledger.stages
        target = engine.method.target  # a stage of its own, within the forward pass
        target.give = ledger.stages.stage("target")(target.give)
        for callback in engine.callbacks:
            callback.run_started(engine.run)
        engine.model.train()
        batches = engine.loader.epoch(0)
        error = None
        try:
            for _ in range(STEPS):
                micro = [next(batches) for _ in range(recipe.train.accumulate)]
                ledger.restart()
                with ledger.fake, ledger:
                    engine._step(micro)
        except Exception as exception:  # of any type; the other recipes are measured nevertheless
            traceback.print_exc()
            error = f"{type(exception).__name__}: {exception}"
        return StepCalls(dict(ledger.operators), dict(ledger.waits), error)


def _images_like(recipe: Recipe) -> RandomImages:
    """Random images as the recipe's data set has them."""
    spec = recipe.dataset
    while "of" in spec.params and hasattr(spec.params["of"], "params"):
        spec = spec.params["of"]
    if spec.name == "fashion_mnist_sample":
        return RandomImages(IMAGES, (28, 28), 1)
    if spec.name == "torchvision":
        return RandomImages(IMAGES, (32, 32))
    return RandomImages(IMAGES, None)


def describe(name: str, steps: StepCalls, with_operators: bool) -> Iterator[str]:
    """Lines about the steps of a recipe."""
    yield f"{name}: {', '.join(f'{stage} {count}' for stage, count in steps.calls.items())}"
    if steps.error:
        yield f"  {steps.error}"
    for wait, count in steps.waits.items():
        yield f"  waits {count}x in {wait.stage}: {wait.operator} in {wait.function}, line {wait.line}"
    for stage, counts in steps.operators.items() if with_operators else ():
        yield f"  {stage}"
        yield from (f"    {count:5} {operator}" for operator, count in counts.most_common())


def as_json(steps: StepCalls) -> dict[str, Any]:
    """The steps of a recipe as plain values."""
    waits = [{**wait._asdict(), "count": count} for wait, count in steps.waits.items()]
    return {"calls": steps.calls, "waits": waits, "error": steps.error}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("recipes", nargs="*", help="by default every shipped recipe that is not a study")
    parser.add_argument("--operators", action="store_true", help="list the operators of each stage")
    parser.add_argument("--studies", action="store_true", help="measure every cell of the studies instead")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    if arguments.recipes and arguments.studies:
        parser.error("--studies measures the studies only; name no recipes.")
    if arguments.write and arguments.studies:
        parser.error("--write writes ceilings of recipes, not of studies; drop --studies.")
    if arguments.write and arguments.recipes and read_table().torch != torch_release():
        parser.error(f"the table is of torch {read_table().torch}; name no recipe, to write all of it.")
    steps_by_recipe: dict[str, StepCalls] = {}
    for name, recipe in selection(arguments.recipes, arguments.studies):
        steps_by_recipe[name] = measure(recipe)
        if not arguments.json:
            print("\n".join(describe(name, steps_by_recipe[name], arguments.operators)), flush=True)
    if arguments.json:
        print(json.dumps({name: as_json(steps) for name, steps in steps_by_recipe.items()}))
    if arguments.write:
        ceilings = read_table().ceilings if arguments.recipes else {}
        write_table(ceilings | {name: steps.calls for name, steps in steps_by_recipe.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
