"""One execution of a recipe: from a recipe to a finished run folder.

:func:`run` resolves and builds the recipe. :class:`Job` goes through the stages: checking the folder
(:mod:`~contrastive.runs.resume`), putting engine and evaluation together (:mod:`~contrastive.runs.assembly`),
training, and writing the results (:mod:`~contrastive.runs.summary`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from contrastive import interrupts
from contrastive.build import Composition, Data, DataSets, build, compose
from contrastive.data import require_readable
from contrastive.datasets import reading_of
from contrastive.distributed import explain_lost_connection, is_first, on_each, on_first, world_size
from contrastive.errors import ContrastiveError, Interrupted, UsageError
from contrastive.evaluation import Evaluation, omission_lines, split_notes
from contrastive.parts import NEEDS
from contrastive.recipe import Recipe, flatten, load_recipe, with_dataset_paths
from contrastive.registry import Registry, load_registry
from contrastive.runs.assembly import assemble
from contrastive.runs.display import Display
from contrastive.runs.folder import PLAN, Run, RunIdentity, default_folder, environment_of, transform_of
from contrastive.runs.inputs import KEY_WIDTHS, key_widths
from contrastive.runs.launch import LAUNCHER_VARIABLE, join_processes
from contrastive.runs.measurement import measure
from contrastive.runs.plan import fit, planned_before
from contrastive.runs.process_guard import folder_lock
from contrastive.runs.relocation import first_paths, moved_to, of_run_folder, origin_of, record
from contrastive.runs.resume import Resume, admit, begin
from contrastive.runs.shrinkage import shrink_offer
from contrastive.runs.summary import conclude, skipped_files, warn_of_skipped
from contrastive.text import quantity
from contrastive.training import (
    EVALUATION_ADVICE,
    Engine,
    chunk_advice,
    chunk_warning,
    explain_compile_errors_if,
    explain_out_of_memory,
    make_accelerator,
    restore,
    shares_statistics,
)


def run(
    recipe: str | Path,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    out: str | Path | None = None,
    resume: Resume = "auto",
    display: Display | None = None,
    open_data_sets: DataSets | None = None,
) -> Run:
    """Train, evaluate and export what a recipe specifies.

    Args:
        recipe: a recipe file, or the name of a shipped one (``"simclr"``).
        overrides: as for ``--set``, either strings ``"train.epochs=2"`` or ``{"train.epochs": 2}``.
        out: the run folder; by default ``runs/<name>-seed<seed>-<8 hex of the fingerprint>``.
        resume: ``auto`` continues from the newest whole checkpoint of the same recipe, ``must`` requires
            one, ``never`` moves an old folder aside.
        display: shows progress; by default a live line or plain lines on standard output.
        open_data_sets: those that are already open; the one opened here is added.

    Raises:
        RecipeError: the recipe is invalid; every mistake at once; nothing is written.
        UsageError: the folder holds another run.
        Interrupted: Ctrl-C or SIGTERM, after saving.
    """
    registry = load_registry()
    resolved_recipe = load_recipe(recipe, of_run_folder(recipe, overrides, registry), registry)
    join_processes(resolved_recipe.train.timeout)
    display = (display or Display()) if is_first() else Display.silent()
    with (
        display,
        interrupts.guard(),
        interrupts.printing(display.log_now, display.leave_terminal),
        interrupts.responding(interrupts.Response()),
        ExitStack() as before_training,
        explain_lost_connections(resolved_recipe.train.timeout),
    ):
        before_training.enter_context(interrupts.responding(_BEFORE_TRAINING))
        data, composition = on_each(
            lambda: build(resolved_recipe, open_data_sets=open_data_sets, announce=display.phase)
        )
        job = Job(resolved_recipe, data, composition, registry, display, before_training.close)
        return job.execute(out, resume)


@contextmanager
def explain_lost_connections(minutes: float) -> Iterator[None]:
    """Turn the failure of a collective into one sentence; ``minutes`` are those of ``train.timeout``."""
    try:
        yield
    except RuntimeError as error:
        explanation = explain_lost_connection(error, minutes)
        if explanation is not None and _is_being_stopped():
            raise Interrupted("another process of the run has stopped") from None
        raise (explanation or error) from None


def _is_being_stopped() -> bool:
    """Whether a signal has come, or comes soon: our launcher sends it if another process was stopped."""
    deadline = time.monotonic() + (_LAUNCHER_DELAY if LAUNCHER_VARIABLE in os.environ else 0)
    while not interrupts.stop_requested() and time.monotonic() < deadline:
        time.sleep(0.02)
    return interrupts.stop_requested()


#: Seconds in which the launcher has seen that a process was stopped, and has stopped the others.
_LAUNCHER_DELAY = 1.0

_BEFORE_TRAINING = interrupts.Response(
    lambda _: "stopped before the first step, so nothing is lost", lambda: "stopped now; nothing is lost"
)
_AFTER_TRAINING = interrupts.Response(
    lambda _: "stopping the final evaluation; training is saved, so no step is lost",
    lambda: "stopped now; no step is lost",
)


def _nothing() -> None:
    pass


class Job:
    """One execution of a recipe.

    Args:
        recipe: the recipe to train.
        data, composition: what it was built into.
        registry: the registry that resolved it.
        display: shows progress and prints messages.
        training_starts: called when everything is ready for the first step.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Data,
        composition: Composition,
        registry: Registry,
        display: Display,
        training_starts: Callable[[], None] = _nothing,
    ):
        self.recipe = recipe
        self.data = data
        self.composition = composition
        self.registry = registry
        self.display = display
        self.training_starts = training_starts
        self.identity = RunIdentity.of(recipe, data, composition)

    def execute(self, out: str | Path | None, resume: Resume) -> Run:
        """Train, evaluate and export; arguments and errors as for :func:`run`."""
        self._require_processes()
        folder = Path(out) if out is not None else default_folder(self.recipe, self.identity.fingerprint)
        if folder.name in ("", ".."):  # "." has no name, and moves with the folder
            folder = folder.resolve()
        origin = self._settle_paths(folder, resume)
        on_first(lambda: admit(folder, resume, self.recipe, self.data, self.registry, self.display.log))
        if on_first(lambda: self.identity.is_finished_in(folder)):
            if origin["paths"] != on_first(lambda: environment_of(folder)).get("paths", origin["paths"]):
                on_first(lambda: record(folder, origin))
            self.display.log(
                f"{folder}: already finished; showing its results (use --resume never to train again)"
            )
            return Run(folder)
        on_first(self._require_readable)
        train = self.recipe.train
        accelerator = make_accelerator(
            train.precision, str(folder), train.trackers, self.composition.is_narrow
        )
        self._announce(accelerator.device)
        with ExitStack() as lock, interrupts.guard():
            on_first(lambda: lock.enter_context(folder_lock(folder)))
            if self.recipe.train.minutes is not None:
                origin[PLAN] = self._plan_epochs(folder)
            earlier = on_first(
                lambda: begin(
                    folder,
                    self.recipe,
                    self.data,
                    transform_of(self.data, self.composition),
                    self.registry,
                    accelerator.device,
                    accelerator.mixed_precision,
                    self.display,
                    origin,
                )
            )
            engine, evaluation = assemble(
                self.recipe,
                self.data,
                self.composition,
                folder,
                accelerator,
                self.display,
                earlier=earlier,
                interrupted=interrupts.stop_requested,
                transform=on_first(lambda: Run(folder).transform),
            )
            self._announce_omissions(evaluation)
            end = origin.get(PLAN, {}).get("costs", {}).get("end")
            self.display.expect_evaluations(evaluation.periodic_images, evaluation.final_images, end)
            with ExitStack() as ending:
                ending.callback(accelerator.end_training)
                for callback in engine.callbacks:
                    ending.callback(callback.run_ended, engine.run)
                with explain_lost_connections(self.recipe.train.timeout):  # before the group is destroyed
                    self._train_and_evaluate(engine, evaluation, resume)
        return Run(folder)

    def _plan_epochs(self, folder: Path) -> dict[str, Any]:
        """Give the recipe the epochs that fit in its minutes: those planned when the run began, if it has.

        Returns:
            The record of the plan for environment.json.
        """
        plan = on_first(lambda: planned_before(folder, self.recipe))
        if plan is None:
            costs, self.data = measure(self.recipe, self.data, self.display)
            size = self.data.train.size
            new = on_first(lambda: fit(self.recipe, len(self.data.train), size, costs))
            self.display.log(str(new))
            self.display.phase("building the model")
            plan = new.record()
        self.recipe = self.recipe.with_epochs(plan["epochs"])
        self.composition = on_each(lambda: compose(self.recipe, self.data))
        return plan

    def _settle_paths(self, folder: Path, resume: Resume) -> dict[str, Any]:
        """Take the data set's paths from the run in the folder if it is this one with its data elsewhere.

        Returns:
            What environment.json records of where this run's files are, and of how its backbone was built.
        """
        method = self.composition.method
        origin = {**origin_of(self.recipe), "backbone": list(method.backbone.notes)}
        if widths := key_widths(method):
            origin[KEY_WIDTHS] = widths
        if resume == "never":
            return origin
        first = on_first(lambda: first_paths(folder, self.recipe, self.data, self.registry))
        if first:
            self.display.log(f"the same data at another path: {moved_to(self.recipe, first)}")
            self.recipe = with_dataset_paths(self.recipe, first)
            self.identity = RunIdentity.of(self.recipe, self.data, self.composition)
            origin["folder"] = on_first(lambda: environment_of(folder)).get("folder", origin["folder"])
        return origin

    def _require_processes(self) -> None:
        """Raise if a part needs several processes and there is one, before anything is written."""
        for spec in self.recipe.parts():
            if world_size() == 1 and "processes" in spec.needs:
                raise self.recipe.refuse(spec.kind, f"{spec.name} {NEEDS['processes']}.")

    def _require_readable(self) -> None:
        """Raise if a split that validates or tests cannot be read, before anything is trained or written."""
        if self.composition.protocols:
            for name, table, rows in self.data.evaluation_rows():
                require_readable(table, rows, name)

    def _announce_omissions(self, evaluation: Evaluation) -> None:
        """Report which protocols will have no metrics, as far as labels show it, and why."""
        final, periodic = evaluation.final_omissions(), evaluation.periodic_omissions()
        only_periodic = {name: reason for name, reason in periodic.items() if final.get(name) != reason}
        lines = omission_lines(only_periodic, " during training")
        for line in [*omission_lines(final), *lines]:
            self.display.log(line)

    def _announce(self, device: torch.device) -> None:
        """Report what the user should know about recipe and data before training starts."""
        train, division = self.recipe.train, self.data.division
        if reading := reading_of(self.data.dataset):
            self.display.log(reading)
        warn_of_skipped(skipped_files(self.data), self.display)
        if train.shrink is not None:
            self.display.log(
                f"train.shrink: training and evaluation read images of at most {train.shrink.short_side:,} "
                "pixels on the shorter side, not the originals"
            )
        if self.data.label_hint:
            self.display.warn(f"no labels: {self.data.label_hint}")
        for path, part in self.composition.method.named_parts().items():
            for note in part.notes:
                self.display.log(f"{path}: {note}")
        if warning := chunk_warning(self.composition.method, train.chunk_size, train.batch_size):
            self.display.warn(f"train.chunk_size: {warning}")
        if self.recipe.reads_labels:
            exception = "of all of train" if division.has_own else "except those of the held-out tenth"
            self.display.log(f"positives: label: training reads labels, {exception}")
        for note in split_notes(division, self.data.validation, self.data.test):
            self.display.log(note)
        if world_size() > 1:
            self._announce_processes(device)

    def _announce_processes(self, device: torch.device) -> None:
        """Check that all processes train the same run, and report how they divide it."""
        fingerprint = self.identity.fingerprint
        first = on_first(lambda: fingerprint)
        if first != fingerprint:
            raise UsageError(
                f"a process of this run would train {fingerprint[:8]}, but the first trains {first[:8]}; "
                "give all machines the same recipe, data and versions."
            )
        tuning = [entry.name for entry in self.composition.protocols if entry.protocol.tunes]
        is_shared = shares_statistics(self.composition.method.target, device)
        if tuning and is_shared:
            raise UsageError(
                f"evaluate.{tuning[0]} trains the encoder in the first process alone, but batch norm waits "
                "for all of them; remove it here, and run it on the finished run: contrastive evaluate."
            )
        images = "the whole batch" if is_shared else "its own images"
        reason = (
            "" if is_shared or device.type == "cpu" else f", as target {self.recipe.target.name} requires"
        )
        self.display.log(
            f"{quantity(world_size(), 'process', 'processes')} with "
            f"{quantity(self.recipe.train.batch_size // world_size(), 'image')} each; "
            f"batch norm of each uses statistics of {images}{reason}"
        )

    def _train_and_evaluate(self, engine: Engine, evaluation: Evaluation, resume: Resume) -> None:
        self._start_trackers(engine)
        self._start(engine, resume)
        self._offer_shrinking(engine)
        self.training_starts()
        try:
            with (
                explain_compile_errors_if(bool(self.recipe.train.compile)),
                explain_out_of_memory(partial(_memory_advice, engine), engine.checkpoints),
            ):
                engine.train()
            with explain_out_of_memory(lambda: EVALUATION_ADVICE, engine.checkpoints):
                on_first(lambda: self._conclude(engine, evaluation))
        except Interrupted:
            raise Interrupted(
                f"stopped at step {engine.state.step} of {engine.steps}, saved in {engine.folder}; "
                "the same command continues from there."
            ) from None

    def _conclude(self, engine: Engine, evaluation: Evaluation) -> None:
        with interrupts.responding(_AFTER_TRAINING):
            conclude(
                engine, evaluation, self.recipe, self.data, self.composition, self.identity, self.display
            )

    def _start_trackers(self, engine: Engine) -> None:
        trackers = self.recipe.train.trackers
        if not trackers:
            return
        try:
            engine.accelerator.init_trackers(self.recipe.name, config=_tracker_config(self.recipe.dump()))
        except Exception as error:  # trackers raise anything if their service is unreachable
            raise ContrastiveError(f"train.trackers {trackers}: {error}") from error

    def _offer_shrinking(self, engine: Engine) -> None:
        """Report what ``train.shrink`` would save, if it is much; a run that goes on cannot take it up."""
        if engine.state.step == 0:
            offer = on_first(lambda: shrink_offer(self.recipe, self.data, self.composition))
            if offer:
                self.display.log(f"{offer}.")

    def _start(self, engine: Engine, resume: Resume) -> None:
        """Load the newest whole checkpoint if there is one, decode the images that are held, and notify the
        callbacks that the run starts."""
        state = on_first(engine.checkpoints.take_up)
        if state is not None:
            restore(engine, state)
            self.display.log(f"continuing from step {engine.state.step} of {engine.steps}")
        elif resume == "must":
            raise UsageError(f"{engine.folder} holds no checkpoint to resume from; drop --resume must.")
        else:
            engine.metrics.truncate(0)
        on_each(engine.loader.decode)
        engine.run.notify(engine.callbacks, lambda callback: callback.run_started(engine.run))


def _memory_advice(engine: Engine) -> str:
    """What to change if memory ran out while an engine trained."""
    if engine.state.evaluation_due:
        return EVALUATION_ADVICE
    settings = engine.settings
    return chunk_advice(settings.batch_size // engine.accelerator.num_processes, settings.chunk_size)


def _tracker_config(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe in the form that trackers accept: flat, with numbers, strings and booleans only."""
    return {k: v if isinstance(v, int | float | str | bool) else str(v) for k, v in flatten(recipe).items()}
