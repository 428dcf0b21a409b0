"""From a recipe's composition to the objects that train and evaluate it: cache, loader, evaluation, engine.

Nothing here reads or writes a run folder: a run, a profile and an evaluation of a finished run all start from
these functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator

from contrastive.build import Composition, Data
from contrastive.data import Cache, OnProgress, TrainLoader, cache_folder, hold
from contrastive.distributed import rank, world_size
from contrastive.evaluation import Alarms, Evaluation
from contrastive.parts import ImageTable, ImageTransform, Split
from contrastive.recipe import Recipe, training_fingerprint
from contrastive.runs.display import Display
from contrastive.runs.folder import to_stderr
from contrastive.training import (
    Checkpoints,
    Engine,
    MetricsFile,
    RunContext,
    Settings,
    choose_kernels,
    compile_encoders,
    compile_views,
)
from contrastive.values import RunData, never


def assemble(
    recipe: Recipe,
    data: Data,
    composition: Composition,
    folder: Path,
    accelerator: Accelerator,
    display: Display,
    *,
    earlier: Sequence[str] = (),
    interrupted: Callable[[], bool] = never,
    transform: ImageTransform | None = None,
) -> tuple[Engine, Evaluation]:
    """The engine that trains a composition, and the evaluation that the engine calls.

    Args:
        recipe: what the composition was built from.
        data: the images; those of one size are decoded here, once for training and evaluation.
        composition: the parts; its encoders are compiled here if ``train.compile`` is set, and so are the
            colour operations of the training views.
        folder: receives checkpoints and metrics.
        accelerator: device and precision.
        display: follows the run and prints messages.
        earlier: fingerprints of checkpoints in ``folder`` that this run continues, besides its own.
        interrupted: returns true once the user has asked to stop.
        transform: how evaluation resizes and crops images; by default as in a run that begins now.
    """
    mode = recipe.train.compile
    pipelines = composition.pipelines
    if mode:
        compile_encoders(composition.method, None if mode is True else mode)
        pipelines = compile_views(pipelines)
    loader = _train_loader(recipe, data, composition, display, accelerator.device)
    choose_kernels(composition.pipelines, loader.table.size)
    data = replace(data, train=loader.table)  # decoded once, for training and evaluation
    evaluation = evaluation_of(
        recipe, data, composition, accelerator.device, interrupted, transform, display.decoding
    )
    alarms = Alarms(len(evaluation.monitor_rows), evaluation.views.memory)
    fingerprint = training_fingerprint(recipe, data.fingerprint)
    engine = Engine(
        method=composition.method,
        optimizer=composition.optimizer,
        pipelines=pipelines,
        loader=loader,
        settings=_settings(recipe),
        accelerator=accelerator,
        evaluator=evaluation,
        checkpoints=Checkpoints(folder / "checkpoints", fingerprint, display.warn, list(earlier)),
        metrics=MetricsFile(folder / "metrics.jsonl", display.warn),
        callbacks=[*composition.callbacks, alarms, display],
        interrupted=interrupted,
        context=RunContext(recipe.name, folder, _run_data(recipe, data, composition), display.warn),
    )
    return engine, evaluation


def evaluation_of(
    recipe: Recipe,
    data: Data,
    composition: Composition,
    device: torch.device,
    interrupted: Callable[[], bool] = never,
    transform: ImageTransform | None = None,
    progress: OnProgress | None = None,
) -> Evaluation:
    """The evaluation that a recipe specifies, on ``data``; images of one size are decoded only once.

    By default they are resized and cropped as in a run that begins now. ``progress`` is called while images
    are decoded.
    """

    def in_memory(table: ImageTable, split: Split) -> ImageTable:
        cache = cache_of(recipe, data, split)
        return hold(table, recipe.train.memory_limit * 2**20, cache, progress)

    return Evaluation(
        in_memory(data.train, "train"),
        None if data.test is None else in_memory(data.test, "test"),
        composition.protocols,
        composition.pipelines,
        composition.image_size,
        device,
        recipe.train.workers,
        interrupted,
        None if data.validation is None else in_memory(data.validation, "validation"),
        transform,
    )


def _train_loader(
    recipe: Recipe,
    data: Data,
    composition: Composition,
    display: Display,
    device: torch.device,
) -> TrainLoader:
    train = recipe.train
    return TrainLoader(
        data.train,
        composition.pipelines,
        batch_size=train.batch_size,
        seed=train.seed,
        labels=recipe.reads_labels,
        validation=data.validation,
        workers=train.workers,
        max_unreadable=train.max_unreadable,
        memory_limit=train.memory_limit * 2**20,
        cache=cache_of(recipe, data, "train", display.log, display.warn),
        share=(rank(), world_size()),
        progress=display.decoding,
        pin=device.type == "cuda",
    )


def _run_data(recipe: Recipe, data: Data, composition: Composition) -> RunData:
    classes = data.dataset.classes
    return RunData(
        images=len(data.train),
        batch_size=recipe.train.batch_size * recipe.train.accumulate,
        channels=data.train.channels,
        image_size=composition.image_size,
        classes=None if classes is None else tuple(classes),
        fingerprint=data.fingerprint,
    )


def _settings(recipe: Recipe) -> Settings:
    train = recipe.train
    return Settings(
        epochs=train.epochs,
        batch_size=train.batch_size,
        seed=train.seed,
        max_steps=train.max_steps,
        accumulate=train.accumulate,
        chunk_size=train.chunk_size,
        clip_grad_norm=train.clip_grad_norm,
        nonfinite=train.nonfinite,
        checkpoint_every=train.checkpoint_every,
        evaluate_every=recipe.evaluate.every,
        cuda_graphs=isinstance(train.compile, str),
    )


def cache_of(
    recipe: Recipe,
    data: Data,
    split: Split,
    log: Callable[[str], None] = print,
    warn: Callable[[str], None] = to_stderr,
) -> Cache | None:
    """The cache of a split's decoded or shrunk images on disk; None if ``train.cache`` is off."""
    folder, part = cache_folder(recipe.train.cache), recipe.dataset
    if folder is None:
        return None
    source = {
        "data": data.fingerprint,
        "dataset": part.dump(),
        "provider": f"{part.entry.provider}=={part.entry.version}",
        "split": split,
    }
    return Cache(folder, f"{part.name}-{split}", source, log, warn)
