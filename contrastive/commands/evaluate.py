"""``contrastive evaluate``: computes the metrics of an encoder."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contrastive.build import starts_from_weights, untrained_of
from contrastive.commands.output import print_json, progress_on_stderr
from contrastive.errors import ContrastiveError, UsageError, did_you_mean
from contrastive.evaluation import NO_LABELS, Evaluation, final_encoder, omission_lines, verdict_on
from contrastive.monitors import collapse_warning
from contrastive.recipe import Recipe
from contrastive.registry import Registry, load_registry
from contrastive.runs import (
    Display,
    LoadedEncoder,
    Overrides,
    Run,
    encoder_recipe,
    environment_of,
    load_encoder,
    skipped_files,
    summary_table,
    to_stderr,
    views_of,
    warn_of_omissions,
    write_classifier,
)


def main(arguments: argparse.Namespace) -> int:
    """Evaluate an encoder and print its metrics."""
    with progress_on_stderr(arguments):
        metrics = evaluate(arguments.encoder, arguments.protocol, arguments.overrides)
        display = Display()
        for note in metrics.get("notes", ()):
            display.log(note)
        if "transform" in metrics:
            display.log(f"images: {metrics['transform']}")
        warn_of_omissions(metrics, display)
        if "label_hint" in metrics:
            display.warn(f"no labels: {metrics['label_hint']}")
        if metrics["untrained_omitted"]:
            display.warn(f"no untrained encoder to compare with, because {metrics['untrained_omitted']}")
        display.console.print(summary_table(metrics))
        for name, protocol in metrics["protocols"].items():
            if "remark" in protocol:
                display.log(f"{name}: {protocol['remark']}")
    if arguments.json:
        print_json(metrics)
    return 0


def evaluate(encoder: str | Path, protocols: Sequence[str] = (), overrides: Overrides = ()) -> dict[str, Any]:
    """Metrics of an encoder: of a run on its own data set or, with ``overrides`` (transfer), on another one;
    of one from elsewhere on the data set in ``overrides``.

    The encoder is frozen. What protocols fit or tune learns from the train split of that data set.

    Args:
        encoder: a run folder, or any other of :func:`contrastive.runs.load_encoder`.
        protocols: keys of its ``evaluate``, or names of protocols, which then run with their defaults unless
            ``overrides`` set their parameters, and nothing else; by default all of ``evaluate``, and the
            metrics of views, which need no labels.
        overrides: as for ``--set``.

    Returns:
        ``{"trained": {"knn_top1": ..}, "untrained": .., "pixels": .., "split": .., "omitted": ..,
        "protocols": ..}``. The untrained encoder is that before the first step of a run, or the network of
        another encoder with random weights. Without the file of a run's initial weights, ``untrained`` is
        empty, and ``untrained_omitted`` is the reason.

    Raises:
        UsageError: an unknown protocol, no metric of those that are named, no image that can be read, or any
            error of :func:`load_encoder`.
    """
    registry = load_registry()
    overrides = _with(protocols, encoder_recipe(encoder, overrides, registry), overrides, registry)
    subject = load_encoder(encoder, registry, overrides)
    _select(subject.evaluation, protocols, registry, subject.data.label_hint)
    metrics = metrics_of(subject, with_views=not protocols)
    if not (metrics["trained"] or metrics["views"]):
        raise _nothing_to_evaluate(metrics["omitted"], subject.data.label_hint)
    return {
        "encoder": str(encoder),
        **_origin(subject, registry),
        "dataset": subject.recipe.dataset.name,
        "data": subject.data.fingerprint,
        **({} if (shrink := subject.recipe.train.shrink) is None else {"shrink": shrink.model_dump()}),
        **({} if (hint := subject.data.label_hint) is None or metrics["trained"] else {"label_hint": hint}),
        **metrics,
    }


def metrics_of(subject: LoadedEncoder, with_views: bool = True) -> dict[str, Any]:
    """Metrics of an encoder and of its floors, ``trained``, ``untrained`` and ``pixels``, and what a reader
    of them must know. Without any metric of the encoder, ``omitted`` has the reasons. ``views`` holds the
    metrics without labels, ``verdict`` what all of them say."""
    evaluation, obstacle = subject.evaluation, subject.untrained_obstacle
    trained, omissions = evaluation.final(*final_encoder(subject.parts.method)), evaluation.omissions
    per_class = evaluation.per_class
    _keep_classifier(subject)
    untrained: dict[str, float] = {}
    if trained and obstacle is None:
        start = untrained_of(subject.start, subject.data, subject.parts, evaluation.device)
        untrained = evaluation.final(*start)
    pixels = evaluation.pixels() if trained else {}
    metrics = {
        "trained": trained,
        "untrained": untrained,
        "untrained_omitted": obstacle,
        "pixels": pixels,
        "split": evaluation.split,
        "omitted": omissions,
        "protocols": evaluation.describe(per_class),
        "views": _views(subject) if with_views else {},
    }
    return {
        **metrics,
        "verdict": _verdict(subject, metrics),
        **({"starts_from_weights": True} if starts_from_weights(subject.start) else {}),
        "subsets": evaluation.labels_used(),
        "unreadable": sorted(evaluation.unreadable),
        "skipped_files": skipped_files(subject.data),
    }


def _views(subject: LoadedEncoder) -> dict[str, Any]:
    backbone, _ = final_encoder(subject.parts.method)
    start = subject.start if subject.untrained_obstacle is None else None
    return views_of(subject.evaluation, backbone, start, subject.data, subject.parts)


def _verdict(subject: LoadedEncoder, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The sentences on an encoder, without those on training: only its run follows that."""
    views, collapse = metrics["views"], None
    if rank := views.get("trained", {}).get("effective_rank"):
        features = subject.parts.method.backbone.features
        collapse = collapse_warning(math.nan, rank, 1, min(features, views["images"]))
    return verdict_on(
        metrics,
        images=subject.evaluation.images_scored if metrics["trained"] else 0,
        channels=subject.data.train.channels,
        collapse=collapse,
        has_random_start=not starts_from_weights(subject.start),
    )


