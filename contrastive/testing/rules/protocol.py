"""Checks of protocols: which metrics they give, and what they leave unread and unchanged."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from contrastive.evaluation.trial import Witness
from contrastive.testing.equality import same
from contrastive.testing.framework import check, require, skip
from contrastive.testing.materials import splits
from contrastive.testing.subjects import Subject
from contrastive.testing.surroundings import fixed_seed
from contrastive.testing.trials import FeatureTrial, trial
from contrastive.values import Features


@check("version", "protocol", after=("loads",))
def version(subject: Subject) -> None:
    """It declares a ``version`` of its own, a whole number from 1 on, which every figure carries."""
    versions = [vars(base)["version"] for base in subject.part_class.__mro__ if "version" in vars(base)]
    require(
        len(versions) > 1,
        "it declares no version; write version = 1, and raise it whenever its figures change",
    )
    right = type(versions[0]) is int and versions[0] > 0
    require(right, f"its version is {versions[0]!r}; give a whole number from 1 on")


@check("figures", "protocol", after=("builds",))
def figures(subject: Subject) -> None:
    """It gives finite numbers by name, accuracies between 0 and 1, with and without a test split."""
    for with_test in (False, True):
        scores = subject.part().evaluate(trial(with_test))
        require(isinstance(scores, dict) and scores, f"it gives {scores!r}, not figures by name")
        for name, value in scores.items():
            require(isinstance(name, str) and name.isidentifier(), f"{name!r} is no name for a figure")
            require(isinstance(value, float), f"{name} is a {type(value).__name__}; convert it with float()")
            require(math.isfinite(value), f"{name} is {value}")
            if name.startswith(("top", "accuracy")):
                require(0 <= value <= 1, f"{name} is {value}; give a fraction, not a percentage")


@check("deterministic", "protocol", after=("figures", "global state"))
def protocol_deterministic(subject: Subject) -> None:
    """The same features give the same figures, whatever seed the process has."""
    first: dict[str, float] | None = None
    for seed in range(4):  # accuracies are coarse: two draws may well agree
        with fixed_seed(seed):
            scores = subject.part().evaluate(trial())
        first = scores if first is None else first
        require(same(first, scores), f"the same features give {first} and then {scores}; seed what is drawn")


@check("order", "protocol", after=("deterministic",))
def order(subject: Subject) -> None:
    """The order of the rows changes no figure by more than one image."""
    all_splits = splits()
    plain = subject.part().evaluate(trial())
    permuted_trial = FeatureTrial(*(_rows_of(part, torch.randperm(len(part))) for part in all_splits))
    shuffled_scores = subject.part().evaluate(permuted_trial)
    for name, value in plain.items():
        require(
            abs(value - shuffled_scores[name]) <= 1.01 / len(all_splits[2]) * max(1.0, abs(value)),
            f"{name} is {value}, and {shuffled_scores[name]} when the same rows come in another order",
        )


@check("test unread", "protocol", after=("deterministic",))
def test_unread(subject: Subject) -> None:
    """Nothing is fitted to or chosen by the labels of test.

    Where predictions do not depend on test's labels, each image is right under exactly one of the K cyclic
    renamings of its label, so the K accuracies add up to 1. Whoever chooses by them gets more.
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
        skip("it gives no accuracy (top1, accuracy...) by which this could be seen")
    for name, total in accuracies.items():
        require(
            abs(total - 1) < 1e-6,
            f"{name} over the {count} renamings of test's classes adds up to {total:.4f} rather than 1, "
            "so its predictions depend on test's labels; choose on validation alone",
        )


@check("encoder kept", "protocol", after=("figures",))
def encoder_kept(subject: Subject) -> None:
    """It leaves the encoder and the head as they were: weights, statistics of batch norm, and mode."""
    fresh_trial = trial()
    witness = Witness(fresh_trial.modules)
    subject.part().evaluate(fresh_trial)
    difference = witness.difference()
    require(
        difference is None, f"it changes {difference} of the encoder; let it work on a copy (copy.deepcopy)"
    )


def _rows_of(features: Features, rows: Tensor) -> Features:
    return Features(features.vectors[rows], features.labels[rows], features.ids[rows])
