"""What went wrong, in one sentence: numbers that are not finite, steps that were all skipped, memory.

A step leaves its norms on the device; they are read with its loss, one step late, so that looking after
them never makes the device wait.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from contrastive.comparison import Comparison
from contrastive.errors import ContrastiveError
from contrastive.training.checkpoints import Checkpoints
from contrastive.training.method import Method
from contrastive.training.state import Metrics

#: So many skipped steps in a row end a run.
MAX_SKIPPED = 100


class StepNorms:
    """What one step leaves of every part, to tell where numbers first stopped being finite.

    In the order in which a forward pass meets them: weights of each part, queries, keys, each as a norm;
    then the gradients, in the order in which a backward pass meets them.

    Args:
        method: whose parts are watched.
    """

    def __init__(self, method: Method):
        several: list[tuple[str, Sequence[nn.Module]]] = [
            ("negatives", method.sources),
            ("loss", method.loss_parts),
        ]
        parts: list[tuple[str, nn.Module | None]] = [
            ("backbone", method.backbone),
            ("head", method.head),
            ("predictor", method.predictor),
            ("target", method.target),
            *((f"{kind}.{n}", part) for kind, modules in several for n, part in enumerate(modules)),
        ]
        weights = {name: list(part.parameters()) for name, part in parts if part is not None}
        self._weights = {name: tensors for name, tensors in weights.items() if tensors}
        self.losses = [name for name, _ in parts if name.startswith("loss.")]
        self.names = [
            *(f"the weights of {name}" for name in self._weights),
            "the embeddings of the online encoder",
            "the keys of target",
            *(f"the gradient of {name}" for name in reversed(self._weights)),
        ]

    def read(self, comparisons: Sequence[Comparison]) -> Tensor:
        """Norms [len(names)], on the device: of the weights before an update, what they gave, its gradient.

        Args:
            comparisons: the micro-batches of the step.
        """
        queries = [comparison.queries.z.detach() for comparison in comparisons]
        keys = [comparison.own_keys.z.detach() for comparison in comparisons]
        gradients = [
            [p.grad for p in parameters if p.grad is not None] for parameters in self._weights.values()
        ]
        groups: list[list[Tensor]] = [
            *([p.detach() for p in parameters] for parameters in self._weights.values()),
            queries,
            keys,
            *reversed(gradients),
        ]
        like = queries[0]
        return torch.stack([_norm(group).to(like.device, torch.float32) for group in groups])

    def weights_are_nonfinite(self, norms: Sequence[float]) -> bool:
        """Whether weights had stopped being finite before the step."""
        return not all(map(math.isfinite, norms[: len(self._weights)]))

    def first_nonfinite(self, loss: float, norms: Sequence[float]) -> str:
        """The part whose numbers first were not finite, or the losses where all before them were."""
        forward = len(self._weights) + 2
        nonfinite = [name for name, norm in zip(self.names, norms, strict=True) if not math.isfinite(norm)]
        before = [name for name in nonfinite if name in self.names[:forward]]
        if before:
            return before[0]
        if not math.isfinite(loss):
            return f"the value of {' or '.join(self.losses)}"
        return nonfinite[0]


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm: not finite where a number is not, or numbers are about to overflow. On CPUs it
    takes a fifth of the time that the greatest absolute value does."""
    return torch.nn.utils.get_total_norm(tensors)


