"""Checks of protocols: their metrics, and what they must not read or change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor

from contrastive.evaluation import Witness
from contrastive.kinds import Unit
from contrastive.parts import Protocol
from contrastive.testing.equality import same
from contrastive.testing.framework import check, fail, require, skip
from contrastive.testing.materials import splits
from contrastive.testing.subjects import Subject
from contrastive.testing.surroundings import fixed_seed
from contrastive.testing.trials import FeatureTrial, trial
from contrastive.values import Features


@check("version", "protocol", after=("loads",))
def version(subject: Subject) -> None:
    """It declares its own ``version``, a whole number from 1 on, which accompanies every metric."""
    versions = [vars(base)["version"] for base in subject.part_class.__mro__ if "version" in vars(base)]
    require(
        len(versions) > 1,
        "it declares no version; write version = 1, and increase it whenever its metrics change",
    )
    right = type(versions[0]) is int and versions[0] > 0
    require(right, f"its version is {versions[0]!r}; give a whole number from 1 on")


@check("metrics", "protocol", after=("builds",))
def metrics(subject: Subject) -> None:
    """It returns finite metrics by name, with and without test, in 0..1 unless ``metric_units`` differs."""
    for with_test in (False, True):
        scores = subject.part().evaluate(trial(with_test))
        require(isinstance(scores, dict) and scores, f"it returns {scores!r}, not metrics by name")
        for name, value in scores.items():
            require(
                isinstance(name, str) and name.isidentifier(), f"{name!r} is not a valid name for a metric"
            )
            require(isinstance(value, float), f"{name} is a {type(value).__name__}; convert it with float()")
            require(math.isfinite(value), f"{name} is {value}")
            if name.startswith(("top", "accuracy")):
                require(0 <= value <= 1, f"{name} is {value}; return a fraction, not a percentage")
        _check_units(subject.part(), scores)


def _check_units(part: Protocol, scores: Mapping[str, float]) -> None:
    """Its ``metric_units`` name metrics that it returns, and all others are fractions."""
    for name, unit in part.metric_units.items():
        require(name in scores, f"metric_units names {name}, which it does not return ({', '.join(scores)})")
        require(
            unit in get_args(Unit),
            f"the unit of {name} in metric_units is {unit!r}; write {' or '.join(map(repr, get_args(Unit)))}",
        )
    fractions = {k: v for k, v in scores.items() if part.metric_units.get(k, "fraction") == "fraction"}
    others = {name: value for name, value in fractions.items() if not 0 <= value <= 1}
    if others:
        name, value = next(iter(others.items()))
        units = {**part.metric_units, **dict.fromkeys(others, "number")}
        fail(f"{name} is {value}, which is not a fraction; write metric_units = {units}")


@check("deterministic", "protocol", after=("metrics", "global state"))
def protocol_deterministic(subject: Subject) -> None:
    """The same features give the same metrics, whatever the seed of the process."""
    first: dict[str, float] | None = None
    for seed in range(4):  # accuracies are coarse: two draws may agree
        with fixed_seed(seed):
            scores = subject.part().evaluate(trial())
        first = scores if first is None else first
        require(
            same(first, scores), f"the same features give {first} and then {scores}; seed its random draws"
        )


@check("order", "protocol", after=("deterministic",))
def order(subject: Subject) -> None:
    """The order of the rows changes no metric by more than one image."""
    all_splits = splits()
    plain = subject.part().evaluate(trial())
    permuted_trial = FeatureTrial(*(_rows_of(part, torch.randperm(len(part))) for part in all_splits))
    shuffled_scores = subject.part().evaluate(permuted_trial)
    for name, value in plain.items():
        require(
            abs(value - shuffled_scores[name]) <= 1.01 / len(all_splits[2]) * max(1.0, abs(value)),
            f"{name} is {value}, and {shuffled_scores[name]} with the same rows in another order",
        )


@check("test unread", "protocol", after=("deterministic",))
def test_unread(subject: Subject) -> None:
    """Its ``top1`` and ``accuracy...`` depend on no fit to test's labels and no choice by them.

    If predictions do not depend on test's labels, each image is correct under exactly one of the K cyclic
    renamings of its label, so the K accuracies add up to 1. Choosing by these labels gives more.
    """
    fit, validation, test = splits()
    count = int(fit.labels.max()) + 1
    totals: dict[str, float] = {}
    for shift in range(count):
        shifted_test = replace(test, labels=(test.labels + shift) % count)
        for name, value in subject.part().evaluate(FeatureTrial(fit, validation, shifted_test)).items():
            totals[name] = totals.get(name, 0.0) + value
    accuracies = {
        name: total for name, total in totals.items() if name == "top1" or name.startswith("accuracy")
    }
    if not accuracies:
        skip("only accuracies (top1, accuracy...) show this, and it returns none")
    for name, total in accuracies.items():
        require(
            abs(total - 1) < 1e-6,
            f"{name} over the {count} renamings of test's classes adds up to {total:.4f} rather than 1, "
            "so its predictions depend on test's labels; choose hyperparameters on validation alone",
        )


@check("encoder kept", "protocol", after=("metrics",))
def encoder_kept(subject: Subject) -> None:
    """It does not change the encoder or the head: weights, statistics of batch norm, and mode."""
    fresh_trial = trial()
    witness = Witness(fresh_trial.modules)
    subject.part().evaluate(fresh_trial)
    difference = witness.difference()
    require(difference is None, f"it changes {difference} of the encoder; use a copy (copy.deepcopy)")


def _rows_of(features: Features, rows: Tensor) -> Features:
    return Features(features.vectors[rows], features.labels[rows], features.ids[rows])
