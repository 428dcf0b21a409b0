"""One-sentence explanations of non-finite numbers, runs of skipped steps, and missing memory.

A step leaves its norms on the device. They are read with its loss, one step late, so that the device never
waits for the check.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.errors import ContrastiveError
from contrastive.text import quantity, was
from contrastive.training.checkpoints import Checkpoints
from contrastive.training.method import Method
from contrastive.training.state import Metrics

#: A run ends after this many skipped steps in a row.
MAX_SKIPPED = 100


class StepNorms:
    """Norms of what one step reads and computes, which locate the first non-finite number.

    In the order of the forward pass: the weights of each part, queries, keys. Then the gradients, in the
    order of the backward pass.

    Args:
        method: whose parts are watched.
    """

    def __init__(self, method: Method):
        parts = method.named_parts()
        weights = {name: list(part.parameters()) for name, part in parts.items()}
        self._weights = {name: tensors for name, tensors in weights.items() if tensors}
        self.losses = [name for name in parts if name.rpartition(".")[0].endswith("loss")]
        objectives = [f" of {each.name}" if each.name else "" for each in method.objectives]
        self.embeddings = [
            name
            for of in objectives
            for name in (f"the embeddings of the online encoder{of}", f"the keys of target{of}")
        ]
        self.names = [
            *(f"the weights of {name}" for name in self._weights),
            *self.embeddings,
            *(f"the gradient of {name}" for name in reversed(self._weights)),
        ]

    def read(self, comparisons: Sequence[Sequence[Comparison]]) -> Tensor:
        """Norms [len(names)], on the device: of the weights before an update, the embeddings, the gradients.

        Args:
            comparisons: of the micro-batches of the step, one per objective.
        """
        embeddings = [
            [side.z.detach() for side in sides]
            for of_objective in zip(*comparisons, strict=True)
            for sides in ([c.queries for c in of_objective], [c.own_keys for c in of_objective])
        ]
        gradients = [
            [p.grad for p in parameters if p.grad is not None] for parameters in self._weights.values()
        ]
        groups: list[list[Tensor]] = [
            *([p.detach() for p in parameters] for parameters in self._weights.values()),
            *embeddings,
            *reversed(gradients),
        ]
        like = embeddings[0][0]
        zero = like.new_zeros((), dtype=torch.float32)  # of no tensors; torch's would be a copy from the host
        return torch.stack([_norm(group).to(zero) if group else zero for group in groups])

    def weights_are_nonfinite(self, norms: Sequence[float]) -> bool:
        """Whether weights were non-finite before the step."""
        return not all(map(math.isfinite, norms[: len(self._weights)]))

    def first_nonfinite(self, loss: float, norms: Sequence[float]) -> str:
        """The first part with non-finite numbers, or the losses if all before them were finite."""
        forward = len(self._weights) + len(self.embeddings)
        nonfinite = [name for name, norm in zip(self.names, norms, strict=True) if not math.isfinite(norm)]
        before = [name for name in nonfinite if name in self.names[:forward]]
        if before:
            return before[0]
        if not math.isfinite(loss):
            return f"the value of {' or '.join(self.losses)}"
        return nonfinite[0]


def _split(values: list[float], at: int) -> tuple[list[float], list[float]]:
    return values[:at], values[at:]


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm: non-finite if a number is, or if numbers are about to overflow. On CPUs it takes a
    fifth of the time of the greatest absolute value."""
    return torch.nn.utils.get_total_norm(tensors)


