"""The gradient of a batch: in one pass, or in chunks by gradient caching (Gao et al. 2021).

With a cache, a batch is encoded in chunks without gradient and compared whole, which gives the gradient of
every embedding. Then each chunk is encoded again and takes its rows of that gradient through the encoder.
Memory holds the activations of one chunk, at the cost of one more forward pass. What is cached is what the
losses see: queries, and keys if the target lets a gradient through.

The gradient is the whole batch's for encoders that treat each image separately. Batch norm does not: it sees
one chunk at a time, as does the target.

Source: Gao, Zhang, Han and Callan 2021, "Scaling deep contrastive learning batch size under memory limited
setup". Shape letters: b images per process, c per chunk, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from contrastive.device import to_device
from contrastive.distributed import rank, world_size
from contrastive.rng import derive
from contrastive.text import quantity
from contrastive.training.method import Method, Output, by_number
from contrastive.training.objective import GuideVectors, Sides, keep
from contrastive.training.state import Settings
from contrastive.values import Batch, Progress
from contrastive.views import View

#: View -> vectors [b, D] or [b, n, D], or their gradients.
Vectors = dict[int, Tensor]
#: The views of a batch, or of a chunk of it.
Augment = Callable[[Batch], Sequence[View]]


@dataclass(frozen=True)
class Gradients:
    """Of one objective and chunk: the gradients of queries and keys, and which rows the queries are."""

    queries: Vectors
    keys: Vectors
    subset: Vectors


class Passes(Protocol):
    """Adds a batch's gradient to the parameters' gradients.

    Attributes:
        model: what it runs, as the accelerator prepared it.
    """

    model: nn.Module

    def backward(self, batch: Batch, augment: Augment, progress: Progress, micro: tuple[int, int]) -> Output:
        """The batch's loss, detached, and its comparison.

        Args:
            batch: source images.
            augment: makes views, each from its image alone; called for parts of the batch, and again.
            progress: steps taken and to take.
            micro: the index of this micro-batch, and their number in the step, which divides the gradient.
        """
        ...


class BufferSnapshot:
    """Buffers of modules as they are now, to be restored after a forward pass has changed their statistics.

    Args:
        modules: those that a forward pass runs; None stands for a missing one.
    """

    def __init__(self, modules: Iterable[nn.Module | None]):
        self._buffers = [buffer for module in modules if module is not None for buffer in module.buffers()]
        self._copies = [buffer.clone() for buffer in self._buffers]

    def restore(self) -> None:
        """Give every buffer the value that it had."""
        for buffer, copy in zip(self._buffers, self._copies, strict=True):
            buffer.copy_(copy)


class OnePass:
    """A batch's gradient in one pass.

    Args:
        method: what is trained.
        model: the same, as the accelerator prepared it.
        accelerator: precision, loss scale and processes.
    """

    def __init__(self, method: Method, model: nn.Module, accelerator: Accelerator):
        self.method = method
        self.model = model
        self.accelerator = accelerator

    def backward(self, batch: Batch, augment: Augment, progress: Progress, micro: tuple[int, int]) -> Output:
        number, count = micro
        with self.method.stage("augment"):
            views = augment(batch)
        # Gradients add up over micro-batches; processes exchange them after the last.
        with nullcontext() if number == count - 1 else self.accelerator.no_sync(self.model):
            output = self.model(views, *_ids_and_labels(batch, views[0].data), progress)
            # The loss's own backward pass comes first; it turns into the encoder's (Method.encode).
            with self.method.stage("backward"), self.method.stage("loss"):
                self.accelerator.backward(output.loss / count)
        return output.detach()


class Chunk(nn.Module):
    """The forward pass of one chunk whose embeddings' gradients are known: what data parallelism wraps."""

    def __init__(self, method: Method):
        super().__init__()
        self.method = method

    def forward(self, views: Sequence[View], gradients: Sequence[Gradients], last: bool) -> Tensor:
        """A scalar whose gradient is the chunk's share of the batch's: the sum of <p, dp> and <k, dk>.

        Args:
            views: of the chunk.
            gradients: of each objective; if none has gradients of keys, no target runs.
            last: whether gradients are reduced over processes after this chunk.
        """
        by_view = by_number(views)
        encodings = self.method.encode(by_view)
        terms: list[Tensor] = []
        for encoding, own in zip(encodings, gradients, strict=True):
            queries = keep({view: encoding[view].p for view in own.queries}, own.subset)
            terms += [(queries[view] * gradient).sum() for view, gradient in own.queries.items()]
        if any(own.keys for own in gradients):
            for keys, own in zip(self.method.keys(by_view, encodings), gradients, strict=True):
                terms += [(keys.keys[view] * gradient).sum() for view, gradient in own.keys.items()]
        if last and world_size() > 1:
            # Data parallelism waits for every parameter, those that no chunk reaches (a loss's own) too.
            terms += [0 * p.sum() for p in self.parameters() if p.requires_grad]
        return torch.stack([term.float() for term in terms]).sum()


