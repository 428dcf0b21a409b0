"""A method that takes a few steps, in whole batches or chunks: losses, gradients, and the state after."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from contrastive.training import Method
from contrastive.training.gradients import Chunk, GradientCache, OnePass
from contrastive.values import Batch, Progress
from contrastive.views import View
from tests.training.test_gradients import accelerator, mean

RATE = 0.3  # of gradient descent


def train(
    method: Method,
    steps: Sequence[Sequence[Batch]],
    views_of: Callable[[Batch], list[View]],
    chunk: int | None = None,
) -> dict[str, Tensor]:
    """Losses and gradients of every step, and the state afterwards.

    Args:
        method: in training mode.
        steps: the micro-batches of every step.
        views_of: a batch's views.
        chunk: images that are encoded at a time; None: all.
    """
    values: dict[str, Tensor] = {}
    with accelerator() as accelerate:
        model = accelerate.prepare(method if chunk is None else Chunk(method))
        passes = (
            OnePass(method, model, accelerate)
            if chunk is None
            else GradientCache(method, model, accelerate, chunk, 0)
        )
        for step, micro in enumerate(steps):
            progress = Progress(step, len(steps))
            outputs = [
                passes.backward(batch, views_of, progress, (number, len(micro)))
                for number, batch in enumerate(micro)
            ]
            values[f"loss {step}"] = mean(torch.stack([output.loss for output in outputs]).mean())
            method.before_step(progress)
            for key, p in method.named_parameters():
                if p.requires_grad and p.grad is not None:
                    values[f"gradient {step} {key}"] = p.grad.clone()
                    p.data -= RATE * p.grad
                p.grad = None
            for output in outputs:
                method.after_batch(*output.comparisons)
            method.after_step(progress)
    return values | {f"state {key}": value for key, value in method.state_dict().items()}


def agree(values: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """The same values by name, to rounding; and the first gradients are not zero."""
    assert values.keys() == expected.keys()
    assert any(value.abs().max() > 1e-3 for key, value in expected.items() if key.startswith("gradient 0"))
    for key, value in expected.items():
        torch.testing.assert_close(values[key], value, rtol=1e-9, atol=1e-11, msg=key)
