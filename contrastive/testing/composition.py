"""A tiny method around one part, and training steps as the engine takes them.

It has no batch norm and computes in float64, so that results can be compared however a batch is split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from contrastive.distributed import rank, world_size
from contrastive.errors import UsageError
from contrastive.heads import NoHead
from contrastive.losses import NTXent
from contrastive.negatives import InBatch
from contrastive.parts import Backbone, Head, Level, Negatives, Target
from contrastive.recipe import PartSpec
from contrastive.targets import EMA, SharedEncoder, StopGrad
from contrastive.testing.materials import VIEWS, classes, entries, generator
from contrastive.testing.networks import TinyPatches
from contrastive.testing.patches import marks_of, takes_patches
from contrastive.testing.subjects import IMAGE_SIZE, IN_CHANNELS, IN_FEATURES, OFFERS, PATCH
from contrastive.testing.surroundings import fixed_seed
from contrastive.training import Method, Objective, Output
from contrastive.values import Memory, Progress
from contrastive.views import View

STEPS = 20  # in the whole schedule
IMAGES = 12  # per batch, over all processes
SIDE = 8  # pixels, if the backbone is one of the kit's
TINY_GRID = (SIDE // PATCH, SIDE // PATCH)  # of patches, if it is TinyPatches
_HIDDEN = 9  # patches of a view, if the method hides any


class TinyBackbone(Backbone):
    """Pixels through one layer, without batch norm."""

    features = IN_FEATURES

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(IN_CHANNELS * SIDE * SIDE, IN_FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        """[b, C, h, w] -> [b, F]."""
        return self.layer(x.flatten(1) - 0.5).tanh()


class TinyHead(Head):
    """One layer, as head and as predictor."""

    def __init__(self, out_features: int = IN_FEATURES) -> None:
        super().__init__()
        self.out_features = out_features
        self.layer = nn.Linear(IN_FEATURES, out_features)

    def forward(self, h: Tensor) -> Tensor:
        """[b, D] -> [b, D]."""
        return self.layer(h)


class EarlierKeys(Negatives):
    """Fixed entries, for losses that compare with those of a memory."""

    def memory(self) -> Memory:
        """Unit vectors; the last entry is not filled."""
        return entries(7)


def compose(spec: PartSpec, seed: int = 0, level: Level | None = None) -> Method:
    """A method with the part in it, and around the part what its ``needs`` declare.

    Without a ``level`` it compares images, or patches if the part works on patches only.
    """
    if level is not None:
        return compose_at(level, spec, seed)
    if spec.kind == "head" and (filling := _filling(spec, seed)) is not None:
        return filling
    if "patches" in spec.needs:
        return compose_at("patch", spec, seed)
    method = compose_at("image", spec, seed)
    if spec.kind == "target" and gives_patches(method):
        return compose_at("patch", spec, seed)
    return method


def levels(spec: PartSpec) -> tuple[Level | None, ...]:
    """The levels at which :func:`compose` shows the part: its own and, of losses that take them, patches."""
    if spec.kind != "loss" or "patches" in spec.needs:
        return (None,)
    with fixed_seed(0):
        loss = spec.build(**OFFERS)
    return (None, "patch") if takes_patches(loss) else (None,)


def compose_at(level: Level, spec: PartSpec, seed: int = 0) -> Method:
    """A method that compares images or patches, with the part in it."""
    with fixed_seed(seed):
        part = spec.build(**OFFERS)
        head: Head = TinyHead()
        pools = spec.kind == "head" and part.pools
        backbone: Backbone = TinyPatches() if level == "patch" or pools else TinyBackbone()
        if spec.kind == "head":
            head = part
        elif spec.kind == "backbone":
            backbone, head = part, NoHead(part.features)
        needs: frozenset[str] = part.needs
        apart = spec.kind in ("target", "negatives") or "predictor" in needs
        fixed_width = part.width(level) if spec.kind == "target" and part.fixed else None
        objective = Objective(
            head=head,
            predictor=TinyHead(fixed_width or IN_FEATURES) if apart else None,
            target=_target(spec.kind, part, needs),
            negatives=[InBatch(), *_more_negatives(spec.kind, part)],
            losses=[(1.0, part if spec.kind == "loss" else NTXent())],
            level=level,
        )
        method = Method.of(backbone, [objective], {}, joint=False)
    return method if spec.kind in ("backbone", "head") else method.double()


def _filling(spec: PartSpec, seed: int) -> Method | None:
    """A method that predicts hidden patches with the part, if it is a predictor that fills them in."""
    with fixed_seed(seed):
        part: Head = spec.build(**OFFERS)
        if not part.fills:
            return None
        objective = Objective(
            head=NoHead(IN_FEATURES),
            predictor=part,
            target=EMA(0.9),
            negatives=[InBatch()],
            losses=[(1.0, NTXent())],
            level="patch",
            same=True,
            hide="drop",
            rows="masked",
        )
        return Method.of(TinyPatches(), [objective], {}, joint=False)


@torch.no_grad()
def gives_patches(method: Method) -> bool:
    """Whether the keys of a method's target are of patches whatever is asked for, such as pixels."""
    if not method.target.fixed:
        return False
    views, _, _ = batch(method, 0)
    encode = method.embed
    try:
        keys = method.target(dict(enumerate(views)), {}, encode)
    except UsageError:
        return False
    return all(key.ndim == 3 for key in keys.values())