class GradientCache:
    """Backward passes of whole batches, in chunks.

    Everything random in encoders and targets depends on (seed, step, micro-batch, chunk, rank), so that both
    passes encode a chunk equally. Buffers of what runs twice (batch norm's statistics) start the second pass
    as they started the first, and end as the first ended: each chunk counts once.

    Args:
        method: what is trained.
        model: its :class:`Chunk`, as the accelerator prepared it.
        accelerator: precision, loss scale and processes.
        size: most images per chunk and process; the chunks of a batch differ by one image at most.
        seed: of the run.
    """

    def __init__(self, method: Method, model: nn.Module, accelerator: Accelerator, size: int, seed: int):
        self.method = method
        self.model = model
        self.accelerator = accelerator
        self.size = size
        self.seed = seed
        once = [target for target in method.targets if target.detached]
        self.twice = [part for part in method.encoders if all(part is not target for target in once)]

    def backward(self, batch: Batch, augment: Augment, progress: Progress, micro: tuple[int, int]) -> Output:
        number, count = micro
        chunks = split_batch(batch, self.size)

        def views(chunk: int) -> Sequence[View]:
            """Made again for each pass: a batch of them may take more memory than a chunk's activations."""
            with self.method.stage("augment"):
                of_chunk = augment(chunks[chunk])
            torch.manual_seed(derive(self.seed, "step", progress.step, number, "chunk", chunk, rank()))
            return of_chunk

        before = BufferSnapshot(self.twice)
        sides = self._embed(views(chunk) for chunk in range(len(chunks)))
        after = BufferSnapshot(self.twice)

        ids, labels = _ids_and_labels(batch, next(iter(sides[0].queries.values())))
        output = self.method.loss(sides, ids, labels, progress)
        with self.method.stage("loss"):
            self.accelerator.backward(
                output.loss / count
            )  # with fp16's scale, which the cached gradients then carry

        sizes = [len(chunk.ids) for chunk in chunks]
        gradients_of_chunks = zip(*(_gradients(own, sizes) for own in sides), strict=True)
        before.restore()
        for chunk, gradients in enumerate(gradients_of_chunks):
            last = chunk == len(chunks) - 1 and number == count - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                share = self.model(views(chunk), gradients, last)
                with self.method.stage("backward"):
                    share.backward()  # not scaled again: the cached gradients carry fp16's scale
        after.restore()
        return output.detach()

    def _embed(self, chunks: Iterable[Sequence[View]]) -> list[Sides]:
        """What each objective compares of the whole batch, as leaves of the graph that follows."""
        sides_of_chunks: list[list[Sides]] = []
        for views in chunks:
            by_view = by_number(views)
            with torch.no_grad(), self.accelerator.autocast():
                encodings = self.method.encode(by_view)
                sides_of_chunks.append(
                    self.method.sides(by_view, encodings, self.method.keys(by_view, encodings))
                )
        return [
            _whole(parts, needs_gradient=not objective.target.detached)
            for objective, parts in zip(
                self.method.objectives, zip(*sides_of_chunks, strict=True), strict=True
            )
        ]


