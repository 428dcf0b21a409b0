"""``contrastive evaluate``: metrics of the encoder of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contrastive.build.builder import untrained_of
from contrastive.errors import UsageError, did_you_mean
from contrastive.recipe import Recipe
from contrastive.registry import load_registry
from contrastive.runs.folder import Run
from contrastive.runs.reload import Overrides, load


def evaluate(folder: str | Path, protocols: Sequence[str] = (), overrides: Overrides = ()) -> dict[str, Any]:
    """Figures of a run's encoder on its own data set, or (transfer) on another one named by ``overrides``:
    frozen as training left it, what protocols fit or tune learns from the train split of that data set.

    Args:
        folder: of the run.
        protocols: keys of its ``evaluate``, or names of protocols, which then run with their defaults or
            what ``overrides`` say; by default all of ``evaluate``.
        overrides: what ``--set`` takes.

    Returns:
        ``{"trained": {"knn_top1": ..}, "untrained": .., "pixels": .., "split": .., "protocols": ..}``.

    Raises:
        UsageError: an unknown protocol, a data set without labels, or what :func:`load` raises.
    """
    loaded = load(folder, _with(protocols, Run(folder).recipe(overrides), overrides))
    evaluation = loaded.evaluation
    known = [entry.name for entry in evaluation.protocols]
    for name in protocols:
        if name not in known:
            installed = load_registry().names("protocol")
            raise UsageError(
                f"'{name}' is neither what the run's recipe evaluates by ({', '.join(known) or 'nothing'}) "
                f"nor a protocol ({', '.join(installed)}); for a key of your own say "
                f"--set evaluate.{name}.protocol=NAME.{did_you_mean(name, {*known, *installed})}"
            )
    if protocols:
        evaluation.protocols = [entry for entry in evaluation.protocols if entry.name in protocols]
    if not evaluation.protocols:
        raise UsageError("no protocol is left to evaluate by; name one with --protocol.")
    if not evaluation.labelled:
        raise UsageError(
            "this data set has no labels (or too few: both nine tenths of train and the held-out tenth need "
            "some), so there is nothing to evaluate; try `contrastive embed`."
        )
    method, start = (
        loaded.parts.method,
        untrained_of(loaded.recipe, loaded.data, loaded.parts, evaluation.device),
    )
    trained, untrained = evaluation.final(method.backbone, method.head), evaluation.final(*start)
    return {
        "run": str(folder),
        "dataset": loaded.recipe.dataset.name,
        "trained_on": Run(folder).recipe().dataset.name,
        "data": loaded.data.fingerprint,
        "trained": trained,
        "untrained": untrained,
        "pixels": evaluation.pixels(),
        "split": evaluation.split,
        "protocols": evaluation.describe(),
        "subsets": evaluation.used(),
        "unreadable": sorted(evaluation.unreadable),
    }


def _with(protocols: Sequence[str], recipe: Recipe, overrides: Overrides) -> Overrides:
    """``overrides`` that also name those installed ``protocols`` which the recipe does not name."""
    known = {*load_registry().names("protocol")} - recipe.evaluate.protocols.keys()
    added: dict[str, Any] = {f"evaluate.{name}": {} for name in protocols if name in known}
    if isinstance(overrides, Mapping):
        return {**overrides, **added}
    return [*overrides, *(f"{key}={{}}" for key in added)]
