"""The module that runs every method: a composition of parts, never one class per method.

``encode`` -> ``keys`` -> ``loss``, which compares and adds up the losses. ``forward`` composes them, so that
autocast and gradient synchronisation cover all of it. ``before_step``, ``after_batch`` and ``after_step``
call the parts at each step.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from contrastive.comparison import Comparison
from contrastive.parts import Backbone, Head, Loss, Negatives, StepPart, Target
from contrastive.training.frozen_modules import FrozenModules, bind_target, frozen_modules
from contrastive.training.stages import Stages
from contrastive.values import Progress


@dataclass(frozen=True)
class Encoding:
    """What the online encoder computes from its views: view -> embedding z [b, D] and prediction p [b, D]."""

    z: dict[int, Tensor]
    p: dict[int, Tensor]


class Output(NamedTuple):
    """The loss of a batch, a scalar of at least float32, and its comparison."""

    loss: Tensor
    comparison: Comparison


class Method(nn.Module):
    """Backbone, head, predictor, target, negatives and losses, composed.

    Args:
        backbone: pixels -> h.
        head: h -> z.
        predictor: z -> p; None if p is z.
        target: encodes the keys.
        negatives: sources of candidates; they add up.
        losses: (weight, loss); they add up.
        online_views, target_views: which views each side sees.
        joint: whether views of one size pass as one batch, so that batch norm sees them together;
            otherwise one forward pass per view.

    Attributes:
        frozen_modules: the modules that :meth:`freeze_modules` has set to evaluation mode.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        predictor: Head | None,
        target: Target,
        negatives: Sequence[Negatives],
        losses: Sequence[tuple[float, Loss]],
        online_views: Sequence[int] = (0, 1),
        target_views: Sequence[int] = (0, 1),
        joint: bool = True,
    ):
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.target = target
        self.predictor = predictor
        self.negatives = nn.ModuleList(negatives)
        self.losses = nn.ModuleList(loss for _, loss in losses)
        self.weights = [weight for weight, _ in losses]
        self.normalised = losses[0][1].normalised
        self.online_views = tuple(online_views)
        self.target_views = tuple(target_views)
        self.joint = joint
        self.pairs = [(o, t) for o in self.online_views for t in self.target_views if o != t]
        self.offers = [
            (o, t)
            for o in self.online_views
            for t in self.target_views
            if any(source.offers(o, t) for source in negatives)
        ]
        self.stages = Stages()
        self._copies = bind_target(target, backbone, head)
        self.frozen_modules = FrozenModules()

    def stage(self, name: str) -> AbstractContextManager[None]:
        """A stage of a step, for the profiler (:mod:`contrastive.training.stages`)."""
        return self.stages.stage(name)

    @property
    def encoders(self) -> list[nn.Module | None]:
        """What a forward pass runs before the comparison."""
        return [self.backbone, self.head, self.predictor, self.target]

    # -- the forward pass -----------------------------------------------------------------------------

    def embed(self, pixels: Tensor) -> Tensor:
        """The online embedding before the predictor: [b, C, h, w] -> z [b, D]."""
        return self.head(self.backbone(pixels))

    def encode(self, views: Mapping[int, Tensor]) -> Encoding:
        """z and p of the online views."""
        z: dict[int, Tensor] = {}
        p: dict[int, Tensor] = {}
        with self.stage("forward"):
            for group in self._batches(views):
                z_all = self.embed(torch.cat([views[view] for view in group]))  # [views b, D]
                embeddings = z_all.chunk(len(group))
                # Without a predictor p and z are the same tensors, so that the comparison prepares them once.
                predictions = embeddings
                if self.predictor is not None:
                    predictions = self.predictor(z_all).chunk(len(group))
                z |= zip(group, embeddings, strict=True)
                p |= zip(group, predictions, strict=True)
        self.stages.turn_at_gradient(p.values(), "backward")
        return Encoding(z, p)

    def _batches(self, views: Mapping[int, Tensor]) -> list[list[int]]:
        """The online views that pass the encoder together: those of one size, or each alone."""
        together: dict[object, list[int]] = {}
        for view in self.online_views:
            together.setdefault(views[view].shape if self.joint else view, []).append(view)
        return list(together.values())

    def keys(self, views: Mapping[int, Tensor], encoding: Encoding) -> dict[int, Tensor]:
        """Keys of the target views: view -> [b, D]."""
        with self.stage("forward"):
            return self.target({v: views[v] for v in self.target_views}, encoding.z, self.embed)

    def compare(
        self,
        encoding: Encoding,
        keys: dict[int, Tensor],
        ids: Tensor,
        labels: Tensor | None,
        progress: Progress,
    ) -> Comparison:
        """The comparison that the losses see; it gathers, normalises and masks for them."""
        queries = {view: encoding.p[view] for view in self.online_views}
        candidates = self.target.substitute(keys)
        same = candidates.keys() == queries.keys() and all(candidates[v] is queries[v] for v in candidates)
        memories = (source.memory() for source in self.sources)
        return Comparison.of(
            queries,
            None if same else candidates,
            labels,
            images=ids,
            pairs=self.pairs,
            offers=self.offers,
            memories=[memory for memory in memories if memory is not None],
            normalise=self.normalised,
            progress=progress,
            across_processes=True,
            target_keys=keys,
        )

    def loss(
        self,
        encoding: Encoding,
        keys: dict[int, Tensor],
        ids: Tensor,
        labels: Tensor | None,
        progress: Progress,
    ) -> Output:
        """The weighted sum of the losses on embeddings of a whole batch, outside autocast."""
        with self.stage("loss"), torch.autocast(ids.device.type, enabled=False):
            comparison = self.compare(encoding, keys, ids, labels, progress)
            values = [
                weight * part(comparison) for weight, part in zip(self.weights, self.losses, strict=True)
            ]
            return Output(torch.stack(values).sum(), comparison)

    def forward(
        self,
        views: Sequence[Tensor],
        ids: Tensor,
        labels: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Output:
        """The loss of a batch, and its comparison.

        Args:
            views: V tensors [b, C, h, w].
            ids: [b] int64, distinct.
            labels: [b] int64 (-1 unknown) if positives are by label.
            progress: of the run.
        """
        by_view = dict(enumerate(views))
        encoding = self.encode(by_view)
        return self.loss(encoding, self.keys(by_view, encoding), ids, labels, progress or Progress())

    # -- frozen modules -------------------------------------------------------------------------------

    def freeze_modules(self, parameters: Collection[nn.Parameter]) -> None:
        """From the next :meth:`train` on, modules that ``parameters`` make up wholly are in evaluation mode.

        So are their copies in the target. A copy follows its original, not its own parameters.
        """
        copies = [self.get_submodule(name) for names in self._copies.values() for name in names]
        copied_parameters = {id(parameter) for module in copies for parameter in module.parameters()}
        self.frozen_modules = frozen_modules(self, [p for p in parameters if id(p) not in copied_parameters])

    def train(self, mode: bool = True) -> Method:
        """Training mode, except for frozen modules; or evaluation mode."""
        super().train(mode)
        for name in self._in_evaluation_mode:
            self.get_submodule(name).eval()
        return self

    @property
    def _in_evaluation_mode(self) -> list[str]:
        """Names of the outermost modules that every step runs in evaluation mode."""
        return [each for name in self.frozen_modules.whole for each in (name, *self._copies.get(name, ()))]

    def modules_in_training_mode(self) -> Iterator[nn.Module]:
        """The modules that a step runs in training mode."""
        outermost = tuple(f"{name}." for name in self._in_evaluation_mode)
        yield from (m for name, m in self.named_modules() if not f"{name}.".startswith(outermost))

    # -- what parts do at each step -------------------------------------------------------------------

    @property
    def sources(self) -> list[Negatives]:
        """The sources of negatives."""
        return list(self.negatives)  # type: ignore[arg-type] # a ModuleList holds Modules

    @property
    def loss_parts(self) -> list[Loss]:
        """The losses, without their weights."""
        return list(self.losses)  # type: ignore[arg-type]

    @property
    def parts(self) -> list[StepPart]:
        """Every part, in the order in which the parts are called at each step."""
        single = [self.backbone, self.head, self.predictor, self.target]
        several = [*self.negatives, *self.losses]
        return [part for part in (*single, *several) if part is not None]

    @torch.no_grad()
    def before_step(self, progress: Progress) -> None:
        """Called with the gradients computed, before the optimizer takes its step."""
        for part in self.parts:
            part.before_step(progress)

    @torch.no_grad()
    def after_batch(self, comparison: Comparison) -> None:
        """Called once per micro-batch, after its step was taken."""
        for part in self.parts:
            part.after_batch(comparison)

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Called after an optimizer step was taken."""
        for part in self.parts:
            part.after_step(progress)