class Health:
    """The last finite metrics of a run, and the steps skipped in a row.

    Args:
        method: that it trains.
        checkpoints: of the run, named in messages.
        nonfinite: what to do with a non-finite step.
        scaler: of fp16, which skips steps itself until its scale fits; None without one.
        steps: of the run; if they are fewer than :data:`MAX_SKIPPED`, skipping all of them ends it too.
    """

    def __init__(self, method: Method, checkpoints: Checkpoints, nonfinite: str, scaler: Any, steps: int):
        self.norms = StepNorms(method)
        several = method.objectives if len(method.objectives) > 1 else ()
        self.losses = [f"{objective.name}/loss" for objective in several]
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
            values: its loss, the losses of several objectives, its norms, and the norm of its gradient if
                that was clipped.

        Raises:
            ContrastiveError: it is not finite and must not be skipped.
        """
        loss, rest = values[0], list(values[1:])
        losses = dict(zip(self.losses, rest, strict=False))
        norms, gradient_norm = _split(rest[len(losses) :], len(self.norms.names))
        finite = all(map(math.isfinite, values))
        by_scaler = self.scaler is not None and (math.isfinite(loss) or self.nonfinite == "skip")
        if pending.get("skipped") or (by_scaler and not finite):
            self.skipped.append((pending["step"], loss, norms))
            return {**pending, "skipped": True}
        if not finite:
            raise self.divergence_error(pending["step"], loss, norms)
        of_gradient = {"grad_norm": gradient_norm[0]} if gradient_norm else {}
        self.last = {**pending, "loss": loss, **losses, **of_gradient}
        self.skipped = []
        return self.last

    def check_skipped(self) -> None:
        """Check that the run can recover from the step that was skipped last.

        Raises:
            ContrastiveError: it was one too many in a row, or the weights are not finite any more.
        """
        step, loss, norms = self.skipped[-1]
        finite = math.isfinite(loss) and all(map(math.isfinite, norms))
        where = "" if finite else f"; first in {self.norms.first_nonfinite(loss, norms)}"
        rest = f"{self._last()} {self._rescue()}"
        if self.norms.weights_are_nonfinite(norms):
            raise ContrastiveError(
                f"step {step:g}: skipping steps cannot recover from non-finite weights{where}.{rest}"
            )
        if len(self.skipped) >= self.max_skipped:
            verb = was(len(self.skipped))
            raise ContrastiveError(
                f"step {step:g}: {quantity(len(self.skipped), 'step')} in a row {verb} not finite and {verb} "
                f"skipped{where}; the run no longer learns.{rest}"
            )

    def divergence_error(self, step: float, loss: float, norms: Sequence[float]) -> ContrastiveError:
        """The error that ends a run at a step whose loss or gradient is not finite."""
        what = "gradient" if math.isfinite(loss) else "loss"
        return ContrastiveError(
            f"step {step:g}: the {what} is not finite, first in {self.norms.first_nonfinite(loss, norms)}."
            f"{self._last()} {self._rescue()}"
        )

    def check_weights(self, method: Method, step: float) -> None:
        """Check that a checkpoint is worth keeping.

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
        """Where the last good state is, and what helps: the same command would reach the same numbers."""
        path = self.checkpoints.last()
        where = "There is no earlier checkpoint" if path is None else f"The checkpoint before it is {path}"
        other = "lower optimizer.lr or set train.clip_grad_norm, as a new run."
        if self.nonfinite == "skip":
            return f"{where}; {other}"
        on = "" if path is None else ", which continues from there,"
        return f"{where}; set train.nonfinite=skip{on} to skip such steps, or {other}"


def last_checkpoint_hint(checkpoints: Checkpoints) -> str:
    """Where the newest checkpoint is: the same command continues from there."""
    path = checkpoints.last()
    if path is None:
        return "There is no earlier checkpoint; nothing was written."
    return f"The checkpoint before it is {path}; the same command continues from there."


def out_of_memory(error: BaseException) -> bool:
    """Whether an error reports missing memory, on the device or on the host."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )


@contextmanager
def explain_out_of_memory(advice: Callable[[], str], checkpoints: Checkpoints) -> Iterator[None]:
    """Turn an out-of-memory error into one sentence.

    Args:
        advice: what the run was doing, and what to change.
        checkpoints: of the run, from which it can continue.

    Raises:
        ContrastiveError: instead of the error that reports it.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise ContrastiveError(f"out of memory {advice()} {last_checkpoint_hint(checkpoints)}") from error


#: What to try if an evaluation ran out of memory.
EVALUATION_ADVICE = "while evaluating: free memory, or remove protocols from evaluate."


def chunk_advice(images: int, chunk: int | None) -> str:
    """What to try if training ran out of memory.

    Args:
        images: per batch and process.
        chunk: the present ``train.chunk_size``.
    """
    now = images if chunk is None else min(chunk, images)
    situation = (
        f"training on {quantity(images, 'image')} at a time"
        if now == images
        else f"training in chunks of {quantity(now, 'image')}"
    )
    smaller = now // 4 if now == images else now // 2
    if smaller < 1:
        return f"{situation}: take a smaller backbone or smaller views."
    return f"{situation}: try train.chunk_size: {smaller}, or a smaller train.batch_size (now {images})."