def prepare_passes(
    method: Method, optimizer: torch.optim.Optimizer, accelerator: Accelerator, settings: Settings
) -> tuple[Passes, AcceleratedOptimizer]:
    """The passes that these settings ask for, and the optimizer, as the accelerator prepares them."""
    images = settings.batch_size // accelerator.num_processes
    chunk = min(images, settings.chunk_size or images)
    if chunk == images:
        model, optimizer = accelerator.prepare(method, optimizer)
        return OnePass(method, model, accelerator), optimizer
    model, optimizer = accelerator.prepare(Chunk(method), optimizer)
    return GradientCache(method, model, accelerator, chunk, settings.seed), optimizer


def _whole(parts: Sequence[Sides], needs_gradient: bool) -> Sides:
    """What an objective compares, from chunks; queries, and keys that need a gradient, are leaves.

    Keys that are the queries themselves stay the same tensors.
    """
    first = parts[0]
    shared_views = {view for view, key in first.keys.items() if key is first.queries.get(view)}
    queries = {view: torch.cat([p.queries[view] for p in parts]).requires_grad_() for view in first.queries}
    keys = {
        view: queries[view]
        if view in shared_views
        else torch.cat([p.keys[view] for p in parts]).requires_grad_(needs_gradient)
        for view in first.keys
    }
    matches = None
    if first.matches is not None:
        matches = {
            pair: torch.cat([p.matches[pair] for p in parts if p.matches is not None])
            for pair in first.matches
        }
    subset = {view: torch.cat([p.subset[view] for p in parts]) for view in first.subset}
    guides = {
        name: GuideVectors(
            *(
                {view: torch.cat([p.guides[name][side][view] for p in parts]) for view in vectors}
                for side, vectors in enumerate(first.guides[name])
            )
        )
        for name in first.guides
    }
    return Sides(queries, keys, matches, subset, guides)


def split_batch(batch: Batch, size: int) -> list[Batch]:
    """A batch as chunks of at most ``size`` images, whose sizes differ by one at most."""
    count = -(-len(batch.ids) // size)
    rows = [
        slice(int(part[0]), int(part[-1]) + 1) for part in torch.arange(len(batch.ids)).tensor_split(count)
    ]

    def images(part: slice) -> Tensor | list[Tensor]:
        pixels = batch.images
        return [view[part] for view in pixels] if isinstance(pixels, list) else pixels[part]

    labels = batch.labels
    return [
        Batch(
            batch.ids[part],
            images(part),
            None if labels is None else labels[part],
            sizes=None if batch.sizes is None else batch.sizes[part],
        )
        for part in rows
    ]


def is_chunked(chunk_size: int | None, batch_size: int) -> bool:
    """Whether a batch is encoded in more than one chunk."""
    return chunk_size is not None and chunk_size < batch_size


def chunk_warning(method: Method, chunk_size: int | None, batch_size: int) -> str | None:
    """What chunks change if batch norm sees them instead of the batch; None if they change nothing."""
    if chunk_size is None or not is_chunked(chunk_size, batch_size):
        return None
    modules = method.modules_in_training_mode()
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules):
        return None
    return (
        f"batch norm sees chunks of {quantity(chunk_size, 'image')}, not the batch of {batch_size}, "
        "so the gradient is not quite the whole batch's (docs/methods.md)"
    )


def _ids_and_labels(batch: Batch, like: Tensor) -> tuple[Tensor, Tensor | None]:
    """Ids and labels of a batch, on the device of ``like``."""
    labels = None if batch.labels is None else to_device(batch.labels.numpy(), like)
    return to_device(batch.ids.numpy(), like), labels


def _gradients(sides: Sides, sizes: list[int]) -> list[Gradients]:
    """For each chunk: the gradients of its queries and of its keys, of those views that have one."""
    own_keys = {view: key for view, key in sides.keys.items() if key is not sides.queries.get(view)}
    queries, keys = (
        {view: leaf.grad.split(sizes) for view, leaf in leaves.items() if leaf.grad is not None}
        for leaves in (sides.queries, own_keys)
    )
    subset = {view: rows.split(sizes) for view, rows in sides.subset.items()}
    return [
        Gradients(
            *({view: parts[chunk] for view, parts in vectors.items()} for vectors in (queries, keys, subset))
        )
        for chunk in range(len(sizes))
    ]
