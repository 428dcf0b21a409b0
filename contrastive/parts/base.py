"""The base class of each kind of part: what a plugin author derives from.

A part's recipe parameters are the typed keyword arguments of its ``__init__`` (annotations and
defaults are all there is; no config class). A parameter annotated with one of these base classes
takes a part. Parameters marked :class:`contrastive.kinds.Injected` come from the builder.
The first line of the class docstring is what ``contrastive list`` prints; an ``Args:`` section is
what ``contrastive show`` prints beside each parameter.
"""

from __future__ import annotations

import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from contrastive.values import Feature, Features, Memory, Progress

if TYPE_CHECKING:
    from contrastive.augmentations.pipeline import Pipeline
    from contrastive.comparison import Comparison
    from contrastive.evaluation.trial import Trial

Split = Literal["train", "test"]

#: From the size (H, W) of an image to the largest factor by which its sides may be divided.
Reduction = Callable[[tuple[int, int]], int]


class Reduced(NamedTuple):
    """An image decoded at a fraction of its sides.

    Attributes:
        pixels: uint8 [C, ceil(H / f), ceil(W / f)]; the first pixel begins where the whole image does.
        size: (H, W) of the whole image.
        factor: f.
    """

    pixels: Tensor
    size: tuple[int, int]
    factor: int


#: What a part may declare that it needs of the composition -> what a recipe lacks that does not give it.
NEEDS: dict[str, str] = {
    "negatives": "collapses without negatives, and none are offered; say negatives: in_batch",
    "labels": "needs labels; say positives: label",
    "predictor": "collapses without a predictor; say for example predictor: {name: mlp}",
    "detached_keys": "collapses where gradients reach the keys; say target: ema, or target: stop_grad",
    "single_positive": "needs exactly one positive a row; say positives: image, and pair each query with "
    "one view",
    "validation": "reads validation figures, and there are none; it needs labels, evaluate.every above 0 "
    "and a protocol with at: every, such as evaluate: {every: 1, knn: {}}",
    "processes": "trains in several processes only; run with --processes 2, or more",
}


class Part:
    """What every part has.

    Attributes:
        kind: the kind of part.
        needs: what the composition must give, keys of :data:`NEEDS`; a recipe that does not is refused.
    """

    kind: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def example(cls, folder: Path) -> dict[str, Any]:
        """Recipe parameters with which the conformance kit builds the part, where defaults do not suffice.

        ``folder`` is empty, and may take what they name (a data set's images, for example).
        """
        return {}


class StepPart(Part, nn.Module):
    """A part that is a torch module, and what it may do at each step.

    State belongs into buffers and parameters, so that it is in ``state_dict``. All three methods run
    without gradients, on every process; ``progress`` is the same in all of a step.
    """

    def before_step(self, progress: Progress) -> None:
        """Called when the gradients are there, before the optimizer takes its step."""

    def after_batch(self, comparison: Comparison) -> None:
        """Called once a micro-batch, after the step it was part of was really taken (queues, centres)."""

    def after_step(self, progress: Progress) -> None:
        """Called once an optimizer step that was really taken (moving averages)."""


class ImageTable(ABC):
    """The images of one split: a table of rows, each with an id, perhaps a label, and pixels.

    Attributes:
        ids: int64 [n], unique and kept for ever: the row of a table, or 63 bits of a hash of the
            relative path in a folder. Every random draw of an image depends on it.
        labels: int64 [n] (-1 unknown) or None.
        channels: 1 or 3; ``decode`` always returns that many.
        size: (H, W) where every image has one size, else None.
        skipped: names of files that are not images, for the user to see once.
    """

    ids: np.ndarray
    labels: np.ndarray | None = None
    channels: int = 3
    size: tuple[int, int] | None = None
    skipped: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def decode(self, index: int) -> Tensor:
        """Pixels of row ``index``: uint8 [C, H, W]. Raises UnreadableImage."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What the user knows row ``index`` by: a relative path, ``train.parquet row 17``."""

    def stamp(self) -> str:
        """What tells, beside the data set's fingerprint, that its files have changed: here times may count.
        Pixels kept on disk are decoded anew where it differs."""
        return ""

    def decode_reduced(self, index: int, reduction: Reduction) -> Reduced:
        """Pixels of row ``index``, perhaps at a fraction of their sides where that saves time. Asked for
        where images are large or differ in size. Raises UnreadableImage.

        Args:
            reduction: from (H, W) to the largest factor f by which both sides may be divided, 1 or more.

        Returns:
            The pixels at any f that is not larger, always the same for the same row and largest factor;
            by default those of ``decode``, where f is 1.
        """
        pixels = self.decode(index)
        return Reduced(pixels, (pixels.shape[1], pixels.shape[2]), 1)


