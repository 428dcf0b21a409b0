"""The files that a run writes after training: ``backbone/``, ``subsets.json`` and ``summary.json``."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contrastive.backbones import declare_transform, flops
from contrastive.build import Composition, Data, starts_from_weights, untrained_of
from contrastive.datasets import reading_of, skipped_messages
from contrastive.errors import UsageError
from contrastive.evaluation import (
    PERIODIC_VIEW_METRICS,
    VIEWS_PREFIX,
    Curve,
    Evaluation,
    final_encoder,
    frozen,
    omission_lines,
    verdict_on,
)
from contrastive.files import replace_folder, staging_folder, writable, write_json
from contrastive.kinds import MONITORS
from contrastive.monitors import collapse_warning
from contrastive.parts import Backbone, ImageTransform
from contrastive.recipe import Recipe
from contrastive.runs.classifiers import write_classifier
from contrastive.runs.display import Display
from contrastive.runs.folder import PLAN, RunIdentity, environment_of
from contrastive.runs.plan import TOLERANCE
from contrastive.text import MetricFormat, duration
from contrastive.training import Engine


def conclude(
    engine: Engine,
    evaluation: Evaluation,
    recipe: Recipe,
    data: Data,
    composition: Composition,
    identity: RunIdentity,
    display: Display,
) -> None:
    """Export the backbone, evaluate it, the untrained encoder and raw pixels, and write summary.json.

    Args:
        engine: has finished training; the files go into its folder.
        evaluation: of the recipe.
        recipe, data, composition: what was trained.
        identity: identifies this run as finished later.
        display: prints messages.
    """
    backbone, head = final_encoder(engine.method)
    _export(backbone, evaluation.transform, engine.folder / "backbone", display)
    evaluation.reader.forget_unreadable()  # a resumed run does not know those before the kill
    display.log("final evaluation of the trained encoder")
    metrics: dict[str, Any] = {"trained": evaluation.final(backbone, head)}
    omissions, per_class = evaluation.omissions, evaluation.per_class
    classifiers = evaluation.classifiers
    metrics |= {"untrained": {}, "pixels": {}, "split": None}
    if metrics["trained"]:
        display.log("final evaluation of the untrained encoder and of raw pixels")
        untrained = untrained_of(recipe, data, composition, evaluation.device)
        metrics["untrained"] = evaluation.final(*untrained)
        metrics["pixels"] = evaluation.pixels()
        metrics["split"] = evaluation.split
    lines = engine.metrics.read()
    metrics["views"] = views_of(evaluation, backbone, recipe, data, composition, lines)
    for line in omission_lines(omissions):
        display.warn(line)
    for name, remark in evaluation.remarks.items():
        display.log(f"{name}: {remark}")
    _write_subsets(engine.folder / "subsets.json", evaluation.labels_used())
    write_classifier(engine.folder, classifiers, evaluation.describe(), backbone, data)
    engine.tick()
    _warn_of_overrun(_minutes(engine, recipe), display)
    untrainable = {*engine.loader.unreadable.values()}
    display.warn_of_unreadable(sorted(untrainable), "replaced by others")
    display.warn_of_unreadable(sorted(evaluation.unreadable - untrainable), "left out of the evaluation")
    monitors: dict[str, Any] = next((m for m in reversed(lines) if "effective_rank" in m), {})
    images_scored = evaluation.images_scored if metrics["trained"] else 0
    protocols = evaluation.describe(per_class)
    summary = {
        "name": recipe.name,
        "seed": recipe.train.seed,
        "fingerprint": identity.fingerprint,
        **metrics,
        "omitted": omissions,
        "protocols": protocols,
        "monitors": {
            k: v
            for k, v in monitors.items()
            if k in MONITORS or ("/" in k and k not in PERIODIC_VIEW_METRICS)
        },
        "verdict": verdict_on(
            {**metrics, "protocols": protocols},
            images=images_scored,
            channels=data.train.channels,
            collapse=_collapse(engine, monitors, len(evaluation.monitor_rows)),
            curve=_curve(lines, evaluation, monitors),
            has_random_start=not starts_from_weights(recipe),
        ),
        **({"starts_from_weights": True} if starts_from_weights(recipe) else {}),
        **_costs(engine, recipe, data, composition),
        "images": image_counts(data, images_scored),
        **({} if (shrink := recipe.train.shrink) is None else {"shrink": shrink.model_dump()}),
        "reading": reading_of(data.dataset),
        "skipped": len(skipped_files(data)),
        "unreadable": sorted(untrainable | evaluation.unreadable),
        "evaluate": identity.evaluate,
    }
    write_json(engine.folder / "summary.json", summary)


def views_of(
    evaluation: Evaluation,
    backbone: Backbone,
    recipe: Recipe | None,
    data: Data,
    composition: Composition,
    lines: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The metrics without labels of an encoder and of its floors; empty if no images can be read.

    Args:
        evaluation: of the data.
        backbone: the encoder.
        recipe: of the encoder before training, or of a random one in its place; None if there is none.
        data, composition: what ``recipe`` was built into.
        lines: of metrics.jsonl, whose last evaluation has the stability of neighbours.
    """
    untrained = None
    if recipe is not None:
        untrained, _ = untrained_of(recipe, data, composition, evaluation.device, open_branches=True)
    views = evaluation.label_free(backbone, untrained)
    stability = [line[_STABILITY] for line in lines if _STABILITY in line]
    if views and stability:
        views["trained"]["stability"] = stability[-1]
    return views


