"""Runs: from a recipe to a run folder, and back from a run folder to its encoder."""

from __future__ import annotations

import json
import platform
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from contrastive.backbones.probe import flops
from contrastive.build import Builder, Composition, Data, build
from contrastive.cache import Cache, cache_folder
from contrastive.checkpoints import Checkpoints, write_whole
from contrastive.compilation import compile_encoders, explained_if
from contrastive.console import MONITORS, Display
from contrastive.data import TrainLoader
from contrastive.device import make_accelerator
from contrastive.engine import Engine
from contrastive.errors import ContrastiveError, Interrupted, UsageError
from contrastive.evaluate import Evaluation, frozen
from contrastive.memory import Done, hold
from contrastive.metrics import MetricsFile
from contrastive.monitors import collapse_warning
from contrastive.parts import Callback, ImageTable, RunState, Split
from contrastive.passes import caveat
from contrastive.process import git_commit, interrupts, locked, peak_memory_mib
from contrastive.recipe import NOT_TRAINING, Recipe, dump_yaml, load_recipe, training_fingerprint
from contrastive.registry import Registry, core_version, load_registry
from contrastive.settings import Settings

Resume = Literal["auto", "never", "must"]


class Run:
    """A run folder, finished or not.

    Attributes:
        folder: where it lives.
        summary: the final figures, empty before the run has ended.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / "recipe.yaml").is_file():
            raise UsageError(f"{self.folder} is not a run folder: it holds no recipe.yaml.")

    @property
    def summary(self) -> dict[str, Any]:
        path = self.folder / "summary.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Every line of metrics.jsonl."""
        return MetricsFile(self.folder / "metrics.jsonl").read()

    def recipe(
        self, overrides: Sequence[str] | Mapping[str, Any] = (), registry: Registry | None = None
    ) -> Recipe:
        """The resolved recipe, with ``--set`` style overrides."""
        return load_recipe(self.folder / "recipe.yaml", overrides, registry or load_registry())

    def weights(self) -> dict[str, Tensor]:
        """The method's state at the newest whole checkpoint."""
        state = Checkpoints(self.folder / "checkpoints", "", _warn).newest()
        if state is None:
            raise UsageError(f"{self.folder} holds no checkpoint yet; let the run get through an epoch.")
        return state["method"]

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


def run(
    recipe: str | Path,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    out: str | Path | None = None,
    resume: Resume = "auto",
    display: Display | None = None,
) -> Run:
    """Train, evaluate and export what a recipe says.

    Args:
        recipe: a recipe file, or the name of a shipped one (``"simclr"``).
        overrides: what ``--set`` takes, as texts ``"train.epochs=2"`` or as ``{"train.epochs": 2}``.
        out: the run folder; by default ``runs/<name>-seed<seed>-<8 hex of the fingerprint>``.
        resume: ``auto`` goes on from the newest whole checkpoint of the same recipe, ``must`` insists
            on one, ``never`` moves an old folder aside.
        display: where progress is told; by default plain lines or a live display on standard output.

    Raises:
        RecipeError: the recipe is wrong; every mistake at once; nothing is written.
        UsageError: the folder holds another run.
        Interrupted: Ctrl-C or SIGTERM, after saving.
    """
    resolved = load_recipe(recipe, overrides, load_registry())
    data, composition = build(resolved)
    job = Job(resolved, data, composition, display or Display())
    return job.execute(out, resume)


