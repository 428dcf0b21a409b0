"""Trained runs, rebuilt from their folders: recipe, data, parts with the trained weights, evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from contrastive.backbones import mismatch
from contrastive.build import Composition, Data, DataSets, build
from contrastive.convolutions import in_channels_last
from contrastive.data import reading_version
from contrastive.device import best_device
from contrastive.errors import ContrastiveError, UsageError
from contrastive.evaluation import Evaluation
from contrastive.parts import EvaluationTransform
from contrastive.recipe import Recipe, changed_keys, flatten
from contrastive.registry import Registry
from contrastive.runs.assembly import evaluation_of
from contrastive.runs.folder import Overrides, Run, environment_of, to_stderr, transform_of
from contrastive.runs.inputs import changed_data, without_lost_weights
from contrastive.runs.relocation import with_recorded_paths


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder on a data set, in the composition that trained it, or in one that is never trained.

    Attributes:
        recipe: of the composition, perhaps with another data set than it was trained on.
        data: that data set.
        parts: the composition.
        evaluation: of the recipe, on the data.
        start: recipe of the untrained encoder.
        run: the folder of the run that trained it; None if it is from elsewhere.
        untrained_obstacle: why the untrained encoder cannot be rebuilt; None if it can.
    """

    recipe: Recipe
    data: Data
    parts: Composition
    evaluation: Evaluation
    start: Recipe
    run: Path | None
    untrained_obstacle: str | None = None


def load(
    folder: str | Path, registry: Registry, overrides: Overrides = (), open_data_sets: DataSets | None = None
) -> LoadedEncoder:
    """Rebuild a run with the weights of its newest checkpoint; its initial weights are not needed.

    Warns if the run's own data set is no longer what it was trained on.

    Args:
        folder: of the run.
        registry: resolves its recipe.
        overrides: as for ``--set``; files are at the paths that the run recorded, unless set here.
        open_data_sets: those that are already open, perhaps this run's too; the one opened here is added.

    Raises:
        UsageError: not a run folder, no checkpoint yet, overrides without effect, or a data set whose images
            do not fit the encoder.
    """
    run = Run(folder)
    trained = run.recipe((), registry)
    recipe = run.recipe(with_recorded_paths(run.folder, trained, overrides), registry)
    own = run.recipe(with_recorded_paths(run.folder, trained, ()), registry) if overrides else recipe
    environment = environment_of(run.folder)
    if overrides:
        _require_effect(trained, recipe)
    device = best_device()
    buildable, untrained_obstacle = without_lost_weights(environment, recipe)
    data, parts = build(buildable, training=False, open_data_sets=open_data_sets)
    if own.dataset == recipe.dataset and (change := changed_data(environment, run.summary, data)):
        to_stderr(f"{run.folder}: {change}")
    weights = run.weights()
    if reason := mismatch(parts.method, weights):
        raise UsageError(f"{folder}: its checkpoint does not fit these images or overrides: it {reason}.")
    parts.method.load_state_dict(weights)
    in_channels_last(parts.method, device)
    transform = (run.transform or _as_begun_now(run, trained, recipe, data, parts)).at(parts.image_size)
    evaluation = evaluation_of(recipe, data, parts, device, transform=transform)
    return LoadedEncoder(recipe, data, parts, evaluation, recipe, run.folder, untrained_obstacle)


def _as_begun_now(
    run: Run, trained: Recipe, recipe: Recipe, data: Data, parts: Composition
) -> EvaluationTransform:
    """How a run of an earlier version, which recorded no transform, would read images if it began now.

    Warns if pixels change.

    Args:
        run: its folder.
        trained: its own recipe.
        recipe: that recipe with overrides, perhaps of the data set.
        data, parts: what ``recipe`` was built into.
    """
    training_data = data
    if trained.dataset != recipe.dataset:
        try:
            training_data, _ = build(trained, training=False)
        except ContrastiveError as error:
            to_stderr(
                f"{run.folder}: an earlier version began this run, and its training data, which decide how "
                f"evaluation crops images, cannot be opened ({error}); the images of this data set decide."
            )
    transform = transform_of(training_data, parts)
    if reading_version(transform, *data.tables) > 1:
        to_stderr(
            f"{run.folder}: an earlier version began this run; evaluation now reads its images by the rule "
            f"of new runs ({transform}), so metrics may differ from those in its summary."
        )
    return transform


#: Keys that matter only in training, except those of ``train`` that decide how images are read and how the
#: untrained encoder is initialised.
_TRAINING_ONLY = ("optimizer", "callbacks", "loss", "negatives", "positives", "train.")
_READING = ("train.seed", "train.workers", "train.memory_limit", "train.cache", "train.shrink")


def _require_effect(trained: Recipe, overridden: Recipe) -> None:
    """Raise UsageError if overrides would change nothing; the message names them."""
    keys = changed_keys(flatten(trained.dump()), flatten(overridden.dump()))
    idle = [key for key in keys if key.startswith(_TRAINING_ONLY) and not key.startswith(_READING)]
    if idle:
        raise UsageError(
            f"--set {', '.join(idle)}: the run is already trained, so this has no effect; remove it, or "
            "train another run."
        )
