"""The optimizer ``my_optimizer``."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from contrastive import hookimpl
from contrastive.parts import Optimizer
from pydantic import Field
from torch import nn

contrastive_api = 1


class MyOptimizer(Optimizer):
    """NAdam with decoupled weight decay, its rate falling in a straight line (Dozat 2016).

    Args:
        lr: peak learning rate, whatever the batch size.
        weight_decay: multiplied with the learning rate; vectors (norms, biases) are spared.
    """

    def __init__(
        self,
        lr: Annotated[float, Field(gt=0)] = 1e-3,
        weight_decay: Annotated[float, Field(ge=0)] = 0.01,
    ):
        self.lr, self.weight_decay = lr, weight_decay

    def build(self, model: nn.Module, batch_size: int) -> torch.optim.Optimizer:
        """The torch optimizer; every group carries the ``peak_lr`` that ``factor`` scales."""
        trainable = [p for p in model.parameters() if p.requires_grad]
        matrices, vectors = [p for p in trainable if p.ndim > 1], [p for p in trainable if p.ndim <= 1]
        common = {"lr": self.lr, "peak_lr": self.lr}
        decayed = {"params": matrices, "weight_decay": self.weight_decay, **common}
        groups = [decayed, {"params": vectors, "weight_decay": 0.0, **common}]
        return torch.optim.NAdam([g for g in groups if g["params"]], decoupled_weight_decay=True)

    def factor(self, group: Mapping[str, Any], step: int, steps: int, steps_per_epoch: int) -> float:
        """1 at step 0, towards 0 at step ``steps``."""
        return 1 - step / steps


@hookimpl
def register_optimizer(register):
    register("my_optimizer", MyOptimizer)
