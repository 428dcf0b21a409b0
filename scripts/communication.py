"""What processes that train together send and hold, per step: the formulas of docs/performance.md, and their
values for the recipes of imagenet/ with 32 images per process.

python scripts/communication.py            print them
python scripts/communication.py --page     put them between the page's markers

scripts/collectives.py counts the same in real steps; tests/training/test_communication.py compares.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from pages import put
from step_calls import BATCH, RandomImages, random_data
from torch.nn.modules.batchnorm import _BatchNorm

from contrastive.build import build
from contrastive.comparison import comparison
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
MARK = "communication"
PROCESSES = (1, 8, 64, 1024)
#: Images per process in the table.
IMAGES = 32


@dataclass(frozen=True)
class Sizes:
    """What the bytes of a step depend on; the names of the formulas are in brackets.

    Attributes:
        processes, images: how many processes [W], and images of each [b]; B = W b.
        parameters: how many are trained [P].
        width: of the embeddings [D], or the number of prototypes [K].
        views: online views.
        patches: of a view; 0 without an objective of patches. Every image hides at least a tenth of them.
        queue: entries [S].
        pixels: of an image, over its channels [C].
    """

    processes: int
    images: int
    parameters: int
    width: int
    views: int = 2
    patches: int = 0
    queue: int = 0
    pixels: int = 0

    @property
    def batch(self) -> int:
        return self.processes * self.images

    def element(self, rows: int, columns: int) -> int:
        """Bytes of a number [e] in a comparison of so many rows with so many columns."""
        return 8 if rows * columns <= comparison.SMALL else 4


@dataclass(frozen=True)
class Bytes:
    """Of one process and step: what it hands to collectives, and what it holds.

    Attributes:
        all_gather, all_reduce, broadcast: bytes handed to collectives of the kind.
        foreign: bytes held because of the other processes, at the step's peak.
        queue: bytes of a queue, the same on every process.
    """

    all_gather: int = 0
    all_reduce: int = 0
    broadcast: int = 0
    foreign: int = 0
    queue: int = 0

    def payloads(self) -> dict[str, int]:
        """By kind of collective, without those that do not occur."""
        by_kind = {"all-gather": self.all_gather, "all-reduce": self.all_reduce, "broadcast": self.broadcast}
        return {kind: count for kind, count in by_kind.items() if count}

    def traffic(self, processes: int) -> Fraction:
        """What a process sends in rings, the least that these collectives allow, as a mean over processes."""
        share = Fraction(processes - 1, processes)
        return (processes - 1) * self.all_gather + share * (2 * self.all_reduce + self.broadcast)

    def memory(self, processes: int) -> int:
        """What it holds; alone, a process gathers nothing."""
        return self.queue + (self.foreign if processes > 1 else 0)


class Formula(NamedTuple):
    """The bytes of a method, and how the page writes what is gathered, what is reduced and what is held."""

    of: Callable[[Sizes], Bytes]
    all_gather: str
    all_reduce: str
    memory: str


def simclr(s: Sizes) -> Bytes:
    e = s.element(2 * s.images, 2 * s.batch)
    return Bytes(
        all_gather=2 * s.images * (e * s.width + 16),
        all_reduce=4 * s.parameters + 2 * s.batch * e * s.width + 36,
        foreign=2 * s.batch * (3 * e * s.width + 24),
    )


def moco_v2(s: Sizes) -> Bytes:
    e = s.element(s.images, s.batch + s.queue)
    copy = 4 * s.width + 16 if e == 8 else 0  # the queue holds float32, so it takes a copy
    return Bytes(
        all_gather=s.images * (e * s.width + 16),
        all_reduce=4 * s.parameters + 44,
        foreign=s.batch * (e * s.width + 24 + copy),
        queue=s.queue * (4 * s.width + 17) + 8,
    )


def moco_v2_shuffled(s: Sizes) -> Bytes:
    plain = moco_v2(s)
    return Bytes(
        all_gather=plain.all_gather + 4 * s.images * (s.pixels + s.width),
        all_reduce=plain.all_reduce,
        broadcast=8 * s.batch,
        foreign=s.batch * (4 * s.pixels + 16),
        queue=plain.queue,
    )


def byol(s: Sizes) -> Bytes:
    return Bytes(all_reduce=4 * s.parameters + 52)


def dino(s: Sizes) -> Bytes:
    e = s.element(s.views * s.images, 2 * s.batch)
    return Bytes(all_reduce=4 * s.parameters + e * s.width + 44)


def ibot(s: Sizes) -> Bytes:
    e = s.element(s.views * s.images, 2 * s.batch)
    of_patches = s.element(2 * s.images * (s.patches // 10), 2 * s.patches * s.batch)
    return Bytes(all_reduce=4 * s.parameters + (e + of_patches) * s.width + 60)


QUEUE = "the queue's S (4D + 17) + 8"
FORMULAS = {
    "simclr": Formula(simclr, "2b (eD + 16)", "4P + 2BeD + 36", "2B (3eD + 24)"),
    "moco_v2": Formula(
        moco_v2, "b (eD + 16)", "4P + 44", f"B (eD + 24), for e = 8 B (4D + 16) more; {QUEUE}"
    ),
    "moco_v2, shuffle_bn": Formula(
        moco_v2_shuffled,
        "b (eD + 16) + 4b (C + D); broadcast: 8B",
        "4P + 44",
        f"B (4C + 16); {QUEUE}",
    ),
    "byol": Formula(byol, "0", "4P + 52", "0"),
    "dino": Formula(dino, "0", "4P + eK + 44", "0"),
    "ibot": Formula(ibot, "0", "4P + (e + e')K + 60", "0"),
}
#: Method -> how often a step passes the batch norms of the trained networks, and of their average, if these
#: normalise by the images of all processes; split_bn and shuffle_bn rule that out.
NORM_PASSES = {"simclr": (1, 0), "byol": (2, 2)}


def norm_statistics(trained: Sequence[int], average: Sequence[int], passes: tuple[int, int]) -> Bytes:
    """What SyncBN adds on GPUs.

    Args:
        trained, average: channels of each batch norm of the trained networks, and of their average.
        passes: of either in a step.
    """
    times = [(channels, passes[0]) for channels in trained] + [(channels, passes[1]) for channels in average]
    return Bytes(
        all_gather=sum(4 * count * (2 * channels + 1) for channels, count in times),
        all_reduce=sum(8 * passes[0] * channels for channels in trained),
    )


# -- the page ---------------------------------------------------------------------------------------------


def measure(method: str) -> tuple[Sizes, Bytes]:
    """The sizes of a method's recipe of imagenet/ in one process, and what SyncBN adds on GPUs."""
    name = f"imagenet/{method.partition(',')[0]}"
    recipe = load_recipe(name, {"train.batch_size": BATCH, "train.workers": 0}, load_registry())
    data = random_data(RandomImages(2 * BATCH, None))
    _, parts = build(recipe, open_data_sets=[(recipe.dataset, data)])
    objective = parts.method.objectives[0]
    memories = [memory for source in objective.negatives if (memory := source.memory()) is not None]
    sizes = Sizes(
        processes=1,
        images=IMAGES,
        parameters=sum(p.numel() for p in parts.method.parameters() if p.requires_grad),
        width=objective.head.out_features,
        views=len(parts.pipelines),
        patches=(224 // 16) ** 2,
        queue=sum(len(memory.valid) for memory in memories),
        pixels=3 * 224**2,
    )
    norms = [module for module in parts.method.modules() if isinstance(module, _BatchNorm)]
    trained = [norm.num_features for norm in norms if norm.weight.requires_grad]
    average = [norm.num_features for norm in norms if not norm.weight.requires_grad]
    return sizes, norm_statistics(trained, average, NORM_PASSES.get(method, (0, 0)))


def table() -> str:
    """The formulas, and their values for each number of processes: bytes sent, and bytes held."""
    formulas = ["| recipe | all-gather | all-reduce | held |", "|---|---|---|---|"]
    columns = " | ".join(f"{count:,}" for count in PROCESSES)
    traffic = [f"| sent | {columns} |", "|---" * (1 + len(PROCESSES)) + "|"]
    memory = [f"| held | {columns} |", "|---" * (1 + len(PROCESSES)) + "|"]
    for method, formula in FORMULAS.items():
        one, statistics = measure(method)
        formulas.append(f"| `{method}` | {formula.all_gather} | {formula.all_reduce} | {formula.memory} |")
        several = [(count, formula.of(replace(one, processes=count))) for count in PROCESSES]
        traffic.append(_row(f"`{method}`", [step.traffic(count) for count, step in several]))
        memory.append(_row(f"`{method}`", [step.memory(count) for count, step in several]))
        if statistics.all_gather:
            name = f"`{method}`, SyncBN in addition"
            traffic.append(_row(name, [statistics.traffic(count) for count in PROCESSES]))
    return "\n".join([*formulas, "", *traffic, "", *memory]) + "\n"


def _row(name: str, values: Sequence[Fraction | int]) -> str:
    return f"| {name} | {' | '.join(_megabytes(value) for value in values)} |"


def _megabytes(count: Fraction | int) -> str:
    return f"{float(count) / 1e6:,.1f} MB" if count else "0"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", action="store_true", help=f"rewrite them in {PAGE.name}")
    if parser.parse_args().page:
        PAGE.write_text(put(PAGE.read_text(), MARK, table()))
    else:
        print(table(), end="")


if __name__ == "__main__":
    main()
