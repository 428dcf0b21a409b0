"""What a run does with a part of each kind, once."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from contrastive.augmentations import Key
from contrastive.comparison import Comparison
from contrastive.errors import UsageError
from contrastive.testing.materials import VIEWS, comparison_for, embeddings, pictures, pixels
from contrastive.testing.networks import network
from contrastive.testing.patches import encode, encoder_input
from contrastive.testing.recorded_run import EPOCHS, RecordedRun
from contrastive.testing.subjects import IN_CHANNELS, IN_FEATURES
from contrastive.testing.surroundings import fixed_seed
from contrastive.testing.trials import trial
from contrastive.values import Progress


def use(kind: str, part: Any) -> None:
    """What a run does with a part of this kind, once."""
    _USES[kind](part)


def _use_dataset(part: Any) -> None:
    table = part.table("train")
    table.decode(0), table.name(0), part.fingerprint(), part.classes


def _use_augmentation(part: Any) -> None:
    part(pictures(4), np.arange(4), seed=1, epoch=2)
    for pipeline in part.pipelines():
        if hasattr(pipeline, "marks"):  # pipelines of a plugin's own need not mark anything
            pipeline.marks(np.arange(4), Key(1, 2, 0), (14, 14), np.full((4, 2), 32))


def _use_encoder(part: Any) -> None:
    encode(part.train(), encoder_input(part, 4).requires_grad_()).sum().backward()


def _use_target(part: Any) -> None:
    with fixed_seed(0):
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(IN_CHANNELS * 64, IN_FEATURES))
    try:
        part.bind(encoder)
    except UsageError:  # it needs more than one process
        return
    views = dict(enumerate([pixels(4, view, 8) for view in range(VIEWS)]))
    part(views, {view: encoder(x) for view, x in views.items()}, encoder)
    with torch.no_grad():
        part.before_step(Progress())
        part.after_step(Progress())


def _use_negatives(part: Any) -> None:
    part.offers(0, 1)
    memory = part.memory()
    with torch.no_grad():
        part.after_batch(
            Comparison.of(embeddings(4, torch.float32), memories=[] if memory is None else [memory])
        )


def _use_loss(part: Any) -> None:
    views = [view.requires_grad_() for view in embeddings(8, torch.float32)]
    part(comparison_for(part, views)).backward()


def _use_optimizer(part: Any) -> None:
    model = network()
    optimizer = part.build(model, 8)
    model(pixels(4, size=10)).square().sum().backward()
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * part.factor(group, 5, 10, 5)
        part.settle(group, Progress(5, 10))
    optimizer.step()


def _use_callback(part: Any) -> None:
    with TemporaryDirectory(prefix="contrastive-conformance-") as folder:
        run = RecordedRun(Path(folder))
        part.run_started(run)
        run.live(part, EPOCHS)
        part.state_dict()


def _use_protocol(part: Any) -> None:
    part.evaluate(trial())


_USES = {
    "dataset": _use_dataset,
    "augmentation": _use_augmentation,
    "backbone": _use_encoder,
    "head": _use_encoder,
    "target": _use_target,
    "negatives": _use_negatives,
    "loss": _use_loss,
    "optimizer": _use_optimizer,
    "callback": _use_callback,
    "protocol": _use_protocol,
}