def _more_negatives(kind: str, part: Any) -> list[Negatives]:
    """What a composition offers besides the batch: the part, or a memory if the part needs one."""
    if kind == "negatives":
        return [part]
    return [EarlierKeys()] if "memories" in part.needs else []


def _target(kind: str, part: Any, needs: frozenset[str]) -> Target:
    if kind == "target":
        return part
    if kind == "negatives":  # so that keys differ from queries
        return EMA(0.9)
    return StopGrad() if "detached_keys" in needs else SharedEncoder()


def trainable(method: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in method.parameters() if parameter.requires_grad]


def sgd(method: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(trainable(method), lr=0.1, momentum=0.9)


def batch(method: Method, number: int) -> tuple[list[Tensor], Tensor, Tensor | None]:
    """This process's share of a batch over all processes: views, ids, and labels if a part needs them."""
    first = next(method.backbone.parameters(), torch.zeros(()))
    side = SIDE if isinstance(method.backbone, TinyBackbone | TinyPatches) else IMAGE_SIZE
    draw = generator(1000 + number)
    common = torch.rand(IMAGES, IN_CHANNELS, side, side, generator=draw, dtype=torch.float64)
    views = [
        0.6 * common + 0.4 * torch.rand(common.shape, generator=draw, dtype=torch.float64)
        for _ in range(VIEWS)
    ]
    share = IMAGES // world_size()
    rows = slice(rank() * share, (rank() + 1) * share)
    needs_labels = any("labels" in part.needs for part in method.parts)
    labels = classes(IMAGES)[rows] if needs_labels else None
    ids = torch.arange(IMAGES)[rows] + number * IMAGES
    return [view[rows].to(first.dtype) for view in views], ids, labels


@dataclass
class TrainingOutcome:
    """The outcome of training steps: losses, the gradients of the first step, and the final state."""

    losses: list[Tensor] = field(default_factory=list)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)


def train(
    method: Method, optimizer: torch.optim.Optimizer, steps: Sequence[int], micro: int = 1
) -> TrainingOutcome:
    """Take steps as the engine does; each one sees its batch ``micro`` times."""
    outcome = TrainingOutcome()
    method.train()
    for step in steps:
        with fixed_seed(step):
            outputs = list(_passes(method, step, micro))
        _average_gradients(method)
        outcome.losses.append(_average(torch.stack([output.loss.detach() for output in outputs]).mean()))
        if step == steps[0]:
            outcome.gradients = {
                name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None
            }
        progress = Progress(step, STEPS)
        method.before_step(progress)
        optimizer.step()
        for output in outputs:
            method.after_batch(*output.comparisons)
        method.after_step(progress)
        optimizer.zero_grad(set_to_none=True)
    outcome.state = {name: value.clone() for name, value in method.state_dict().items()}
    return outcome


def _passes(method: Method, step: int, micro: int) -> Iterator[Output]:
    for _ in range(micro):
        views, ids, labels = batch(method, step)
        output = method(_views_with_marks(method, views, step), ids, labels, Progress(step, STEPS))
        (output.loss / micro).backward()
        yield output


def _views_with_marks(method: Method, views: Sequence[Tensor], step: int) -> list[View]:
    """Views with masks, if the method hides patches."""
    if all(objective.hide is None for objective in method.objectives):
        return [View(x) for x in views]
    return [
        View(x, marks_of(len(x), TINY_GRID, _HIDDEN, seed=VIEWS * step + view))
        for view, x in enumerate(views)
    ]


def _average(value: Tensor) -> Tensor:
    if world_size() > 1:
        dist.all_reduce(value)
    return value / world_size()


def _average_gradients(method: Method) -> None:
    """The mean over processes, as in data parallelism; a gradient that a process lacks counts as zero."""
    if world_size() == 1:
        return
    for parameter in trainable(method):
        parameter.grad = _average(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)


def train_part(spec: PartSpec, steps: int, level: Level | None = None) -> dict[str, Any]:
    """Losses, first gradients and state after ``steps`` steps, as plain values that a process can send."""
    method = compose(spec, level=level)
    return vars(train(method, sgd(method), range(steps)))