class Dataset(Part, ABC):
    """Where images, ids and labels come from.

    ``__init__`` only keeps its parameters; nothing is opened before ``table`` or ``fingerprint``.
    """

    kind = "dataset"

    @abstractmethod
    def table(self, split: Split) -> ImageTable | None:
        """The images of a split, or None where the data set has no such split.

        Reads names, labels and sizes but decodes no image. Raises DataError, with the place and
        the remedy, where the data is absent, empty or not what it should be.
        """

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes by label, where they are known."""
        return None

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the data: of tables their bytes, of folders sorted relative paths with
        sizes; never times."""


class Augmentation(Part, ABC):
    """The views of an image: pipelines of operations, one a view."""

    kind = "augmentation"

    @abstractmethod
    def pipelines(self) -> list[Pipeline]:
        """One pipeline a view (two for most methods)."""

    def __call__(
        self, images: Tensor, ids: np.ndarray | Tensor, seed: int = 0, epoch: int = 0
    ) -> list[Tensor]:
        """Every view of a batch, for anyone's own loop.

        Args:
            images: uint8 [b, C, H, W].
            ids: int64 [b]; together with ``seed`` and ``epoch`` all that the draws depend on.

        Returns:
            float32 [b, C, h, w] in [0, 1], one a view.
        """
        from contrastive.rng import Key

        return [
            pipeline(images, ids, Key(seed, epoch, view)) for view, pipeline in enumerate(self.pipelines())
        ]


class Backbone(StepPart):
    """Pixels -> features h. ``features`` is F; ``forward``: float [b, C, h, w] in [0, 1] -> [b, F]."""

    kind = "backbone"
    features: int

    def export(self, folder: str) -> None:
        """Write this backbone so that timm loads it; raises UsageError where timm cannot."""
        from contrastive.errors import UsageError

        raise UsageError(f"{type(self).__name__} has no timm export; use a timm backbone to export one.")


class Head(StepPart):
    """Features h -> embedding z; as predictor, z -> p. ``out_features`` is D."""

    kind = "head"
    out_features: int


class Target(StepPart):
    """Who encodes the keys.

    Attributes:
        detached: whether its keys carry no gradient.
        encodes: whether it runs every view it is asked for through an encoder of its own, rather than
            taking the online embeddings.
    """

    kind = "target"
    detached: bool = False
    encodes: bool = False

    def bind(self, encoder: nn.Module) -> None:
        """Called once, before training, with the online encoder: pixels [b, C, h, w] -> z [b, D].

        A target that copies it registers the copy; one that refers to it later must keep it out of its own
        ``state_dict`` (in a list, for example). Raises UsageError where the target cannot work.
        """

    @abstractmethod
    def forward(
        self,
        views: Mapping[int, Tensor],
        online: Mapping[int, Tensor],
        encode: Callable[[Tensor], Tensor],
    ) -> dict[int, Tensor]:
        """Keys of the target's views; with ``train.chunk_size`` of one chunk of the batch after another.

        Args:
            views: view -> pixels [b, C, h, w], the views the target is asked for.
            online: view -> z [b, D], embeddings the online encoder has already made (before the
                predictor).
            encode: the online encoder, for a view it has not seen: pixels -> z.

        Returns:
            view -> keys [b, D].
        """


