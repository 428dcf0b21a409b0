"""Your own loss, and some steps with it: python examples/own_loss.py"""

import torch

from contrastive import Comparison
from contrastive.parts import Loss


class BatchHard(Loss):  # soft-margin triplets with the closest negative, after Hermans et al. 2017
    def compare(self, comparison: Comparison) -> torch.Tensor:
        rows = comparison.rows()  # of each query: its positives and negatives among the keys
        return torch.nn.functional.softplus(rows.negatives.top(1)[:, 0] - rows.positives.mean)  # [R]


views = torch.randn(2, 64, 16, generator=torch.manual_seed(0)).requires_grad_()  # embeddings [2, N, D]
for step in range(61):
    loss = BatchHard()(*views)
    if step % 20 == 0:
        print(f"step {step}  loss {loss.item():.3f}")
    views.data -= 20 * torch.autograd.grad(loss, views)[0]