def _keep_classifier(subject: LoadedEncoder) -> None:
    """Keep the classifier of a finished run's own data in its folder, for ``contrastive predict``."""
    if subject.run is None or not subject.evaluation.classifiers:
        return
    run = Run(subject.run)
    if not run.summary or environment_of(run.folder).get("data") != subject.data.fingerprint:
        return
    backbone, evaluation = final_encoder(subject.parts.method)[0], subject.evaluation
    try:
        write_classifier(run.folder, evaluation.classifiers, evaluation.describe(), backbone, subject.data)
    except ContrastiveError as error:  # a run that others may only read
        to_stderr(f"the classifier is not kept: {error}")


def _origin(subject: LoadedEncoder, registry: Registry) -> dict[str, Any]:
    """Where an encoder comes from: a run and its data set, or weights and their licence."""
    if subject.run is not None:
        trained_on = Run(subject.run).recipe((), registry).dataset.name
        return {"run": str(subject.run), "trained_on": trained_on}
    return {"transform": str(subject.evaluation.transform), "notes": [*subject.parts.method.backbone.notes]}


def _with(protocols: Sequence[str], recipe: Recipe, overrides: Overrides, registry: Registry) -> Overrides:
    """``overrides`` plus those installed ``protocols`` that the recipe does not use."""
    further_protocols = {*registry.names("protocol")} - recipe.evaluate.protocols.keys()
    additions: dict[str, Any] = {f"evaluate.{name}": {} for name in protocols if name in further_protocols}
    if isinstance(overrides, Mapping):
        return {**overrides, **additions}
    return [*overrides, *(f"{key}={{}}" for key in additions)]


def _select(
    evaluation: Evaluation, protocols: Sequence[str], registry: Registry, label_hint: str | None
) -> None:
    """Keep only these protocols in an evaluation, or all if none is named.

    Raises:
        UsageError: one is unknown, or the labels allow no metric of those that are named.
    """
    names = [entry.name for entry in evaluation.protocols]
    for name in protocols:
        if name not in names:
            installed_names = registry.names("protocol")
            raise UsageError(
                f"'{name}' is neither a key of the recipe's evaluate ({', '.join(names) or 'empty'}) nor a "
                f"protocol ({', '.join(installed_names)}); for a new key use "
                f"--set evaluate.{name}.protocol=NAME.{did_you_mean(name, {*names, *installed_names})}"
            )
    if protocols:
        evaluation.protocols = [entry for entry in evaluation.protocols if entry.name in protocols]
    omissions = evaluation.final_omissions()
    if protocols and len(omissions) == len(evaluation.protocols):
        raise _nothing_to_evaluate(omissions, label_hint)


def _nothing_to_evaluate(omissions: Mapping[str, str], label_hint: str | None) -> UsageError:
    if not omissions:
        reasons = "no two images that validate can be read"
    elif set(omissions.values()) == {NO_LABELS}:
        reasons = "this data set has no labels" + (f" ({label_hint})" if label_hint else "")
    else:
        reasons = "; ".join(omission_lines(omissions))
    return UsageError(f"nothing to evaluate: {reasons}. `contrastive embed` writes features without metrics.")