class TargetWrapper(Target):
    """A target that changes what goes into, or comes out of, another one.

    Derive, and write ``forward`` with ``self.of``; all else is the wrapped target's.
    """

    def __init__(self, of: Target):
        super().__init__()
        self.of = of
        self.detached, self.encodes = of.detached, of.encodes

    def bind(self, encoder: nn.Module) -> None:
        self.of.bind(encoder)

    def before_step(self, progress: Progress) -> None:
        self.of.before_step(progress)

    def after_batch(self, comparison: Comparison) -> None:
        self.of.after_batch(comparison)

    def after_step(self, progress: Progress) -> None:
        self.of.after_step(progress)


class Negatives(StepPart):
    """The candidates a query is told apart from; several sources add up."""

    kind = "negatives"

    def offers(self, query_view: int, key_view: int) -> bool:
        """Whether the other images' keys of ``key_view`` are candidates for queries of ``query_view``."""
        return False

    def memory(self) -> Memory | None:
        """Entries kept from earlier batches, read once a batch; the same on every process."""
        return None


class Loss(StepPart):
    """What is made small. Derive and write ``compare``; ``forward`` serves the engine and anyone's loop.

    Attributes:
        normalised: whether queries and keys are scaled to unit length before they are compared.
    """

    kind = "loss"
    normalised: bool = True

    @abstractmethod
    def compare(self, comparison: Comparison) -> Tensor:
        """The loss of each row [R], whose mean is taken over the rows of all processes, or a scalar.

        A scalar is computed on keys of all processes (``comparison.views()``), so that every process has
        the same; it is never scaled by their number. At least float32; float64 stays float64.
        """

    def forward(self, *queries: Tensor | Comparison) -> Tensor:
        """The mean loss, a scalar of at least float32.

        ``loss(z_a, z_b)`` with z [N, D] (not normalised) is short for
        ``loss(Comparison.of([z_a, z_b]))``. Runs outside autocast.
        """
        from contrastive.comparison import Comparison

        with torch.autocast(_device_type(queries[0]), enabled=False):
            first = queries[0]
            comparison = (
                first
                if isinstance(first, Comparison)
                else Comparison.of(cast("list[Tensor]", list(queries)), normalise=self.normalised)
            )
            return self.compare(comparison).mean().to(comparison.dtype)


class Optimizer(Part, ABC):
    """Update rule, parameter groups and schedule."""

    kind = "optimizer"

    @abstractmethod
    def build(self, model: nn.Module, batch_size: int) -> torch.optim.Optimizer:
        """The torch optimizer over the trainable parameters of ``model``.

        ``batch_size`` counts the images of an optimizer step (batch_size x accumulate). Every
        group carries ``peak_lr``, which :meth:`factor` scales.
        """

    @abstractmethod
    def factor(self, group: Mapping[str, Any], step: int, steps: int, steps_per_epoch: int) -> float:
        """What the peak learning rate of ``group`` is multiplied with at the 0-based optimizer step."""


