"""Runs: from a recipe to a run folder, and back from a run folder to its encoder."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from contrastive.backbones.probe import flops
from contrastive.build.builder import build, untrained_of
from contrastive.build.composition import Composition, Data
from contrastive.data import TrainLoader
from contrastive.distributed import is_first, lost, on_first, rank, world_size
from contrastive.errors import ContrastiveError, Interrupted, UsageError
from contrastive.evaluation.alarms import Alarms
from contrastive.evaluation.evaluation import Evaluation, frozen
from contrastive.files import beside, put, settle, write_json, write_whole, writing
from contrastive.kinds import MONITORS
from contrastive.parts import NEEDS
from contrastive.recipe import Recipe, dump_yaml, load_recipe
from contrastive.recipe.differences import flatten
from contrastive.registry import load_registry
from contrastive.runs.assembly import cache_of, evaluation_of, unless
from contrastive.runs.display import Display
from contrastive.runs.folder import Run
from contrastive.runs.launch import join_processes
from contrastive.runs.process_guard import interrupts, locked
from contrastive.runs.resume import (
    Resume,
    asked_of,
    default_folder,
    earlier_fingerprints,
    environment_of,
)
from contrastive.text import counted
from contrastive.training.accelerator import make_accelerator
from contrastive.training.checkpoints import Checkpoints, restore
from contrastive.training.compilation import compile_encoders, explained_if
from contrastive.training.engine import Engine
from contrastive.training.gradients import caveat
from contrastive.training.health import chunk_advice, memory_told
from contrastive.training.metrics_file import MetricsFile
from contrastive.training.state import Settings
from contrastive.versions import git_commit, versions


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
    join_processes()
    resolved = load_recipe(recipe, overrides, load_registry())
    data, composition = build(resolved)
    display = (display or Display()) if is_first() else Display.silent()
    return Job(resolved, data, composition, display).execute(out, resume)


class Job:
    """One execution of a recipe."""

    def __init__(self, recipe: Recipe, data: Data, composition: Composition, display: Display):
        self.recipe, self.data, self.parts, self.display = recipe, data, composition, display
        self.asked = asked_of(recipe, data, composition)
        self.fingerprint = self.asked.fingerprint
        self.earlier: list[str] = []  # fingerprints that this run had before

    def execute(self, out: str | Path | None, resume: Resume) -> Run:
        train = self.recipe.train
        self._require_processes()
        folder = Path(out) if out is not None else default_folder(self.recipe, self.fingerprint)
        if folder.name in ("", ".."):  # "." has no name, and moves with the folder
            folder = folder.resolve()
        on_first(lambda: self._admit(folder, resume))
        if on_first(lambda: self.asked.met(folder)):
            done = Run(folder)
            self.display.log(f"{folder} is finished; reporting it (--resume never runs it again).")
            return done
        accelerator = make_accelerator(train.precision, str(folder), train.trackers)
        self._name_skipped()
        if told := caveat(self.parts.method, train.chunk_size, train.batch_size):
            self.display.warn(f"train.chunk_size: {told}")
        if self.recipe.positives == "label":
            self.display.log("positives: label: training reads labels, but for those of the held-out tenth")
        if world_size() > 1:
            self._tell_processes(accelerator.device)
        with ExitStack() as held, interrupts() as interrupted:
            on_first(lambda: held.enter_context(locked(folder)))
            on_first(lambda: self._begin(folder, accelerator.device, accelerator.mixed_precision))
            engine, evaluation = self.engine(folder, accelerator, interrupted)
            with ExitStack() as ending:
                ending.callback(accelerator.end_training)
                for callback in engine.callbacks:
                    ending.callback(callback.run_ended, engine)
                self._train_and_evaluate(engine, evaluation, resume)
        return Run(folder)

    def _require_processes(self) -> None:
        """Refuse to train in one process what is made for several, before anything is written."""
        for spec in self.recipe.parts():
            if world_size() == 1 and "processes" in spec.needs:
                raise self.recipe.refuse(spec.kind, f"{spec.name} {NEEDS['processes']}.")

    def _tell_processes(self, device: torch.device) -> None:
        """See that all processes train the same run, and say how they share it."""
        theirs = on_first(lambda: self.fingerprint)
        if theirs != self.fingerprint:
            raise UsageError(
                f"a process of this run would train {self.fingerprint[:8]} where the first trains "
                f"{theirs[:8]}; give all machines the same recipe, data and versions."
            )
        tuning = [entry.name for entry in self.parts.protocols if entry.protocol.tunes]
        if tuning and device.type != "cpu":
            raise UsageError(
                f"evaluate.{tuning[0]} trains the encoder, whose batch norm waits for all processes, in the "
                "first alone; leave it out, and ask it of the finished run: contrastive evaluate."
            )
        own = "of each process's own images" if device.type == "cpu" else "of all of them"
        self.display.log(
            f"{world_size()} processes of {self.recipe.train.batch_size // world_size()} images each; batch "
            f"norm takes statistics {own}"
        )

    def _train_and_evaluate(self, engine: Engine, evaluation: Evaluation, resume: Resume) -> None:
        if trackers := self.recipe.train.trackers:
            config = _trackable(self.recipe.dump())
            try:
                engine.accelerator.init_trackers(self.recipe.name, config=config)
            except Exception as error:  # whatever a tracker raises where its service is out of reach
                raise ContrastiveError(f"train.trackers {trackers}: {error}") from error
        try:
            self._take_up(engine, resume)
            told = memory_told(partial(_advice, engine), engine.checkpoints)
            with explained_if(self.recipe.train.compile), told:
                engine.train()
            with memory_told(lambda: _EVALUATING, engine.checkpoints):
                on_first(lambda: self._conclude(engine, evaluation))
        except RuntimeError as error:
            raise (lost(error) or error) from None
        except Interrupted:
            raise Interrupted(
                f"stopped at step {engine.state.step} of {engine.steps}, saved in {engine.folder}; "
                "the same command goes on from there."
            ) from None

    def _take_up(self, engine: Engine, resume: Resume) -> None:
        """Load the newest whole checkpoint, if there is one, and tell the callbacks that the run begins."""
        state = on_first(engine.checkpoints.take_up)
        if state is not None:
            restore(engine, state)
            self.display.log(f"going on from step {engine.state.step} of {engine.steps}")
        elif resume == "must":
            raise UsageError(f"{engine.folder} holds no checkpoint to resume from; leave --resume must away.")
        else:
            engine.metrics.truncate(0)
        for callback in engine.callbacks:
            callback.run_started(engine)

    def _name_skipped(self) -> None:
        """Name the files of the data set that are no images, once."""
        if self._skipped:
            self.display.warn(f"skipped as no images: {counted(self._skipped, 'file')}")

    @property
    def _skipped(self) -> list[str]:
        return [*self.data.train.skipped, *(self.data.test.skipped if self.data.test else ())]

    # -- the folder ---------------------------------------------------------------------------------

    def _admit(self, folder: Path, resume: Resume) -> None:
        """See that ``folder`` is free, or holds this very run; ``never`` moves an old one aside."""
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is a file; name a folder with --out.")
        if folder.is_symlink() and not folder.exists():
            raise UsageError(f"{folder} is a link that leads nowhere; name a folder with --out.")
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
        self.earlier = earlier_fingerprints(folder, self.recipe, self.data.fingerprint)

    def _begin(self, folder: Path, device: torch.device, precision: str) -> None:
        """Put a folder that is locked now in order, and write what the run is."""
        self._admit(folder, "auto")  # another process may have begun, and ended, since it was free
        settle(folder)
        self._write_head(folder, device, precision)

    def _write_head(self, folder: Path, device: torch.device, precision: str) -> None:
        with writing(folder / "recipe.yaml"):
            write_whole(folder / "recipe.yaml", dump_yaml(self.recipe))
        path = folder / "environment.json"
        before = environment_of(folder)
        if before.get("precision", precision) != precision:
            self.display.warn(
                f"the run began in {before['precision']} and goes on in {precision} on this machine: its "
                "figures will differ from those of an undisturbed run."
            )
        environment = {
            "fingerprint": self.fingerprint,
            "epochs": self.recipe.train.epochs,
            "shorter_before": self.earlier,
            "data": self.data.fingerprint,
            "started": before.get("started") or datetime.now(UTC).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": torch.cuda.get_device_name() if device.type == "cuda" else str(device),
            "precision": precision,
            "processes": world_size(),
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "plugins": {p.name: p.version for p in load_registry().plugins},
            "git_commit": git_commit(),
        }
        write_json(path, environment)

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
            share=(rank(), world_size()),
            progress=unless(interrupted),
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
            Checkpoints(folder / "checkpoints", self.fingerprint, self.display.warn, self.earlier),
            MetricsFile(folder / "metrics.jsonl", self.display.warn),
            [*parts.callbacks, Alarms(len(evaluation.monitored)), self.display],
            interrupted,
            self.display.warn,
            name=recipe.name,
            folder=folder,
        )
        return engine, evaluation

    def _conclude(self, engine: Engine, evaluation: Evaluation) -> None:
        """Export the backbone; evaluate it, the untrained encoder and raw pixels; sum up in summary.json."""
        backbone = engine.method.backbone
        self._export(backbone, engine.folder / "backbone")
        evaluation.unreadable.clear()  # a run that was killed does not know those of the evaluations before
        self.display.log("final evaluation of the trained encoder")
        trained = evaluation.final(backbone, engine.method.head)
        untrained, pixels = {}, {}
        if trained:
            self.display.log("final evaluation of the untrained encoder and of raw pixels")
            untrained = evaluation.final(*untrained_of(self.recipe, self.data, self.parts, evaluation.device))
            pixels = evaluation.pixels()
        _write_subsets(engine.folder / "subsets.json", evaluation.used())
        engine.tick()
        state = engine.state
        unreadable = sorted({*engine.loader.unreadable.values(), *evaluation.unreadable})
        if unreadable:
            told = counted(unreadable, "image")
            self.display.warn(f"{told} could not be read and others took their place")
        monitors: dict[str, Any] = next(
            (m for m in reversed(engine.metrics.read()) if "embedding_std" in m), {}
        )
        summary = {
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
            "stopped": state.stopped if state.step < engine.steps else None,
            "wall_seconds": round(state.seconds, 1),
            "peak_memory_mib": state.peak_memory_mib,
            "parameters": sum(p.numel() for p in engine.method.parameters() if p.requires_grad),
            "backbone_parameters": sum(p.numel() for p in backbone.parameters()),
            "backbone_flops": self._flops(backbone),
            "images": {
                "train": len(self.data.train),
                "test": len(self.data.test or ()),
                "scored": evaluation.scored if trained else 0,
            },
            "skipped": len(self._skipped),
            "unreadable": unreadable,
            "evaluate": self.asked.evaluate,
        }
        write_json(engine.folder / "summary.json", summary)

    def _flops(self, backbone: Any) -> int:
        with frozen(backbone):
            return flops(backbone, self.data.train.channels, self.parts.image_size)

    def _export(self, backbone: Any, folder: Path) -> None:
        """Write ``backbone/``; a backbone that timm cannot load is told of and left to the checkpoint."""
        with writing(folder):
            temporary = beside(folder)
            try:
                backbone.export(str(temporary))
                put(temporary, folder)
            except UsageError as error:
                self.display.log(f"no backbone/ folder: {error}")
            finally:
                shutil.rmtree(temporary, ignore_errors=True)


_EVALUATING = "while evaluating: free memory, or leave protocols out of evaluate."


def _advice(engine: Engine) -> str:
    """What to change where memory ran out while an engine trained."""
    if engine.state.evaluation_due:
        return _EVALUATING
    settings = engine.settings
    return chunk_advice(settings.batch_size // engine.accelerator.num_processes, settings.chunk_size)


def _write_subsets(path: Path, used: dict[str, list[int]]) -> None:
    """Whose labels protocols used, protocol -> ids, where these are not all; no file where all used all."""
    if used:
        write_json(path, used, indent=None)
    else:
        path.unlink(missing_ok=True)


# -- telling ---------------------------------------------------------------------------------------


def _trackable(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe as trackers take it: flat, of numbers, texts and booleans only."""
    return {k: v if isinstance(v, int | float | str | bool) else str(v) for k, v in flatten(recipe).items()}