_STABILITY = f"{VIEWS_PREFIX}stability"


def _curve(
    lines: Sequence[Mapping[str, Any]], evaluation: Evaluation, last: Mapping[str, Any]
) -> Curve | None:
    """The metric that ranks encoders over the evaluations of a run or, without one, recall of views.

    Args:
        lines: of metrics.jsonl.
        evaluation: that gave the metrics.
        last: the line of the last evaluation.
    """
    metric = evaluation.ranking_metric(last)
    if metric is not None and MetricFormat.of(metric, last.get("protocols")).unit != "fraction":
        return None
    return Curve.of(lines, metric, len(evaluation.monitor_rows))


def _collapse(engine: Engine, monitors: Mapping[str, Any], images: int) -> str | None:
    """What is wrong with the spread of the embeddings or the rank of the features at the last evaluation."""
    if monitors.get("effective_rank") is None:
        return None
    head = engine.method.image_head
    std, rank = monitors.get("embedding_std"), monitors["effective_rank"]
    return collapse_warning(
        math.nan if std is None else std,
        rank,
        1 if head is None else head.out_features,
        min(engine.method.backbone.features, images),
    )


def skipped_files(data: Data) -> list[str]:
    """The files of a data set that are not images."""
    return [name for table in data.tables for name in table.skipped]


def warn_of_skipped(files: Sequence[str], display: Display) -> None:
    """Name :func:`skipped_files`, a message for each kind that something else reads."""
    for message in skipped_messages(files):
        display.warn(message)


def warn_of_omissions(result: Mapping[str, Any], display: Display) -> None:
    """Name what a command left out: its result has ``skipped_files`` and ``unreadable``."""
    warn_of_skipped(result["skipped_files"], display)
    display.warn_of_unreadable(result["unreadable"], "left out")


def _minutes(engine: Engine, recipe: Recipe) -> dict[str, float]:
    """Of a run of some minutes: these (``budget``), those that its plan takes, and those that it took."""
    if recipe.train.minutes is None:
        return {}
    plan = environment_of(engine.folder)[PLAN]
    return {
        "budget": recipe.train.minutes,
        "planned": plan["seconds"] / 60,
        "taken": engine.state.seconds / 60,
    }


def _warn_of_overrun(minutes: Mapping[str, float], display: Display) -> None:
    if minutes and minutes["taken"] > TOLERANCE * minutes["budget"]:
        display.warn(
            f"the run took {duration(60 * minutes['taken'])}, not the {minutes['budget']:g} min of "
            "train.minutes: this machine was slower than when the epochs were planned"
        )


def _costs(engine: Engine, recipe: Recipe, data: Data, composition: Composition) -> dict[str, Any]:
    """The length of the run and its costs: time, memory, parameters, operations per image."""
    state = engine.state
    minutes = {key: round(value, 2) for key, value in _minutes(engine, recipe).items()}
    return {
        "epochs": state.epoch,
        "steps": state.step,
        "stopped": state.stopped if state.step < engine.steps else None,
        "wall_seconds": round(state.seconds, 1),
        **({"minutes": minutes} if minutes else {}),
        "peak_memory_mib": state.peak_memory_mib,
        "parameters": sum(p.numel() for p in engine.method.parameters() if p.requires_grad),
        **encoder_costs(composition, data),
    }


def encoder_costs(composition: Composition, data: Data) -> dict[str, Any]:
    """Parameters of the backbone, and its operations per image of the data."""
    backbone = composition.method.backbone
    with frozen(backbone):
        operations = flops(backbone, data.train.channels, composition.image_size)
    return {
        "backbone_parameters": sum(p.numel() for p in backbone.parameters()),
        "backbone_flops": operations,
    }


def image_counts(data: Data, scored_images: int) -> dict[str, int]:
    """How many images each split has, and how many are behind the final metrics."""
    return {
        "train": len(data.train),
        **({} if data.validation is None else {"validation": len(data.validation)}),
        "test": len(data.test or ()),
        "scored": scored_images,
    }


def _export(backbone: Backbone, transform: ImageTransform, folder: Path, display: Display) -> None:
    """Write ``backbone/``. A backbone that timm cannot load stays only in the checkpoint, with a message."""
    with writable(folder):
        temporary = staging_folder(folder)
        try:
            backbone.export(str(temporary))
            declare_transform(temporary, transform)
            replace_folder(temporary, folder)
        except UsageError as error:
            display.log(f"no backbone/ folder: {error}")
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _write_subsets(path: Path, subsets: dict[str, list[int]]) -> None:
    """Write the ids whose labels each protocol used, protocol -> ids; no file if every protocol used all."""
    if subsets:
        write_json(path, subsets, indent=None)
    else:
        path.unlink(missing_ok=True)
