"""A method and a plain script of its paper, trained side by side in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from contrastive.training import Method
from contrastive.values import Progress
from contrastive.views import View

RATE = 0.3  # of gradient descent

State = dict[str, Tensor]


@dataclass
class Differences:
    """The largest absolute differences between a method and a script: losses, and weights at the end."""

    loss: float = 0.0
    weights: float = 0.0

    def add_loss(self, value: Tensor, expected: Tensor) -> None:
        """Fails if they are not equal to rounding."""
        torch.testing.assert_close(value.detach(), expected.detach(), rtol=1e-9, atol=1e-12)
        self.loss = max(self.loss, float((value - expected).detach().abs()))

    def add_weights(self, name: str, tensor: Tensor, expected: Tensor) -> None:
        """Fails if they are not equal to rounding; ``name`` says which ones."""
        torch.testing.assert_close(tensor.detach(), expected.detach(), rtol=1e-9, atol=1e-11, msg=name)
        difference = tensor.detach().double() - expected.detach().double()  # some are counts or flags
        if difference.numel():  # a memory may be empty
            self.weights = max(self.weights, float(difference.abs().max()))


def compare(
    method: Method,
    batches: Sequence[Sequence[View]],
    loss: Callable[[State, Sequence[View], int], Tensor],
    after_step: Callable[[State, int], None],
    frozen: Callable[[str, int], bool],
    rests: Callable[[str], bool] = lambda key: False,
    labels: Tensor | None = None,
    is_new: bool = True,
    rate: float = RATE,
) -> Differences:
    """Train a method and a script side by side: losses of every step, and all weights at the end.

    Args:
        method: in float64.
        batches: the views of every step.
        loss: of the script, from the weights (by their names in the method), the views and the step. Both
            sides start each step with torch's generator seeded by its number.
        after_step: what the script does to weights that no gradient moves.
        frozen: whether a weight gets no gradient in a step.
        rests: whether a weight need not move.
        labels: [B] of the images, if positives are by label.
        is_new: whether the images of each step are others; if not, each step is an epoch of the same ones.
        rate: of gradient descent. Where the loss is steep, a large one makes rounding grow.
    """
    s = {key: value.clone() for key, value in method.state_dict().items()}
    start = {key: value.clone() for key, value in s.items()}
    trained = [key for key, p in method.named_parameters() if p.requires_grad]
    differences = Differences()
    for step, views in enumerate(batches):
        progress = Progress(step, len(batches))
        count = len(views[0].data)
        torch.manual_seed(step)
        ids = torch.arange(count) + (count * step if is_new else 0)
        output = method(views, ids, labels, progress)
        output.loss.backward()
        method.before_step(progress)
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter.data -= rate * parameter.grad
                parameter.grad = None
        method.after_batch(*output.comparisons)
        method.after_step(progress)

        leaves = [s[key].requires_grad_() for key in trained]
        torch.manual_seed(step)
        value = loss(s, views, step)
        differences.add_loss(output.loss, value)
        for key, gradient in zip(trained, torch.autograd.grad(value, leaves), strict=True):
            s[key] = s[key].detach() - (0 if frozen(key, step) else rate * gradient)
        after_step(s, step)
    for key, tensor in method.state_dict().items():
        if tensor.is_floating_point() and ".running" not in key:
            differences.add_weights(key, tensor, s[key])
            moves = (
                tensor.shape != start[key].shape
                or not tensor.numel()
                or (tensor - start[key]).abs().max() > 1e-8
            )
            assert moves or rests(key), key
    return differences
