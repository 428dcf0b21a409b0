"""The training loop, on Accelerate. It depends on neither YAML nor the registry nor any method.

The engine owns the order of images, the schedule and the content of checkpoints. Accelerate provides
device, precision, wrapping and trackers. No generator state is saved: every draw depends only on
(seed, epoch, image) or (seed, step), so a resumed run continues exactly where it stopped.

Who does what in one step. To follow it, read this file, gradients.py and method.py:

    loader.epoch       source images of its micro-batches                        data/loader.py
    rule.factor        the learning rate of each parameter group                 optimizers/
    rule.settle        what else is scheduled in it, such as weight decay
    passes.backward    loss and gradients of a micro-batch, whole or in chunks   gradients.py
      views_of         its views, drawn from (seed, epoch, image, view)          data/loader.py
      method.encode    views -> embeddings z and predictions p                   method.py
      method.keys      views -> keys of the target                               method.py, targets/
      method.loss      the comparison, and the weighted sum of the losses        method.py, losses/
    health.norms       norms that locate the first non-finite number             health.py
    _update            before_step, the optimizer's step, after_batch, after_step
    _record, _flush    metrics, one step late: health.check_step, metrics.jsonl, trackers, step_done
    run.notify         step_taken of the callbacks, with the weights of this step   live_run.py
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from contrastive.augmentations import Pipeline
from contrastive.comparison import Comparison
from contrastive.data import TrainLoader, make_views
from contrastive.device import peak_memory_mib, to_host
from contrastive.distributed import Vote, check_equal, mean, on_first, rank, union
from contrastive.errors import Interrupted
from contrastive.parts import Listener, Optimizer
from contrastive.rng import derive
from contrastive.training.accelerator import move_to_device
from contrastive.training.checkpoints import Checkpoints
from contrastive.training.gradients import BufferSnapshot, prepare_passes
from contrastive.training.health import Health
from contrastive.training.live_run import LiveRun, RunContext
from contrastive.training.method import Comparisons, Method
from contrastive.training.metrics_file import MetricsFile
from contrastive.training.position import Position
from contrastive.training.state import Evaluator, Metrics, Settings, State, Throughput
from contrastive.training.stopping import Stopping
from contrastive.values import Batch, Progress, never


class Engine:
    """Trains a method.

    Args:
        method, optimizer, pipelines, loader: what is trained, how, and on which views of which images.
        settings, accelerator: what the recipe sets for training; device, precision and trackers.
        evaluator: metrics of the images that validate.
        checkpoints, metrics: where the run's state and metrics go.
        callbacks: called at every event of the run, with ``run``.
        interrupted: true once the user asked to stop.
        context: the run's name, folder and images, and how its callbacks warn the user.
    """

    def __init__(
        self,
        *,
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
        interrupted: Callable[[], bool] = never,
        context: RunContext,
    ):
        self.folder, self.settings, self.loader = context.folder, settings, loader
        self.accelerator, self.evaluator = accelerator, evaluator
        self.checkpoints, self.metrics, self.callbacks = checkpoints, metrics, callbacks
        self.interrupted, self.rule = Vote(interrupted), optimizer
        self.method = move_to_device(method, accelerator.device)
        self.stage = self.method.stage
        torch_optimizer = optimizer.build(method, settings.batch_size * settings.accumulate)
        self.views_of = partial(
            make_views, pipelines=pipelines, grids=method.grids, seed=settings.seed, device=accelerator.device
        )
        self.passes, self.optimizer = prepare_passes(self.method, torch_optimizer, accelerator, settings)
        self.model = self.passes.model
        self.state = State()
        self._stopping = Stopping(self.state)
        self.steps_per_epoch = loader.steps_per_epoch // settings.accumulate
        self.total_steps = self.steps_per_epoch * settings.epochs  # of the schedule
        self.steps = min(self.total_steps, settings.max_steps or self.total_steps)
        self.health = Health(method, checkpoints, settings.nonfinite, accelerator.scaler, self.steps)
        self.run = LiveRun(  # as callbacks see it
            context=context,
            method=self.method,
            optimizer=self.optimizer,
            accelerator=accelerator,
            evaluator=evaluator,
            state=self.state,
            metrics=metrics,
            epochs=settings.epochs,
            steps=self.steps,
            steps_per_epoch=self.steps_per_epoch,
        )
        self._pending: tuple[Metrics, Callable[[], list[float]], Comparison] | None = None  # of the last step
        self._position = Position(self.state, callbacks, metrics, self.run, settings.accumulate)
        self._clock = time.perf_counter()
        self._throughput = Throughput()

    @property
    def _is_over(self) -> bool:
        """Whether no step follows."""
        return self.state.step >= self.steps or self.state.is_at_stop

    def train(self) -> None:
        """Train to the last step, evaluating and saving on the way. Raises Interrupted after saving."""
        self._clock = time.perf_counter()
        try:
            with self._stopping.after("this step" if self.interrupted.is_immediate else "the next step"):
                if self.state.evaluation_due:
                    self._finish_epoch()
                while not self._is_over:
                    self._train_epoch()
                    self._finish_epoch()
        except Interrupted:
            self._flush()
            self._save()
            raise
        finally:
            self.loader.close()
        self.tick()

    def _train_epoch(self) -> None:
        self.model.train()
        self._throughput = Throughput()
        last = self.steps_per_epoch * self.settings.accumulate
        micro: list[Batch] = []
        state = self.state
        for batch in self.method.stages.each("load", self.loader.epoch(state.epoch, state.batch, last)):
            micro.append(batch)
            if len(micro) < self.settings.accumulate:
                continue
            self._step(micro)
            state.batch += len(micro)
            micro = []
            if state.batch >= last or state.step >= self.steps:
                break
            if self.interrupted():
                raise Interrupted("interrupted")
        self._flush()
        if self.total_steps > self.steps == state.step:
            self._position.note_end()
        state.epoch, state.batch, state.evaluation_due = state.epoch + 1, 0, True
        self.run.notify(self.callbacks, lambda callback: callback.epoch_done(self.run, state.epoch))

    def _step(self, micro: Sequence[Batch]) -> None:
        """One optimizer step over its micro-batches; candidates come from one micro-batch only."""
        settings, state, accelerator = self.settings, self.state, self.accelerator
        if settings.cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()  # until the next one, no graph reuses live memory
        progress = Progress(state.step, self.total_steps, settings.seed, self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            factor = self.rule.factor(group, state.step, self.total_steps, self.steps_per_epoch)
            group["lr"] = group["peak_lr"] * factor
            self.rule.settle(group, progress)
        torch.manual_seed(derive(settings.seed, "step", state.step, *filter(None, [rank()])))  # dropout
        total = torch.zeros(1 + len(self.health.losses), device=accelerator.device)
        comparisons: list[Comparisons] = []
        views_of = partial(self.views_of, epoch=state.epoch)
        may_skip = settings.nonfinite == "skip"
        statistics = BufferSnapshot(self.method.encoders if may_skip else ())
        for number, batch in enumerate(micro):
            output = self.passes.backward(batch, views_of, progress, (number, len(micro)))
            total += output.values / len(micro)
            comparisons.append(output.comparisons)
        # The mean over all processes, so that each records and decides the same: [1 + objectives + norms]
        values = mean(torch.cat([total, self.health.norms.read(comparisons).to(total.dtype)]))
        norm = None
        if settings.clip_grad_norm is not None:
            with self.stage("optimizer"):
                norm = accelerator.clip_grad_norm_(self.method.parameters(), settings.clip_grad_norm)
        lr = self.optimizer.param_groups[0]["lr"]  # of the parameters that no rule of the recipe matches
        skip = may_skip and accelerator.scaler is None and not values.isfinite().all()
        with self.stage("optimizer"):
            if not skip:
                self._update(progress, comparisons)
            if skip or (self.optimizer.step_was_skipped and not values[0].isfinite()):
                statistics.restore()
            self.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        values = values if norm is None else torch.cat([values, norm.reshape(1).to(total.dtype)])
        self._record({"lr": lr, **({"skipped": True} if skip else {})}, values, comparisons[-1][0])
        self.run.notify(self.callbacks, lambda callback: callback.step_taken(self.run))

    def _update(self, progress: Progress, comparisons: Sequence[Comparisons]) -> None:
        """The optimizer's step, and what parts do around it; fp16's scaler may still skip it."""
        self.method.before_step(progress)
        self.optimizer.step()
        if self.optimizer.step_was_skipped:
            return
        for of_objectives in comparisons:
            self.method.after_batch(*of_objectives)
        self.method.after_step(progress)

    def _record(self, options: Metrics, values: Tensor, comparison: Comparison) -> None:
        """Keep a step's metrics; they are read one step late, so that the device never waits for them."""
        speed = self._throughput.after(self.settings.batch_size * self.settings.accumulate)
        metrics: Metrics = {
            "step": self.state.step,
            "epoch": (self.state.step - 1) // self.steps_per_epoch + 1,
            "images_per_second": round(speed, 1),
            **options,
        }
        self._flush()
        self._pending = metrics, to_host(values), comparison

    def _flush(self) -> None:
        """Write the pending metrics to metrics.jsonl and report them. Stops on a non-finite loss."""
        if self._pending is None:
            return
        (pending, values, comparison), self._pending = self._pending, None
        metrics = self.health.check_step(pending, values())
        self.metrics.append(metrics)
        if metrics.get("skipped"):
            self.health.check_skipped()
            return
        self.accelerator.log({k: v for k, v in metrics.items() if k != "step"}, step=int(metrics["step"]))
        with self.run.reporting(metrics, comparison):
            self.run.notify(self.callbacks, lambda callback: callback.step_done(self.run, metrics))

    def _finish_epoch(self) -> None:
        """Evaluate if the recipe asks for it, remember the best, and save; after the last step too."""
        state, every = self.state, self.settings.evaluate_every
        better = False
        state.stopped = on_first(lambda: state.stopped)  # callbacks may read clocks of their own
        if self._is_over or (every and state.epoch % every == 0):
            with self.stage("evaluation"):
                metrics = on_first(self._evaluate)
            self.run.log_evaluation(metrics, self.evaluator.description())
            ranking = self.run.ranking_metric = self.evaluator.ranking_metric(metrics)
            better = ranking is not None and state.note_best(metrics[ranking])
            line = {"step": state.step, "epoch": state.epoch, **metrics}
            self.run.notify(self.callbacks, lambda callback: callback.evaluated(self.run, line))
        state.evaluation_due = False
        state.stopped = on_first(lambda: state.stopped)
        if better or self._is_over or state.epoch % self.settings.checkpoint_every == 0:
            self._save()
        if self.interrupted() and not self._is_over:
            raise Interrupted("interrupted")

    def _evaluate(self) -> Metrics:
        with self._stopping.after("this evaluation", breaks=True):
            return self.evaluator.during(self.method)

    def tick(self) -> None:
        """Add the run's costs since the last tick; they survive a resume."""
        before, self._clock = self._clock, time.perf_counter()
        self.state.count(self._clock - before, peak_memory_mib(self.accelerator.device))

    def _save(self) -> None:
        """Write a checkpoint, never of non-finite weights: no run could recover from it."""
        with self._stopping.after("this checkpoint"):
            self.health.check_weights(self.method, self.state.step)
            check_equal(dict(self.method.named_children()))
            self.tick()
            content = self.state_dict()
            on_first(lambda: self.checkpoints.save(self.state.step, content, self.state.best_step))
            self._stopping.note_save()

    def state_dict(self) -> dict[str, Any]:
        """Everything that must survive: plain values and tensors, of unwrapped modules."""
        scaler = self.accelerator.scaler
        return {
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "unreadable": union(self.loader.unreadable),
            "skipped": self.health.skipped,
            **self._position.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was taken, or before the early end of a shorter run."""
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self._position.load_state_dict(state, self.steps)
        self._stopping.note_save()
        self.loader.unreadable.update(state["unreadable"])
        self.health.skipped = state.get("skipped", [])