class Health:
    """The last finite figures of a run, and how many steps in a row were skipped.

    Args:
        method: that it trains.
        checkpoints: where the way back is.
        nonfinite: what to do with a step that is not finite.
        scaler: of fp16, which leaves steps out by itself until its scale fits; None without one.
        steps: of the run; fewer than :data:`MAX_SKIPPED` in all are too many to skip, too.
    """

    def __init__(self, method: Method, checkpoints: Checkpoints, nonfinite: str, scaler: Any, steps: int):
        self.norms = StepNorms(method)
        self.checkpoints = checkpoints
        self.nonfinite = nonfinite
        self.scaler = scaler
        self.max_skipped = min(MAX_SKIPPED, steps) if scaler is None else MAX_SKIPPED
        self.last: Metrics = {}
        self.skipped: list[tuple[float, float, list[float]]] = []  # in a row: step, loss, norms

    def check_step(self, pending: Metrics, values: Sequence[float]) -> Metrics:
        """The metrics of a step; with ``skipped`` if it was skipped.

        Args:
            pending: its metrics besides these values.
            values: its loss, its norms, and the norm of its gradient where that was taken.

        Raises:
            ContrastiveError: it is not finite, and not to be skipped.
        """
        loss, norms = values[0], list(values[1 : 1 + len(self.norms.names)])
        gradient_norm = values[1 + len(norms) :]
        finite = all(map(math.isfinite, values))
        by_scaler = self.scaler is not None and (math.isfinite(loss) or self.nonfinite == "skip")
        if pending.get("skipped") or (by_scaler and not finite):
            self.skipped.append((pending["step"], loss, norms))
            return {**pending, "skipped": True}
        if not finite:
            raise self.divergence_error(pending["step"], loss, norms)
        self.last = {**pending, "loss": loss, **({"grad_norm": gradient_norm[0]} if gradient_norm else {})}
        self.skipped = []
        return self.last

    def check_skipped(self) -> None:
        """See that the run can recover from the step that was left out last.

        Raises:
            ContrastiveError: it was the last of too many in a row, or the weights are no numbers any more.
        """
        step, loss, norms = self.skipped[-1]
        finite = math.isfinite(loss) and all(map(math.isfinite, norms))
        where = "" if finite else f"; first in {self.norms.first_nonfinite(loss, norms)}"
        rest = f"{self._last()} {self._rescue()}"
        if self.norms.weights_are_nonfinite(norms):
            raise ContrastiveError(
                f"step {step:g}: no skipping of steps mends what is not finite{where}.{rest}"
            )
        if len(self.skipped) >= self.max_skipped:
            raise ContrastiveError(
                f"step {step:g}: {len(self.skipped)} steps in a row were not finite and skipped{where}, so "
                f"nothing is learned any more.{rest}"
            )

    def divergence_error(self, step: float, loss: float, norms: Sequence[float]) -> ContrastiveError:
        """The error that ends a run at a step whose loss or gradient is not finite."""
        what = "gradient" if math.isfinite(loss) else "loss"
        return ContrastiveError(
            f"step {step:g}: the {what} is not finite, first in {self.norms.first_nonfinite(loss, norms)}."
            f"{self._last()} {self._rescue()}"
        )

    def check_weights(self, method: Method, step: float) -> None:
        """See that a checkpoint is worth keeping.

        Raises:
            ContrastiveError: the weights, or statistics of batch norm, are not finite.
        """
        tensors = [t for t in (*method.parameters(), *method.buffers()) if t.is_floating_point()]
        if not _norm(tensors).isfinite():
            raise self.nonfinite_weights_error(step)

    def nonfinite_weights_error(self, step: float) -> ContrastiveError:
        """The error instead of a checkpoint whose weights are not finite."""
        return ContrastiveError(
            f"step {step:g}: the weights, or statistics of batch norm, are not finite.{self._last()} "
            f"{self._rescue()}"
        )

    def _last(self) -> str:
        numbers = [
            f"{name} {self.last[name]:.4g}" for name in ("loss", "grad_norm", "lr") if name in self.last
        ]
        return f" Last finite at step {self.last['step']:g}: {', '.join(numbers)}." if numbers else ""

    def _rescue(self) -> str:
        """Where the last good state is, and what helps: the same command would come to the same numbers."""
        path = self.checkpoints.last()
        where = "There is no checkpoint before it" if path is None else f"The checkpoint before it is {path}"
        other = "lower optimizer.lr or set train.clip_grad_norm, for a run of its own."
        if self.nonfinite == "skip":
            return f"{where}; {other}"
        on = "" if path is None else ", which goes on from there,"
        return f"{where}; say train.nonfinite=skip{on} to leave such steps out, or {other}"


def last_checkpoint_hint(checkpoints: Checkpoints) -> str:
    """Where the newest checkpoint is: the same command continues from there."""
    path = checkpoints.last()
    if path is None:
        return "There is no checkpoint before it; nothing was written."
    return f"The checkpoint before it is {path}; the same command goes on from there."


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had, on the device or on the host."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )


@contextmanager
def explain_out_of_memory(advice: Callable[[], str], checkpoints: Checkpoints) -> Iterator[None]:
    """Turn an out-of-memory error into one sentence.

    Args:
        advice: what was done, and what to change.
        checkpoints: of the run, which has lost nothing that they hold.

    Raises:
        ContrastiveError: instead of the error that reports it.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise ContrastiveError(f"out of memory {advice()} {last_checkpoint_hint(checkpoints)}") from error


def chunk_advice(images: int, chunk: int | None) -> str:
    """What to try where training ran out of memory.

    Args:
        images: of a batch, in one process.
        chunk: the present ``train.chunk_size``.
    """
    now = images if chunk is None else min(chunk, images)
    situation = (
        f"training on {images} images at a time" if now == images else f"training in chunks of {now} images"
    )
    smaller = now // 4 if now == images else now // 2
    if smaller < 1:
        return f"{situation}: take a smaller backbone or smaller views."
    return f"{situation}: try train.chunk_size: {smaller}, or a smaller train.batch_size (now {images})."
