"""Fine-tuning of a copy of the encoder on a share of the labels."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from contrastive.errors import ContrastiveError, UsageError
from contrastive.parts import Images, Protocol, Trial
from contrastive.protocols.labels import top1
from contrastive.rng import derive, hash_order
from contrastive.text import quantity
from contrastive.values import Features

Share = Annotated[float, Field(gt=0, le=1)]


class FineTune(Protocol):
    """Fine-tuning of the whole encoder, under a linear classifier, on a class-balanced share of the labels.

    A copy of the encoder and a classifier that starts at zero are trained by SGD with Nesterov momentum
    0.9, without weight decay or warm-up. The learning rate falls to zero along a cosine. Augmentation is
    random crops, half of them mirrored; batch norm is in training mode, and everything is float32. Nothing is
    chosen, so the held-out tenth is read only as part of train. Each class gives equally many images, those
    whose ids have the smallest hash: they are the same for every run on a data set, and a smaller share is a
    subset of a larger one. On the untrained encoder this is supervised training from scratch.
    Source: the semi-supervised protocol of SimCLR (Chen et al. 2020, appendix B.5: learning rate 0.05 for
    256 images, crops of 0.08 to 1, 60 epochs at 1 %, 30 at 10 %, which are 188 and 938 steps of 4,096
    images). The defaults take a minute or two on a CPU with small images.

    Args:
        fraction: share of the train split's labels; 1 for all of them, balanced or not.
        steps: optimizer steps.
        batch_size: images per step; all of them if they are fewer.
        lr: learning rate of the first step.
        scale: smallest and largest share of the area that a crop keeps; larger crops learn faster.
    """

    version = 1
    tunes = True

    def __init__(
        self,
        fraction: Share = 0.1,
        steps: Annotated[int, Field(gt=0)] = 500,
        batch_size: Annotated[int, Field(ge=2)] = 64,
        lr: Annotated[float, Field(gt=0)] = 0.1,
        scale: tuple[Share, Share] = (0.3, 1.0),
    ) -> None:
        if scale[0] > scale[1]:
            raise UsageError(f"finetune: 'scale' must go from low to high, but is {list(scale)}.")
        self.fraction, self.steps, self.batch_size, self.lr = fraction, steps, batch_size, lr
        self.scale = scale

    @classmethod
    def example(cls, folder: Path) -> dict[str, Any]:
        """Few steps: the kit runs them many times."""
        return {"fraction": 0.5, "steps": 20, "batch_size": 16}

    def evaluate(self, trial: Trial) -> dict[str, float]:
        """``top1``: the fraction of images classified correctly; images of a class without training images
        count as wrong.

        Raises:
            UsageError: the share is less than two images, or no image to classify can be read.
            ContrastiveError: training diverged.
        """
        pool, images = (trial.fit, trial.validation) if trial.test is None else (trial.train, trial.test)
        sample = pool.take(balanced_sample(pool.ids, pool.labels, self.fraction))
        if len(sample) < 2:
            raise UsageError(
                f"finetune: fraction {self.fraction:g} of {quantity(len(pool), 'labelled image')} is one, "
                "and batch norm needs two; raise 'fraction'."
            )
        if self.fraction < 1:
            trial.list_used(sample)
        device = next(trial.encoder.parameters()).device
        classes = torch.from_numpy(np.unique(sample.labels)).to(device)  # [K]
        crops = sample.batches(self.batch_size, self.scale)
        batches = ((pixels, torch.bucketize(labels, classes)) for pixels, labels in crops)
        model = self.tune(trial.encoder, batches, len(classes))
        return {"top1": self._accuracy(model, classes, images)}

    def score(self, fit: Features, validation: Features, test: Features | None = None) -> dict[str, float]:
        """Raises UsageError, because features cannot be trained: :meth:`evaluate` takes the encoder."""
        raise UsageError("finetune: it trains the encoder and cannot score features; use evaluate(trial).")

    def tune(self, encoder: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], classes: int) -> nn.Module:
        """A trained copy of ``encoder`` with its classifier: pixels [b, C, s, s] -> logits [b, K], in
        evaluation mode.

        Args:
            encoder: pixels -> h [b, F], with F as its ``features``; all its parameters are trained.
            batches: pixels and labels int64 [b] in 0..classes-1; ``steps`` of them are taken.
            classes: K.
        """
        device = next(encoder.parameters()).device
        with (
            torch.enable_grad(),
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        ):
            classifier = nn.Linear(int(encoder.features), classes, device=device)  # type: ignore[arg-type]
            nn.init.zeros_(classifier.weight)
            nn.init.zeros_(classifier.bias)
            model = nn.Sequential(copy.deepcopy(encoder), nn.Flatten(), classifier)
            model.train().requires_grad_(True)
            sgd = torch.optim.SGD(model.parameters(), lr=self.lr, momentum=0.9, nesterov=True)
            for step, (pixels, labels) in enumerate(islice(batches, self.steps)):
                torch.manual_seed(derive("finetune", step))  # dropout and the like
                for group in sgd.param_groups:
                    group["lr"] = self.lr * (1 + math.cos(math.pi * step / self.steps)) / 2
                F.cross_entropy(model(pixels), labels).backward()
                sgd.step()
                sgd.zero_grad(set_to_none=True)
        return model.eval()

    @torch.no_grad()
    def _accuracy(self, model: nn.Module, classes: Tensor, images: Images) -> float:
        answers = [(model(pixels), labels) for pixels, labels in images.whole()]
        if not answers:
            count = quantity(len(images), "image")
            raise UsageError(f"finetune: none of the {count} to classify can be read.")
        logits, labels = (torch.cat(column).cpu() for column in zip(*answers, strict=True))  # [n, K], [n]
        if not logits.isfinite().all():
            raise ContrastiveError(f"finetune: training diverged; lower 'lr', now {self.lr:g}.")
        return top1(classes.cpu()[logits.argmax(1)], labels)


def balanced_sample(ids: np.ndarray, labels: np.ndarray, fraction: float) -> np.ndarray:
    """Positions of a share of the images with equally many per class: int64 [m], in the order of a hash.

    Each of K classes gives ``fraction`` * n / K images, rounded, at least one and at most all it has; a
    fraction of 1 takes every image.

    Args:
        ids: int64 [n], whose hash chooses the images.
        labels: int64 [n], all known.
        fraction: above 0, at most 1.
    """
    order = hash_order(ids, "finetune")
    if fraction == 1:
        return order
    classes, index = np.unique(labels[order], return_inverse=True)
    each = max(1, round(fraction * len(ids) / len(classes)))
    rank = np.empty(len(order), np.int64)  # of each image among those of its class
    for number in range(len(classes)):
        own = index == number
        rank[own] = np.arange(own.sum())
    return order[rank < each]
