"""Remedies of messages about losses, monitors and protocols that a user calls."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from contrastive.comparison import Comparison
from contrastive.comparison.rowstats import evaluate as evaluate_function
from contrastive.evaluation import Evaluation, TimedProtocol
from contrastive.monitors import embedding_norm, length_warning, memory_warning
from contrastive.protocols import KNN, FineTune, LinearProbe, Retrieval
from contrastive.testing.materials import splits
from contrastive.testing.trials import FeatureTrial, trial
from contrastive.values import Features
from tests.support.remedies import Remedy


def compared(views: list[torch.Tensor]) -> None:
    Comparison.of(views)


def summed(passes_it: bool) -> None:
    scale = torch.ones(3, requires_grad=True)
    scores = torch.zeros(3, 4)
    if passes_it:
        evaluate_function(lambda s, t: s * t, scores, [scale])
    else:
        evaluate_function(lambda s: s * scale[:, None], scores, [])


def remembered(writes: bool) -> str:
    z, valid = torch.zeros(8, 4), torch.zeros(8, dtype=torch.bool)
    if writes:
        z, valid = torch.randn(8, 4), ~valid
    return memory_warning(z, valid, None) or ""


def remembered_twice(moves: bool) -> str:
    z, valid = torch.randn(8, 4), torch.ones(8, dtype=torch.bool)
    return memory_warning(z + moves, valid, z) or ""


def length(with_batch_norm: bool) -> str:
    z = 1e-6 * torch.randn(64, 16)
    return length_warning(embedding_norm(nn.BatchNorm1d(16)(z).detach() if with_batch_norm else z)) or ""


def tuned(arguments: dict[str, Any]) -> None:
    one_class = [Features(each.vectors, torch.zeros_like(each.labels), each.ids) for each in splits()]
    own = FeatureTrial(*one_class) if "fraction" in arguments else trial()  # of a class at least one is taken
    FineTune(**{"steps": 5, "batch_size": 16, **arguments}).evaluate(own)


def scored(protocols: list[Any]) -> None:
    fit, validation, test = splits()
    alone = Features(test.vectors[:2], torch.arange(2), test.ids[:2])
    for protocol in protocols:
        protocol.score(fit, validation, alone)


def labelled(has_labels: bool) -> None:
    fit, validation, test = splits()
    unknown = Features(fit.vectors, torch.full_like(fit.labels, -1), fit.ids)
    KNN(5).score(fit if has_labels else unknown, validation if has_labels else unknown, test)


def embedding_of(feature: str) -> None:
    own = trial()
    own.head = None
    type(own).__mro__[1].features_of(own, own.test, feature)


def with_metrics(names: tuple[str, str]) -> None:
    """Two protocols are evaluated under these keys; the first gives the metric b_c, the second c."""
    values = dict(zip(names, ({"b_c": 1.0}, {"c": 1.0}), strict=True))
    entries = [TimedProtocol(name, "fake", KNN(5), "end") for name in names]
    own = SimpleNamespace(_values_of=lambda entry, _: values[entry.name])
    Evaluation._metrics_of(own, entries, trial())


def by_hand() -> Iterator[Remedy]:
    z = [torch.randn(4, 8) for _ in range(2)]
    yield Remedy("comparison/comparison.py", "give one tensor [b, D] per view", compared, [], z)
    yield Remedy("comparison/comparison.py", "give two views of each image", compared, z[:1], z)
    yield Remedy("comparison/rowstats.py", "pass it as an argument", summed, False, True)
    yield Remedy("contrastive/monitors.py", "so it offers no candidates", remembered, False, True)
    yield Remedy("contrastive/monitors.py", "its keys have not changed", remembered_twice, False, True)
    yield Remedy("contrastive/monitors.py", "or end the head in batch norm", length, False, True)
    yield Remedy("protocols/finetune.py", "raise 'fraction'", tuned, {"fraction": 0.001}, {"fraction": 0.5})
    yield Remedy("protocols/finetune.py", "lower 'lr', now", tuned, {"lr": 1e30}, {"lr": 0.01})
    yield Remedy(
        "protocols/finetune.py",
        "use evaluate(trial)",
        lambda by_trial: tuned({}) if by_trial else FineTune().score(*splits()),
        False,
        True,
    )
    yield Remedy("protocols/labelled_rows.py", "or give it labelled data", labelled, False, True)
    yield Remedy(
        "protocols/linear.py",
        "give at least one strength",
        lambda l2: LinearProbe(l2=l2) and None,
        [],
        [0.1, 0.01],
    )
    yield Remedy("protocols/retrieval.py", "remove 'retrieval'", scored, [Retrieval()], [])
    yield Remedy("evaluation/evaluation.py", "rename one of them", with_metrics, ("a", "a_b"), ("a", "other"))
    yield Remedy("evaluation/trial.py", "set feature: h", embedding_of, "z", "h")


REMEDIES = [*by_hand()]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
