"""The training loop, on Accelerate. It knows neither YAML nor the registry nor any method.

The engine owns the order of images, the schedule and the checkpoint's content; from Accelerate it
takes device, precision, wrapping and trackers. No generator state is saved: every draw follows from
(seed, epoch, image) or (seed, step), so a resumed run takes up exactly where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from contrastive.augmentations.pipeline import Pipeline
from contrastive.comparison import Comparison
from contrastive.data import TrainLoader, augment
from contrastive.device import peak_memory_mib, to_host
from contrastive.distributed import Vote, check_equal, mean, on_first, rank, union
from contrastive.errors import Interrupted
from contrastive.parts import Listener, Optimizer
from contrastive.rng import derive
from contrastive.training.accelerator import placed
from contrastive.training.checkpoints import Checkpoints
from contrastive.training.gradients import Buffers, Chunk, GradientCache, OnePass, Passes
from contrastive.training.health import Health, Signs
from contrastive.training.method import Method
from contrastive.training.metrics_file import MetricsFile
from contrastive.training.state import Evaluator, Metrics, Settings, State
from contrastive.values import Batch, Progress


class Engine:
    """Trains a method.

    Args:
        method, optimizer, pipelines, loader: what is trained, how, on which views of which images.
        settings: see :class:`Settings`.
        accelerator: device, precision and trackers.
        evaluator: figures of the held-out tenth.
        checkpoints, metrics: where the run's state and figures go.
        callbacks: told of what happens; to them an engine is a :class:`contrastive.parts.RunState`.
        interrupted: true once the user asked to stop.
        warn: how a callback tells the user.
        name, folder: what callbacks may call the run.
    """

    def __init__(
        self,
        method: Method,
        optimizer: Optimizer,
        pipelines: Sequence[Pipeline],
        loader: TrainLoader,
        settings: Settings,
        accelerator: Accelerator,
        evaluator: Evaluator,
        checkpoints: Checkpoints,
        metrics: MetricsFile,
        callbacks: Sequence[Listener] = (),
        interrupted: Callable[[], bool] = bool,
        warn: Callable[[str], None] = print,
        *,
        name: str = "run",
        folder: Path = Path(),
    ):
        self.name, self.folder, self.epochs = name, folder, settings.epochs
        self.settings, self.loader = settings, loader
        self.accelerator, self.evaluator = accelerator, evaluator
        self.checkpoints, self.metrics, self.callbacks = checkpoints, metrics, callbacks
        self.interrupted, self.warn = Vote(interrupted), warn
        self.rule, self.method = optimizer, placed(method, accelerator.device)
        torch_optimizer = optimizer.build(method, settings.batch_size * settings.accumulate)
        self.views_of = partial(augment, pipelines=pipelines, seed=settings.seed, device=accelerator.device)
        images = settings.batch_size // accelerator.num_processes
        chunk = min(images, settings.chunk_size or images)
        module = self.method if chunk == images else Chunk(self.method)
        self.model, self.optimizer = accelerator.prepare(module, torch_optimizer)
        self.passes: Passes = OnePass(self.method, self.model, accelerator)
        if chunk < images:
            self.passes = GradientCache(self.method, self.model, accelerator, chunk, settings.seed)
        self.state = State()
        self.steps_per_epoch = loader.steps_per_epoch // settings.accumulate
        self.total_steps = self.steps_per_epoch * settings.epochs  # of the schedule
        self.steps = min(self.total_steps, settings.max_steps or self.total_steps)
        self.signs = Signs(method)
        self.health = Health(self.signs, checkpoints, settings.nonfinite, accelerator.scaler, self.steps)
        self.comparison: Comparison | None = None
        # What a step came to, under way from the device.
        self._pending: tuple[Metrics, Callable[[], list[float]], Comparison] | None = None
        self._told: Metrics = {}  # figures of the step that callbacks are being told of
        self._clock = time.perf_counter()
        self._window = (self._clock, 0)  # since when, and how many images

    # -- what callbacks may read and ask ----------------------------------------------------------

    @property
    def step(self) -> int:
        return int(self._told.get("step", self.state.step))

    @property
    def epoch(self) -> int:
        return int(self._told.get("epoch", self.state.epoch))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def log(self, figures: Mapping[str, float], about: Mapping[str, Any] | None = None) -> None:
        """Write a line of metrics.jsonl, and to the trackers; what it is ``about`` into the line alone."""
        self.metrics.append({"step": self.step, "epoch": self.epoch, **figures, **(about or {})})
        self.accelerator.log(dict(figures), step=self.step)

    def stop(self, reason: str) -> None:
        """End the run after this epoch."""
        self.state.stopped = self.state.stopped or reason

    @property
    def _ended(self) -> bool:
        """Whether no step is to follow; a run that was stopped still ends its epoch, be it its first."""
        return self.step >= self.steps or bool(self.state.stopped and self.step and not self.state.batch)

    def stage(self, name: str) -> AbstractContextManager[None]:
        """A stage of a step, for whoever watches (:mod:`contrastive.training.stages`)."""
        return self.method.stage(name)

    # -- the loop ---------------------------------------------------------------------------------

    def train(self) -> None:
        """Train to the last step, evaluating and saving on the way. Raises Interrupted after saving."""
        self._clock = time.perf_counter()
        try:
            if self.state.evaluation_due:
                self._finish_epoch()
            while not self._ended:
                self._train_epoch()
                self._finish_epoch()
        except Interrupted:
            self._flush()
            self._save()
            raise
        self.tick()

    def _train_epoch(self) -> None:
        self.model.train()
        self._window = (time.perf_counter(), 0)
        last = self.steps_per_epoch * self.settings.accumulate
        micro: list[Batch] = []
        batches = self.loader.epoch(self.state.epoch, start=self.state.batch)
        for batch in self.method.stages.each("load", batches):
            micro.append(batch)
            if len(micro) < self.settings.accumulate:
                continue
            self._step(micro)
            self.state.batch += len(micro)
            micro = []
            if self.state.batch >= last or self.state.step >= self.steps:
                break
            if self.interrupted():
                raise Interrupted("interrupted")
        self._flush()
        self.state.epoch, self.state.batch = self.state.epoch + 1, 0
        self.state.evaluation_due = True
        for callback in self.callbacks:
            callback.epoch_done(self, self.state.epoch)

    def _step(self, micro: Sequence[Batch]) -> None:
        """One optimizer step over its micro-batches; candidates come from one micro-batch only."""
        settings, state, accelerator = self.settings, self.state, self.accelerator
        for group in self.optimizer.param_groups:
            factor = self.rule.factor(group, state.step, self.total_steps, self.steps_per_epoch)
            group["lr"] = group["peak_lr"] * factor
        torch.manual_seed(derive(settings.seed, "step", state.step, *filter(None, [rank()])))  # dropout
        progress = Progress(state.step, self.total_steps)
        total = torch.zeros((), device=accelerator.device)
        compared: list[Comparison] = []
        may_skip = settings.nonfinite == "skip"
        statistics = Buffers(self.method.encoders if may_skip else ())
        for number, batch in enumerate(micro):
            loss, comparison = self.passes.backward(batch, self._views, progress, (number, len(micro)))
            total += loss / len(micro)
            compared.append(comparison)
        # Of all processes, so that each records, and decides, the same: [1 + signs]
        values = mean(torch.cat([total.reshape(1), self.signs.read(compared).to(total.dtype)]))
        norm = None
        if settings.clip_grad_norm is not None:
            with self.stage("optimizer"):
                norm = accelerator.clip_grad_norm_(self.method.parameters(), settings.clip_grad_norm)
        lr = self.optimizer.param_groups[0]["lr"]  # that of parameters no rule of the recipe names
        skip = may_skip and accelerator.scaler is None and not values.isfinite().all()
        if not skip:
            with self.stage("optimizer"):
                self._update(progress, compared)
        if skip or (self.optimizer.step_was_skipped and not values[0].isfinite()):
            statistics.put_back()
        with self.stage("optimizer"):
            self.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        values = values if norm is None else torch.cat([values, norm.reshape(1).to(total.dtype)])
        self._record({"lr": lr, **({"skipped": True} if skip else {})}, values, compared[-1])

    def _views(self, batch: Batch) -> list[Tensor]:
        with self.stage("augment"):
            return self.views_of(batch, epoch=self.state.epoch)

    def _update(self, progress: Progress, compared: Sequence[Comparison]) -> None:
        """The optimizer's step, and what parts do around it; fp16's scaler may still leave it out."""
        self.method.before_step(progress)
        self.optimizer.step()
        if self.optimizer.step_was_skipped:
            return
        for comparison in compared:
            self.method.after_batch(comparison)
        self.method.after_step(progress)

    def _record(self, figures: Metrics, values: Tensor, comparison: Comparison) -> None:
        """Keep a step's figures; they are read one step late, so that the device never waits for them."""
        since, count = self._window
        self._window = (since, count + self.settings.batch_size * self.settings.accumulate)
        speed = self._window[1] / max(1e-9, time.perf_counter() - since)
        known: Metrics = {
            "step": self.state.step,
            "epoch": (self.state.step - 1) // self.steps_per_epoch + 1,
            "images_per_second": round(speed, 1),
            **figures,
        }
        self._flush()
        self._pending = known, to_host(values), comparison

    def _flush(self) -> None:
        """Write the kept figures to metrics.jsonl and tell the callbacks. Stops on a non-finite loss."""
        if self._pending is None:
            return
        (known, arriving, self.comparison), self._pending = self._pending, None
        figures = self.health.judge(known, arriving())
        self.metrics.append(figures)
        if figures.get("skipped"):
            self.health.check_skipped()
            return
        self.accelerator.log({k: v for k, v in figures.items() if k != "step"}, step=int(figures["step"]))
        self._told = figures
        for callback in self.callbacks:
            callback.step_done(self, figures)
        self._told = {}

    # -- evaluation and state ---------------------------------------------------------------------

    def _finish_epoch(self) -> None:
        """Evaluate where the recipe says so, remember the best, and save; after the last step too."""
        state, every = self.state, self.settings.evaluate_every
        better = False
        state.stopped = on_first(lambda: state.stopped)  # callbacks may ask clocks of their own
        if self._ended or (every and state.epoch % every == 0):
            with self.stage("evaluation"):
                figures = on_first(lambda: self.evaluator.during(self.method))
            self.log(figures, self.evaluator.named())
            better = state.note_best(figures)
            for callback in self.callbacks:
                callback.evaluated(self, {"step": state.step, "epoch": state.epoch, **figures})
        state.evaluation_due = False
        state.stopped = on_first(lambda: state.stopped)
        if better or self._ended or state.epoch % self.settings.checkpoint_every == 0:
            self._save()
        if self.interrupted() and not self._ended:
            raise Interrupted("interrupted")

    def tick(self) -> None:
        """Count what the run has cost since the last tick; its costs survive a resume."""
        before, self._clock = self._clock, time.perf_counter()
        self.state.count(self._clock - before, peak_memory_mib(self.accelerator.device))

    def _save(self) -> None:
        """Write a checkpoint, never of weights that are no numbers: there would be no way back."""
        tensors = [t for t in (*self.method.parameters(), *self.method.buffers()) if t.is_floating_point()]
        if not torch.nn.utils.get_total_norm(tensors).isfinite():
            raise self.health.spoilt(self.state.step)
        check_equal(dict(self.method.named_children()))
        self.tick()
        saved = self.state_dict()
        on_first(lambda: self.checkpoints.save(self.state.step, saved, self.state.best_step))

    def state_dict(self) -> dict[str, Any]:
        """Everything that must survive: plain values and tensors, of unwrapped modules."""
        scaler = self.accelerator.scaler
        return {
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "callbacks": [callback.state_dict() for callback in self.callbacks],
            "progress": vars(self.state).copy(),
            "unreadable": union(self.loader.unreadable),
            "skipped": self.health.skipped,
            "metrics_bytes": self.metrics.seal(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where ``state_dict`` was taken; metrics.jsonl is cut to what it held then."""
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        for callback, saved in zip(self.callbacks, state["callbacks"], strict=True):
            callback.load_state_dict(saved)
        self.state = State(**state["progress"])
        self.loader.unreadable.update(state["unreadable"])
        self.health.skipped = state.get("skipped", [])
        self.metrics.truncate(state["metrics_bytes"])
