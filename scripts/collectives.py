"""What processes that train together send each other in a step, and the memory of its tensors, counted.

The engine takes real steps of tiny networks with the methods of shipped recipes: in one process, in several
under torchrun, or in one process of torch's fake group, in which the other processes are imaginary. A fake
group computes wrong numbers but calls the same collectives with tensors of the same shapes.

python scripts/collectives.py --processes 4          print the counts of four processes as JSON
python scripts/collectives.py --fake 512 1024        of one process of 512, and of one of 1,024
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from contrastive.build import build
from contrastive.distributed import rank, world_size
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry
from contrastive.runs import Display, assemble
from contrastive.runs.launch import join_processes
from contrastive.training import make_accelerator

#: Images per process of the tiny steps. Three steps of 1,024 processes fit into the sample.
IMAGES = 2
#: Steps taken; the last is counted. In the second, data parallelism still orders its buckets.
STEPS = 3
VIT = {"backbone.options.depth": 2, "backbone.options.embed_dim": 24, "backbone.options.num_heads": 3}
RESNET = {"backbone.options.width": 0.125, "head.dims": [16, 128]}
PROTOTYPES = {"head.prototypes": 12, "head.hidden": 16, "head.bottleneck": 8}
#: Shorter than a batch, so that most memory is that of the shuffled images.
SHORT_QUEUE = {**RESNET, "negatives.size": 24}
#: Method -> the shipped recipe, and what makes it small.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "simclr": ("simclr", RESNET),
    "moco_v2": ("moco_v2", RESNET),
    "moco_v2, shuffle_bn": (
        "moco_v2",
        {**SHORT_QUEUE, "target": {"name": "shuffle_bn", "of": {"name": "ema"}}},
    ),
    "byol": ("byol", {**RESNET, "predictor.dims": [16, 128]}),
    "dino": ("dino", {**VIT, **PROTOTYPES}),
    "ibot": ("ibot", {**VIT, **PROTOTYPES}),
}
#: Operators of torch's collectives -> their kind, and which argument a process hands over.
KINDS = {
    "c10d::allgather_": ("all-gather", 1),
    "c10d::_allgather_base_": ("all-gather", 1),
    "c10d::allreduce_": ("all-reduce", 0),
    "c10d::broadcast_": ("broadcast", 0),
}


class Recorder(TorchDispatchMode):
    """Counts the collectives of what runs within it, and the memory of the tensors made within it.

    Attributes:
        payloads: kind of collective -> bytes that this process hands to those of that kind.
        peak: the most bytes that these tensors had at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.payloads: Counter[str] = Counter()
        self.peak = 0
        self._sizes: dict[int, int] = {}  # address of a storage -> its bytes
        self._total = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.namespace == "c10d":
            name = func._schema.name
            kind, position = KINDS.get(name, (name, 0))
            self.payloads[kind] += sum(x.nbytes for x in tree_leaves(args[position]) if isinstance(x, Tensor))
        outputs = func(*args, **(kwargs or {}))
        for x in tree_leaves(outputs):
            if isinstance(x, Tensor):
                self._note(x.untyped_storage())
        return outputs

    def _note(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until it is freed."""
        address = storage._cdata
        if address not in self._sizes:
            self._sizes[address] = storage.nbytes()
            self._total += storage.nbytes()
            self.peak = max(self.peak, self._total)
            weakref.finalize(storage, self._drop, address)

    def _drop(self, address: int) -> None:
        self._total -= self._sizes.pop(address)


def record(method: str, images: int = IMAGES) -> dict[str, Any]:
    """The counts of a step of a method, in this process of the group.

    Args:
        method: a key of :data:`METHODS`.
        images: per process.

    Returns:
        ``payloads`` and ``peak`` of the :class:`Recorder`; ``parameters``: how many are trained; and
        ``norm_passes``: path of a batch norm -> passes through it.
    """
    name, sizes = METHODS[method]
    training = {"batch_size": images * world_size(), "precision": "fp32", "workers": 0}
    recipe = load_recipe(name, {"train": training, "evaluate.every": 0, **sizes}, load_registry())
    data, parts = build(recipe)
    with tempfile.TemporaryDirectory() as folder:
        accelerator = make_accelerator("fp32", folder, [])
        engine, _ = assemble(recipe, data, parts, Path(folder), accelerator, Display.silent())
        if world_size() > 1 and dist.get_backend() == "fake":
            engine.model.register_comm_hook(None, _reduce)
        engine.model.train()
        batches = engine.loader.epoch(0)
        norm_passes = _norm_passes_of(engine.method)
        for _ in range(STEPS):
            batch = next(batches)
            norm_passes.clear()
            with Recorder() as recorder:
                engine._step([batch])
                engine.interrupted()  # as the engine asks after every step
        batches.close()
        engine.loader.close()
    parameters = sum(p.numel() for p in parts.method.parameters() if p.requires_grad)
    return {
        "payloads": dict(recorder.payloads),
        "peak": recorder.peak,
        "parameters": parameters,
        "norm_passes": dict(norm_passes),
    }


def _norm_passes_of(method: nn.Module) -> Counter[str]:
    """Counts the passes through each batch norm in training mode from now on, by its path."""
    passes: Counter[str] = Counter()

    def note(module: nn.Module, path: str) -> None:
        passes[path] += module.training

    for path, module in method.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_pre_hook(lambda module, _, path=path: note(module, path))
    return passes


def _reduce(_, bucket):  # torch refuses annotations that are strings
    """What data parallelism does with a bucket of gradients; its own way needs a tensor from the group, and
    a fake one returns none."""
    dist.all_reduce(bucket.buffer())
    future: torch.futures.Future[Tensor] = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


@contextmanager
def fake_group(count: int) -> Iterator[None]:
    """Within it this process, which belongs to no other group, is the first of ``count``; the others are
    imaginary."""
    variables = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    new_group = dist.new_group

    def new_fake_group(**_: Any) -> Any:
        return new_group(backend="fake")

    with mock.patch.dict(os.environ, variables), mock.patch.object(dist, "new_group", new_fake_group):
        AcceleratorState._reset_state(reset_partial_state=True)
        dist.init_process_group("fake", rank=0, world_size=count, store=FakeStore())
        try:
            join_processes(10)
            yield
        finally:
            dist.destroy_process_group()
            AcceleratorState._reset_state(reset_partial_state=True)


def counts_of_processes(count: int, methods: Sequence[str] = tuple(METHODS)) -> list[dict[str, Any]]:
    """What each of ``count`` real processes counts, by rank: method -> what :func:`record` returns."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        child = [__file__, "--child", folder, "--methods", *methods]
        subprocess.run(
            [sys.executable, *(torchrun if count > 1 else []), *child], check=True, env=environment
        )
        return [json.loads((Path(folder) / f"{number}.json").read_text()) for number in range(count)]


def counts_of_fake_group(count: int, methods: Sequence[str] = tuple(METHODS)) -> Mapping[str, Any]:
    """What one process of a fake group counts: method -> what :func:`record` returns."""
    with fake_group(count):
        return {method: record(method) for method in methods}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, help="how many real processes")
    parser.add_argument(
        "--fake", type=int, nargs="+", metavar="N", help="numbers of processes of fake groups"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        join_processes(10)
        counts = {method: record(method) for method in arguments.methods}
        (arguments.child / f"{rank()}.json").write_text(json.dumps(counts))
    elif arguments.fake:
        print(json.dumps([counts_of_fake_group(count, arguments.methods) for count in arguments.fake]))
    else:
        print(json.dumps(counts_of_processes(arguments.processes or 1, arguments.methods)))


if __name__ == "__main__":
    main()
