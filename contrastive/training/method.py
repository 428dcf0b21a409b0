"""The module that runs every method: a backbone and a list of objectives, never one class per method.

``encode`` -> ``keys`` -> ``loss``, which compares and adds up the losses. ``forward`` composes them, so that
autocast and gradient synchronisation cover all of it. ``before_step``, ``after_batch`` and ``after_step``
call the parts at each step.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn

from contrastive.comparison import Comparison
from contrastive.parts import Backbone, Head, Hiding, Loss, Negatives, Request, StepPart, Target
from contrastive.training.frozen_modules import FrozenModules, frozen_modules, join_target
from contrastive.training.objective import Encoding, Objective, Sides
from contrastive.training.stages import Stages
from contrastive.values import Progress
from contrastive.views import Tokens, View

#: A view, and how its masked patches are hidden from the encoder.
Pass = tuple[int, Hiding | None]


#: The comparison of every objective, in the recipe's order.
Comparisons = Sequence[Comparison]


class Output(NamedTuple):
    """The loss of a batch, a scalar of at least float32; the comparison of each objective, and its loss."""

    loss: Tensor
    comparisons: tuple[Comparison, ...]
    losses: tuple[Tensor, ...]  # scalars, before the objectives' weights

    @property
    def comparison(self) -> Comparison:
        """That of the first objective."""
        return self.comparisons[0]

    @property
    def values(self) -> Tensor:
        """The loss, and those of several objectives: [1] or [1 + objectives]."""
        losses = self.losses if len(self.losses) > 1 else ()
        return torch.stack([self.loss, *losses])

    def detach(self) -> Output:
        """The same without gradients of the losses."""
        return Output(self.loss.detach(), self.comparisons, tuple(value.detach() for value in self.losses))


class Keys(NamedTuple):
    """Of one objective: target view -> its keys, and tokens [b, N, G] if matches are found by them.

    ``guides`` are what the guides of its negatives answer: request -> view -> vectors.
    """

    keys: dict[int, Tensor]
    tokens: dict[int, Tensor]
    guides: dict[str, dict[int, Tensor]]


class Method(nn.Module):
    """A backbone and objectives: what a recipe trains.

    A method with one objective without a name is made of its parts; :meth:`of` composes several. Parts that
    are one objective's own are registered as ``objectives.<name>.<part>``, common ones and those of an
    objective without a name as ``<part>``.

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
        grids: view -> rows and columns of patches, of the views whose marks are read.
        unused_parameters: names of parameters that are frozen because no objective reaches them.
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
        views = (tuple(online_views), tuple(target_views))
        self._compose(backbone, [Objective(head, predictor, target, negatives, losses, *views)], {}, joint)

    @classmethod
    def of(
        cls, backbone: Backbone, objectives: Sequence[Objective], common: Mapping[str, StepPart], joint: bool
    ) -> Method:
        """A method of objectives with different names.

        Args:
            backbone: pixels -> h, or tokens.
            objectives: in the recipe's order.
            common: ``head`` and ``target`` of the top level, if they are there; objectives that name none of
                their own have them.
            joint: as for one objective.
        """
        method = cls.__new__(cls)
        nn.Module.__init__(method)
        method._compose(backbone, objectives, common, joint)
        return method

    def _compose(
        self, backbone: Backbone, objectives: Sequence[Objective], common: Mapping[str, StepPart], joint: bool
    ) -> None:
        self.backbone = backbone
        self._objectives = tuple(objectives)
        self._common = dict(common)
        self.joint, self.evaluates_target = joint, False
        self._register()
        self.stages = Stages()
        if any(objective.hide == "replace" for objective in objectives):
            backbone.allow_replacing()
        self.grids: dict[int, tuple[int, int]] = {}
        self.unused_parameters: tuple[str, ...] = ()
        self._copies = self._join_targets()
        self.frozen_modules = FrozenModules()

    def _register(self) -> None:
        """Register every part of the objectives as a module, once."""
        self._modules.update(self._common)
        common_ids = {id(part) for part in self._common.values()}
        own = nn.Module()
        for objective in self.objectives:
            place = own._modules.setdefault(objective.name, nn.Module()) if objective.name else self
            assert place is not None
            single = objective.single_parts
            for key in ("head", "target", "predictor"):  # the order of an optimizer's state in checkpoints
                if key in single and id(single[key]) not in common_ids:
                    place._modules[key] = single[key]
            place._modules["negatives"] = nn.ModuleList(objective.negatives)
            place._modules["losses"] = nn.ModuleList(objective.loss_parts)
        if own._modules:
            self._modules["objectives"] = own

    def _join_targets(self) -> dict[str, list[str]]:
        """Join every target with the backbone and the heads that it serves."""
        copies: dict[str, list[str]] = {}
        for target in self.targets:
            heads = {name: head for each in self._served_by(target) for name, head in each.heads.items()}
            for name, of in join_target(self, self.backbone, target, heads).items():
                copies.setdefault(name, []).extend(of)
        return copies

    def stage(self, name: str) -> AbstractContextManager[None]:
        """A stage of a step, for the profiler (:mod:`contrastive.training.stages`)."""
        return self.stages.stage(name)

    @property
    def names_objectives(self) -> bool:
        """Whether its objectives have names, so that stages and metrics are told apart by them."""
        return bool(self._first.name)

    def _forward_stage(self, name: str) -> AbstractContextManager[None]:
        """The stage ``name`` of a forward pass; all of the pass is one if objectives have no names."""
        return self.stage(name if self.names_objectives else "forward")

    def _own_stage(self, objective: Objective, name: str) -> AbstractContextManager[None]:
        """A stage of one objective, within one of all; without a name it has none of its own."""
        return self.stage(f"{objective.name}/{name}") if objective.name else nullcontext()

    # -- its parts ------------------------------------------------------------------------------------

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What it minimises, in the recipe's order."""
        return self._objectives

    @property
    def _first(self) -> Objective:
        return self.objectives[0]

    @property
    def head(self) -> Head:
        """The first objective's, as are the parts, views and pairs that follow."""
        return self._first.head

    @property
    def image_objective(self) -> Objective | None:
        """The first objective at level image, whose z evaluation reads; None if all compare patches."""
        return next((each for each in self.objectives if each.level == "image"), None)

    @property
    def image_head(self) -> Head | None:
        """What makes that z, of h or, if it pools them, of tokens; None if there is no such z."""
        return None if self.image_objective is None else self.image_objective.head

    @property
    def predictor(self) -> Head | None:
        return self._first.predictor

    @property
    def target(self) -> Target:
        return self._first.target

    @property
    def negatives(self) -> list[Negatives]:
        return list(self._first.negatives)

    @property
    def losses(self) -> list[Loss]:
        return self._first.loss_parts

    @property
    def online_views(self) -> tuple[int, ...]:
        return self._first.online_views

    @property
    def target_views(self) -> tuple[int, ...]:
        return self._first.target_views

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return self._first.pairs

    @property
    def offers(self) -> list[tuple[int, int]]:
        return self._first.offers

    @property
    def parts(self) -> list[StepPart]:
        """Every part, in the order in which the parts are called at each step."""
        parts = [self.backbone, *(part for objective in self.objectives for part in objective.parts)]
        return list({id(part): part for part in parts}.values())

    def named_parts(self, kind: str | None = None) -> dict[str, StepPart]:
        """Path of every part in a recipe -> the part: ``head``, ``objectives.dense.head``, ``loss.0``.

        Args:
            kind: leaves out the parts of other kinds.
        """
        paths: dict[str, StepPart] = {"backbone": self.backbone}
        common_ids = {id(part) for part in self._common.values()}
        for objective in self.objectives:
            prefix = f"objectives.{objective.name}." if objective.name else ""
            for key, part in objective.single_parts.items():
                paths[key if id(part) in common_ids else prefix + key] = part
            for key, parts in (("negatives", objective.negatives), ("loss", objective.loss_parts)):
                paths |= {f"{prefix}{key}.{number}": part for number, part in enumerate(parts)}
        return {path: part for path, part in paths.items() if kind in (None, part.kind)}

    @property
    def encoders(self) -> list[StepPart]:
        """What a forward pass runs before the comparison."""
        parts = [self.backbone, *(p for each in self.objectives for p in each.single_parts.values())]
        return list({id(part): part for part in parts}.values())

    @property
    def targets(self) -> list[Target]:
        """The targets of all objectives and the guides of their negatives, each once."""
        targets = [target for objective in self.objectives for target in objective.targets]
        return list({id(target): target for target in targets}.values())

    def _served_by(self, target: Target) -> list[Objective]:
        return [objective for objective in self.objectives if objective.target is target]

    # -- the forward pass -----------------------------------------------------------------------------

    def embed(self, pixels: Tensor) -> Tensor:
        """z of :attr:`image_objective`, before the predictor: [b, C, h, w] -> [b, D]."""
        assert self.image_objective is not None
        return self.image_objective.encode(self.backbone, pixels)

    def encode(self, views: Mapping[int, View]) -> list[Encoding]:
        """What the online encoder makes of the views of each objective."""
        encodings: list[Encoding] = [{} for _ in self.objectives]
        with self._forward_stage("encoder"):
            for passes in self.passes(views):
                users = [self._users(objective, passes, views) for objective in self.objectives]
                output = self._output(passes, views, users)
                for objective, members, encoding in zip(self.objectives, users, encodings, strict=True):
                    if members:
                        own_views = [passes[index][0] for index in members]
                        own = _some(output, members, len(passes))
                        with self._own_stage(objective, "head"):
                            online = objective.embed(own, [views[view] for view in own_views])
                        encoding |= zip(own_views, online.chunk(len(own_views)), strict=True)
        queries = [online.p for encoding in encodings for online in encoding.values()]
        self.stages.turn_at_gradient(queries, "backward")
        return encodings

    def passes(self, views: Mapping[int, View]) -> list[list[Pass]]:
        """The online passes, each (view, how it hides); those of a list pass the encoder together."""
        together: dict[object, list[Pass]] = {}
        for objective in self.objectives:
            for number in objective.online_views:
                view = views[number]
                own = (number, objective.hides(view))
                visible = (
                    view.marks.visible.shape[1] if own[1] == "drop" and view.marks.visible is not None else 0
                )
                members = together.setdefault((view.data.shape, own[1], visible) if self.joint else own, [])
                if own not in members:
                    members.append(own)
        return list(together.values())

    @staticmethod
    def _users(objective: Objective, passes: Sequence[Pass], views: Mapping[int, View]) -> list[int]:
        """Which of some passes an objective uses."""
        return [
            index
            for index, (view, hide) in enumerate(passes)
            if view in objective.online_views and objective.hides(views[view]) == hide
        ]

    def _output(
        self, passes: Sequence[Pass], views: Mapping[int, View], users: Sequence[Sequence[int]]
    ) -> Tensor | Tokens:
        """What the backbone makes of passes: h if all of their users read no more of it, or tokens."""
        some = [views[view] for view, _ in passes]
        pixels = torch.cat([view.data for view in some])
        hide = passes[0][1]
        reads_tokens = any(
            objective.reads_tokens for objective, own in zip(self.objectives, users, strict=True) if own
        )
        if not reads_tokens:
            return self.backbone(pixels)
        keep = [view.marks.visible for view in some if hide == "drop" and view.marks.visible is not None]
        hidden = [view.marks.mask for view in some if hide == "replace" and view.marks.mask is not None]
        return self.backbone.tokens(
            View(pixels, field=some[0].field),
            torch.cat(keep) if keep else None,
            torch.cat(hidden) if hidden else None,
        )

    def keys(self, views: Mapping[int, View], encodings: Sequence[Encoding]) -> list[Keys]:
        """The keys of each objective's target views, and its encodings of them to find matches by."""
        answers: dict[str, dict[int, Tensor]] = {}
        with self._forward_stage("target"):
            for target in self.targets:
                requests: dict[str, Request] = {}
                for objective, encoding in zip(self.objectives, encodings, strict=True):
                    if objective.target is target:
                        requests |= objective.requests(self.backbone, views, encoding)
                    requests |= objective.guide_requests(target, self.backbone, views, encoding)
                answers |= target.give(requests)
        return [
            Keys(
                answers[each.name],
                answers.get(each.tokens_name, {}),
                {name: answers[name] for name in each.guides},
            )
            for each in self.objectives
        ]

    def sides(
        self, views: Mapping[int, View], encodings: Sequence[Encoding], keys: Sequence[Keys]
    ) -> list[Sides]:
        """What each objective compares."""
        return [
            objective.sides(views, encoding, *own)
            for objective, encoding, own in zip(self.objectives, encodings, keys, strict=True)
        ]

    def loss(
        self,
        sides: Sequence[Sides],
        ids: Tensor,
        labels: Tensor | None,
        progress: Progress,
    ) -> Output:
        """The weighted sum of the objectives on embeddings of a whole batch, outside autocast."""
        comparisons: list[Comparison] = []
        values: list[Tensor] = []
        with self.stage("loss"), torch.autocast(ids.device.type, enabled=False):
            for objective, own in zip(self.objectives, sides, strict=True):
                with self._own_stage(objective, "loss"):
                    comparisons.append(objective.compare(own, ids, labels, progress))
            for objective, comparison in zip(self.objectives, comparisons, strict=True):
                with self._own_stage(objective, "loss"):
                    values.append(objective.value(comparison))
            terms = (each.weight * value for each, value in zip(self.objectives, values, strict=True))
            return Output(reduce(operator.add, terms), tuple(comparisons), tuple(values))

    def forward(
        self,
        views: Sequence[View | Tensor],
        ids: Tensor,
        labels: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Output:
        """The loss of a batch, and its comparisons.

        Args:
            views: V views, or their pixels [b, C, h, w].
            ids: [b] int64, distinct.
            labels: [b] int64 (-1 unknown) if positives are by label.
            progress: of the run.
        """
        by_view = by_number(views)
        encodings = self.encode(by_view)
        sides = self.sides(by_view, encodings, self.keys(by_view, encodings))
        return self.loss(sides, ids, labels, progress or Progress())

    # -- frozen modules -------------------------------------------------------------------------------

    def freeze_modules(self, parameters: Collection[nn.Parameter]) -> None:
        """From the next :meth:`train` on, modules that ``parameters`` make up wholly are in evaluation mode.

        So are their copies in the target. A copy follows its original, not its own parameters.
        """
        modules = dict(self.named_modules())
        copies = [modules[name] for names in self._copies.values() for name in names]
        copied_parameters = {id(parameter) for module in copies for parameter in module.parameters()}
        self.frozen_modules = frozen_modules(self, [p for p in parameters if id(p) not in copied_parameters])

    def train(self, mode: bool = True) -> Method:
        """Training mode, except for frozen modules; or evaluation mode."""
        super().train(mode)
        modules = dict(self.named_modules()) if self._in_evaluation_mode else {}
        for name in self._in_evaluation_mode:
            modules[name].eval()
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

    @torch.no_grad()
    def before_step(self, progress: Progress) -> None:
        """Called with the gradients computed, before the optimizer takes its step."""
        for part in self.parts:
            part.before_step(progress)

    @torch.no_grad()
    def after_batch(self, *comparisons: Comparison) -> None:
        """Called once per micro-batch, after its step was taken, with the comparison of every objective.

        A common part hears of each.
        """
        for objective, comparison in zip(self.objectives, comparisons, strict=True):
            for part in (self.backbone, *objective.parts):
                part.after_batch(comparison)

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Called after an optimizer step was taken."""
        for part in self.parts:
            part.after_step(progress)


def by_number(views: Sequence[View | Tensor]) -> dict[int, View]:
    """Number of a view -> the view."""
    return {number: View(x) if isinstance(x, Tensor) else x for number, x in enumerate(views)}


def _some(output: Tensor | Tokens, members: Sequence[int], count: int) -> Tensor | Tokens:
    """What some of ``count`` views that passed together got."""
    if len(members) == count:
        return output
    if isinstance(output, Tensor):
        chunks = output.chunk(count)
        return torch.cat([chunks[index] for index in members])
    parts = output.chunk(count)
    return Tokens.cat([parts[index] for index in members])
