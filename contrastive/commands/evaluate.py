"""``contrastive evaluate``: computes the metrics of a run's encoder."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contrastive.build import untrained_of
from contrastive.commands.output import print_json, progress_on_stderr
from contrastive.errors import UsageError, did_you_mean
from contrastive.evaluation import NO_LABELS, Evaluation, final_encoder, omission_lines
from contrastive.recipe import Recipe
from contrastive.registry import Registry, load_registry
from contrastive.runs import Display, Overrides, Run, load, skipped_files, summary_table, warn_of_omissions


def main(arguments: argparse.Namespace) -> int:
    """Evaluate a run and print its metrics."""
    with progress_on_stderr(arguments):
        metrics = evaluate(arguments.run, arguments.protocol, arguments.overrides)
        display = Display()
        warn_of_omissions(metrics, display)
        if metrics["untrained_omitted"]:
            display.warn(f"no untrained encoder to compare with, because {metrics['untrained_omitted']}")
        display.console.print(summary_table(metrics))
        for name, protocol in metrics["protocols"].items():
            if "remark" in protocol:
                display.log(f"{name}: {protocol['remark']}")
    if arguments.json:
        print_json(metrics)
    return 0


def evaluate(folder: str | Path, protocols: Sequence[str] = (), overrides: Overrides = ()) -> dict[str, Any]:
    """Metrics of a run's encoder on its own data set or, with ``overrides`` (transfer), on another one.

    The encoder is frozen as training left it. What protocols fit or tune learns from the train split of that
    data set.

    Args:
        folder: of the run.
        protocols: keys of its ``evaluate``, or names of protocols, which then run with their defaults unless
            ``overrides`` set their parameters; by default all of ``evaluate``.
        overrides: as for ``--set``.

    Returns:
        ``{"trained": {"knn_top1": ..}, "untrained": .., "pixels": .., "split": .., "omitted": ..,
        "protocols": ..}``. Without the file of its initial weights, ``untrained`` is empty, and
        ``untrained_omitted`` is the reason.

    Raises:
        UsageError: an unknown protocol, no metric at all, or any error of :func:`load`.
    """
    registry = load_registry()
    run = Run(folder)
    overrides = _with(protocols, run.recipe(overrides, registry), overrides, registry)
    trained_run = load(folder, registry, overrides)
    evaluation = trained_run.evaluation
    _select(evaluation, protocols, registry, trained_run.data.label_hint)
    obstacle = trained_run.untrained_obstacle
    trained, omissions = evaluation.final(*final_encoder(trained_run.parts.method)), evaluation.omissions
    if not trained:
        raise _nothing_to_evaluate(omissions, trained_run.data.label_hint)
    untrained: dict[str, float] = {}
    if obstacle is None:
        start = untrained_of(trained_run.recipe, trained_run.data, trained_run.parts, evaluation.device)
        untrained = evaluation.final(*start)
    return {
        "run": str(folder),
        "dataset": trained_run.recipe.dataset.name,
        "trained_on": run.recipe((), registry).dataset.name,
        "data": trained_run.data.fingerprint,
        **({} if (shrink := trained_run.recipe.train.shrink) is None else {"shrink": shrink.model_dump()}),
        "trained": trained,
        "untrained": untrained,
        "untrained_omitted": obstacle,
        "pixels": evaluation.pixels(),
        "split": evaluation.split,
        "omitted": omissions,
        "protocols": evaluation.describe(),
        "subsets": evaluation.labels_used(),
        "unreadable": sorted(evaluation.unreadable),
        "skipped_files": skipped_files(trained_run.data),
    }


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
        UsageError: one is unknown, none remains, or the labels allow no metric.
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
    if not evaluation.protocols:
        raise UsageError("the recipe has no protocol; name one with --protocol.")
    omissions = evaluation.final_omissions()
    if len(omissions) == len(evaluation.protocols):
        raise _nothing_to_evaluate(omissions, label_hint)


def _nothing_to_evaluate(omissions: Mapping[str, str], label_hint: str | None) -> UsageError:
    if set(omissions.values()) == {NO_LABELS}:
        reasons = "this data set has no labels" + (f" ({label_hint})" if label_hint else "")
    else:
        reasons = "; ".join(omission_lines(omissions))
    return UsageError(f"nothing to evaluate: {reasons}. `contrastive embed` writes features without metrics.")