class RunState(typing.Protocol):
    """What a callback may read of a run, and ask of it.

    Attributes:
        name, folder: what the run is called and where it lives.
        step, steps: optimizer steps taken, and to take; within ``step_done`` the step that it tells of.
        epoch, epochs: epochs done, and to do; within ``step_done`` the 1-based epoch of its step.
        steps_per_epoch: optimizer steps of an epoch.
        method: the composed method: ``backbone``, ``head``, ``predictor``, ``target``, ``losses`` ...
        param_groups: of the torch optimizer, with ``lr``, ``peak_lr`` and ``params``.
        comparison: what the losses compared in the step that ``step_done`` last told of (its last
            micro-batch), or None before the first step since the run was started or resumed. Its memories
            may have taken in its keys by then.
    """

    name: str
    folder: Path
    steps: int
    epochs: int
    steps_per_epoch: int
    method: Any

    @property
    def step(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def param_groups(self) -> list[dict[str, Any]]: ...
    @property
    def comparison(self) -> Comparison | None: ...
    def log(self, figures: Mapping[str, float]) -> None:
        """Write figures of the callback's own as a line of metrics.jsonl, and to the trackers."""

    def warn(self, message: str) -> None:
        """Tell the user, above the live display."""

    def stop(self, reason: str) -> None:
        """End the run after this epoch, with all its final evaluation; ``reason`` goes into summary.json."""


class Listener(typing.Protocol):
    """What the engine calls: the shape of a callback, which a display that is no part may have too."""

    def run_started(self, run: Any) -> None: ...
    def step_done(self, run: Any, metrics: Mapping[str, float]) -> None: ...
    def epoch_done(self, run: Any, epoch: int) -> None: ...
    def evaluated(self, run: Any, metrics: Mapping[str, float]) -> None: ...
    def run_ended(self, run: Any) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Callback(Part):
    """Acts during a run. Every method may be left out; state goes through ``state_dict``.

    Nothing a callback does may change the weights of a run other than by :meth:`RunState.stop`.

    Attributes:
        reads: figures of evaluations that it acts on; a recipe that cannot give them is refused.
    """

    kind = "callback"
    reads: Sequence[str] = ()

    def run_started(self, run: RunState) -> None:
        """Called once, before the first step (again after a resume, with its state loaded)."""

    def step_done(self, run: RunState, metrics: Mapping[str, float]) -> None:
        """Called after an optimizer step, one step late, with what metrics.jsonl holds of it."""

    def epoch_done(self, run: RunState, epoch: int) -> None:
        """Called after the last step of the 1-based ``epoch``, before its evaluation if there is one."""

    def evaluated(self, run: RunState, metrics: Mapping[str, float]) -> None:
        """Called after an evaluation, with what metrics.jsonl holds of it."""

    def run_ended(self, run: RunState) -> None:
        """Called once when training and evaluation are over, or the run was interrupted or failed."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that must survive a resume, as plain values and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""


class Protocol(Part, ABC):
    """Evaluation of an encoder, by its frozen features.

    Attributes:
        version: raised whenever the figures this protocol gives for the same features change.
        at: when a recipe that only names the protocol runs it: at ``every`` evaluation, or the ``end``.
        feature: which features ``score`` is given; a parameter of a protocol that leaves the choice.
        tunes: whether it trains a copy of the encoder instead; then there are no figures of raw pixels.
    """

    kind = "protocol"
    version: ClassVar[int] = 1
    at: ClassVar[Literal["every", "end"]] = "end"
    feature: Feature = "h"
    tunes: ClassVar[bool] = False

    def evaluate(self, trial: Trial) -> dict[str, float]:
        """What evaluation asks: :meth:`score` of features, unless the protocol needs the encoder or images.

        ``trial.encoder`` stays as it is, or the run fails; what is trained is a ``copy.deepcopy`` of it.
        """
        return self.score(*trial.features(self.feature))

    @abstractmethod
    def score(self, fit: Features, validation: Features, test: Features | None = None) -> dict[str, float]:
        """Figures by name (``top1``: a fraction), each reported as ``<protocol>_<name>``.

        Hyper-parameters are chosen on ``validation`` alone. Without ``test`` the figures are those
        of ``validation`` against ``fit``; with it, those of ``test`` after a fit on ``fit`` and
        ``validation`` together, and ``test`` is read once.
        """


__all__ = [
    "NEEDS",
    "Augmentation",
    "Backbone",
    "Callback",
    "Dataset",
    "Head",
    "ImageTable",
    "Listener",
    "Loss",
    "Negatives",
    "Optimizer",
    "Part",
    "Progress",
    "Protocol",
    "RunState",
    "Split",
    "StepPart",
    "Target",
    "TargetWrapper",
]


def _device_type(value: Tensor | Comparison) -> str:
    return value.device.type