class Job:
    """One execution of a recipe."""

    def __init__(self, recipe: Recipe, data: Data, composition: Composition, display: Display):
        self.recipe, self.data, self.parts, self.display = recipe, data, composition, display
        self.fingerprint = training_fingerprint(recipe, data.fingerprint)
        self.evaluation = recipe.dump()["evaluate"]

    def execute(self, out: str | Path | None, resume: Resume) -> Run:
        train = self.recipe.train
        name = f"{self.recipe.name}-seed{train.seed}-{self.fingerprint[:8]}"
        folder = Path(out) if out is not None else Path("runs") / name
        if folder.name in ("", ".."):  # "." has no name, and moves with the folder
            folder = folder.resolve()
        self._admit(folder, resume)
        finished = self._finished(folder)
        if finished is not None:
            self.display.log(f"{folder} is finished; reporting it (--resume never runs it again).")
            return finished
        accelerator = make_accelerator(train.precision, str(folder), train.trackers)
        self._name_skipped()
        if told := caveat(self.parts.method, train.chunk_size, train.batch_size):
            self.display.warn(f"train.chunk_size: {told}")
        if self.recipe.positives == "label":
            self.display.log("positives: label: training reads labels, but for those of the held-out tenth")
        with locked(folder), interrupts() as interrupted:
            self._write_head(folder, accelerator.device, accelerator.mixed_precision)
            engine, evaluation = self.engine(folder, accelerator, interrupted)
            with ExitStack() as ending:
                ending.callback(accelerator.end_training)
                for callback in engine.callbacks:
                    ending.callback(callback.run_ended, engine)
                summary = self._train_and_evaluate(engine, evaluation, resume)
            write_whole(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        return Run(folder)

    def _train_and_evaluate(self, engine: Engine, evaluation: Evaluation, resume: Resume) -> dict[str, Any]:
        if trackers := self.recipe.train.trackers:
            config = _trackable(self.recipe.dump())
            try:
                engine.accelerator.init_trackers(self.recipe.name, config=config)
            except Exception as error:  # whatever a tracker raises where its service is out of reach
                raise ContrastiveError(f"train.trackers {trackers}: {error}") from error
        try:
            self._take_up(engine, resume)
            with explained_if(self.recipe.train.compile):
                engine.train()
            return self._conclude(engine, evaluation)
        except Interrupted:
            raise Interrupted(
                f"stopped at step {engine.state.step} of {engine.steps}, saved in {engine.folder}; "
                "the same command goes on from there."
            ) from None

    def _take_up(self, engine: Engine, resume: Resume) -> None:
        """Load the newest whole checkpoint, if there is one, and tell the callbacks that the run begins."""
        state = engine.checkpoints.newest()
        if state is not None:
            engine.load_state_dict(state)
            self.display.log(f"going on from step {engine.state.step} of {engine.steps}")
        elif resume == "must":
            raise UsageError(f"{engine.folder} holds no checkpoint to resume from; leave --resume must away.")
        else:
            engine.metrics.truncate(0)
        for callback in engine.callbacks:
            callback.run_started(engine)

    def _name_skipped(self) -> None:
        """Name the files of the data set that are no images, once."""
        skipped = [*self.data.train.skipped, *(self.data.test.skipped if self.data.test else ())]
        if skipped:
            self.display.warn(f"skipped {_counted(skipped, 'file')} without an image extension")

    # -- the folder ---------------------------------------------------------------------------------

    def _admit(self, folder: Path, resume: Resume) -> None:
        """See that ``folder`` is free, or holds this very run; ``never`` moves an old one aside."""
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is a file; name a folder with --out.")
        begun = (folder / "environment.json").is_file()
        if not begun and (not folder.exists() or not any(folder.iterdir()) or (folder / ".lock").is_file()):
            if resume == "must":
                raise UsageError(f"{folder} does not exist, so there is nothing to resume.")
            return
        if not begun:
            raise UsageError(f"{folder} is not empty and not a run folder; name another one with --out.")
        if resume == "never":
            aside = next(
                p for i in range(1, 10**6) if not (p := folder.with_name(f"{folder.name}.old{i}")).exists()
            )
            with locked(folder):  # another process may be writing to it
                folder.rename(aside)
            self.display.log(f"moved the old run to {aside}")
            return
        theirs = json.loads((folder / "environment.json").read_text()).get("fingerprint")
        if theirs != self.fingerprint:
            before = Run(folder).recipe().dump()
            differences = _differences(before, self.recipe.dump()) or ["the data, or the version of a part"]
            raise UsageError(
                f"{folder} holds another run; different: {', '.join(differences)}. "
                "Name another folder with --out, or say --resume never to move the old one aside."
            )

    def _finished(self, folder: Path) -> Run | None:
        if not (folder / "summary.json").is_file():
            return None
        run = Run(folder)
        return run if run.summary.get("evaluate") == self.evaluation else None

    def _write_head(self, folder: Path, device: torch.device, precision: str) -> None:
        write_whole(folder / "recipe.yaml", dump_yaml(self.recipe))
        path = folder / "environment.json"
        before = json.loads(path.read_text()) if path.is_file() else {}
        if before.get("precision", precision) != precision:
            self.display.warn(
                f"the run began in {before['precision']} and goes on in {precision} on this machine: its "
                "figures will differ from those of an undisturbed run."
            )
        environment = {
            "fingerprint": self.fingerprint,
            "data": self.data.fingerprint,
            "started": before.get("started") or datetime.now(UTC).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": torch.cuda.get_device_name() if device.type == "cuda" else str(device),
            "precision": precision,
            "threads": torch.get_num_threads(),
            "versions": {
                "contrastive-framework": core_version(),
                **{name: version(name) for name in _PACKAGES},
            },
            "plugins": {p.name: p.version for p in load_registry().plugins},
            "git_commit": git_commit(),
        }
        write_whole(path, json.dumps(environment, indent=2) + "\n")

    # -- engine and evaluation ----------------------------------------------------------------------

    def engine(
        self, folder: Path, accelerator: Any, interrupted: Callable[[], bool]
    ) -> tuple[Engine, Evaluation]:
        """The engine that trains the recipe, and the evaluation it asks; ``folder`` takes what they write."""
        recipe, parts = self.recipe, self.parts
        train = recipe.train
        if train.compile:
            compile_encoders(parts.method)
        loader = TrainLoader(
            self.data.train,
            parts.pipelines,
            batch_size=train.batch_size,
            seed=train.seed,
            labels=recipe.positives == "label",
            workers=train.workers,
            max_unreadable=train.max_unreadable,
            memory_limit=train.memory_limit * 2**20,
            cache=cache_of(recipe, self.data, "train", self.display.log, self.display.warn),
            progress=_unless(interrupted),
        )
        data = replace(self.data, train=loader.table)  # decoded once, for training and evaluation
        evaluation = evaluation_of(recipe, data, parts, accelerator.device, interrupted)
        settings = Settings(
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
        )
        engine = Engine(
            parts.method,
            parts.optimizer,
            parts.pipelines,
            loader,
            settings,
            accelerator,
            evaluation,
            Checkpoints(folder / "checkpoints", self.fingerprint, self.display.warn),
            MetricsFile(folder / "metrics.jsonl"),
            [*parts.callbacks, CollapseWarning(len(evaluation.monitored)), self.display],
            interrupted,
            self.display.warn,
            name=recipe.name,
            folder=folder,
        )
        return engine, evaluation

    def _conclude(self, engine: Engine, evaluation: Evaluation) -> dict[str, Any]:
        """Export the backbone; evaluate it, the untrained encoder and raw pixels; sum up."""
        backbone = engine.method.backbone
        self._export(backbone, engine.folder / "backbone")
        self.display.log("final evaluation of the trained encoder")
        trained = evaluation.final(backbone, backbone)
        untrained, pixels = {}, {}
        if trained:
            self.display.log("final evaluation of the untrained encoder and of raw pixels")
            start = self._untrained().to(engine.accelerator.device).to(memory_format=torch.channels_last)
            untrained, pixels = evaluation.final(start, start), evaluation.pixels()
        engine.tick()
        state = engine.state
        unreadable = sorted({*engine.loader.unreadable.values(), *evaluation.unreadable})
        if unreadable:
            self.display.warn(
                f"{_counted(unreadable, 'image')} could not be read and others took their place"
            )
        monitors: dict[str, Any] = next(
            (m for m in reversed(engine.metrics.read()) if "embedding_std" in m), {}
        )
        return {
            "name": self.recipe.name,
            "seed": self.recipe.train.seed,
            "fingerprint": self.fingerprint,
            "trained": trained,
            "untrained": untrained,
            "pixels": pixels,
            "split": evaluation.split if trained else None,
            "protocols": evaluation.describe(),
            "monitors": {k: monitors[k] for k in MONITORS if k in monitors},
            "epochs": state.epoch,
            "steps": state.step,
            "stopped": state.stopped,
            "wall_seconds": round(state.seconds, 1),
            "peak_memory_mib": peak_memory_mib(engine.accelerator.device),
            "parameters": sum(p.numel() for p in engine.method.parameters() if p.requires_grad),
            "backbone_parameters": sum(p.numel() for p in backbone.parameters()),
            "backbone_flops": self._flops(backbone),
            "images": {
                "train": len(self.data.train),
                "test": len(self.data.test or ()),
                "scored": evaluation.scored if trained else 0,
            },
            "skipped": len(self.data.train.skipped),
            "unreadable": unreadable,
            "evaluate": self.evaluation,
        }

    def _flops(self, backbone: Any) -> int:
        with frozen(backbone):
            return flops(backbone, self.data.train.channels, self.parts.image_size)

    def _untrained(self) -> Any:
        """The encoder before its first step, rebuilt from the seed."""
        return Builder(self.recipe).backbone(self.data.train.channels, self.parts.image_size)

    def _export(self, backbone: Any, folder: Path) -> None:
        """Write ``backbone/``; a backbone that timm cannot load is told of and left to the checkpoint."""
        shutil.rmtree(folder, ignore_errors=True)
        try:
            backbone.export(str(folder))
        except UsageError as error:
            self.display.log(f"no backbone/ folder: {error}")


class CollapseWarning(Callback):
    """Says in plain words when the embedding has collapsed, once for every evaluation that shows it."""

    def __init__(self, images: int):
        self._images = images

    def evaluated(self, run: RunState, metrics: Mapping[str, float]) -> None:
        method = run.method
        message = collapse_warning(
            metrics["embedding_std"],
            metrics["effective_rank"],
            method.head.out_features,
            min(method.backbone.features, self._images),
        )
        if message:
            run.warn(message)


def cache_of(
    recipe: Recipe,
    data: Data,
    split: Split,
    log: Callable[[str], None] = print,
    warn: Callable[[str], None] = _warn,
) -> Cache | None:
    """Where decoded images of a split are kept on disk, as the recipe says."""
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


def _unless(interrupted: Callable[[], bool]) -> Done:
    """Ends the decoding of all images where the user asks for it: it may take an hour."""

    def check(done: int, images: int) -> None:
        if interrupted():
            raise Interrupted("interrupted")

    return check


def evaluation_of(
    recipe: Recipe,
    data: Data,
    parts: Composition,
    device: torch.device,
    interrupted: Callable[[], bool] = bool,
) -> Evaluation:
    """The evaluation a recipe asks for, on ``data``; images of one size are decoded once for it."""

    def held(table: ImageTable, split: Split) -> ImageTable:
        cache = cache_of(recipe, data, split)
        return hold(table, recipe.train.memory_limit * 2**20, cache, _unless(interrupted))

    return Evaluation(
        held(data.train, "train"),
        None if data.test is None else held(data.test, "test"),
        parts.protocols,
        parts.pipelines,
        parts.image_size,
        device,
        recipe.train.workers,
        interrupted,
    )


# -- surroundings -----------------------------------------------------------------------------------

_PACKAGES = ("torch", "torchvision", "timm", "accelerate", "numpy", "pillow")


def _counted(names: Sequence[str], what: str) -> str:
    """``12 files (a, b, c, d, e, ...)``."""
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{len(names):,} {what}{'' if len(names) == 1 else 's'} ({shown})"


def flatten(tree: Any, path: str = "") -> dict[str, Any]:
    """A tree of maps and lists as dotted paths to plain values."""
    if isinstance(tree, dict | list) and tree:
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {
            k: v
            for key, value in items
            for k, v in flatten(value, f"{path}.{key}" if path else str(key)).items()
        }
    return {path: tree}


def _differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between two resolved recipes and matters: ``train.epochs (10, now 20)``."""
    free = ("name", "evaluate.", *(f"train.{key}" for key in NOT_TRAINING))
    old, new = flatten(before), flatten(after)
    return [
        f"{key} ({old.get(key)}, now {new.get(key)})"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith(free)
    ]


def _trackable(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe as trackers take it: flat, of numbers, texts and booleans only."""
    return {k: v if isinstance(v, int | float | str | bool) else str(v) for k, v in flatten(recipe).items()}
