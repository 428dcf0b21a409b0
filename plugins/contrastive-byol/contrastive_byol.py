"""Parts of BYOL, SimSiam and FastSiam: the losses, the two different views, and a watchdog for collapse.

Source: Grill et al. 2020, "Bootstrap your own latent"; Chen and He 2021, "Exploring simple Siamese
representation learning"; Pototzky et al. 2022, "FastSiam: resource-efficient self-supervised learning on a
single GPU". BYOL's averaged encoder is the framework's target ``ema``, SimSiam's target is its
``stop_grad``; the predictor is a head.

Shape letters: b images of a process's batch, n patches of an image that are compared, D embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from contrastive.augmentations import (
    Blur,
    ColorJitter,
    Flip,
    Grayscale,
    Operation,
    Pipeline,
    RandomResizedCrop,
    Solarize,
)
from contrastive.comparison import Comparison
from contrastive.kinds import hookimpl
from contrastive.monitors import embedding_std
from contrastive.parts import Augmentation, Callback, Loss, RunState

contrastive_api = 2

Share = Annotated[float, Field(gt=0, le=1)]


class Regression(Loss):
    """BYOL's loss: the squared distance of prediction and key on the unit sphere, 2 - 2 cos.

    Summed over the pairs of views: with both views on both sides, the symmetrised loss of Grill et al.
    2020, equations 2 and 3, from 0 to 8. SimSiam's -(cos + cos) / 2 (Chen and He 2021, equation 4) is
    this loss minus 4, divided by 4: with ``weight: 0.25``, the gradient is SimSiam's.
    """

    needs = frozenset({"predictor", "detached_keys"})

    def compare(self, comparison: Comparison) -> Tensor:
        distances = [2 - 2 * (query * key).sum(-1) for query, key in comparison.aligned()]
        return torch.stack(distances).sum(0)  # [b]


class MeanRegression(Loss):
    """BYOL's loss against the mean of a query's keys, a steadier target than one of them (FastSiam).

    2 - 2 cos of each query and the mean of its keys, those of the image's other views as the target gives
    them, before they are normalised; summed over the V query views (Pototzky et al. 2022). With two views it
    is ``regression``. The paper's mean over views of -cos is this loss minus 2 V, divided by 2 V: with
    ``weight: 0.125`` and four views, the gradient is the paper's.
    """

    needs = frozenset({"predictor", "detached_keys"})

    def compare(self, comparison: Comparison) -> Tensor:
        views = comparison.query_views
        queries = zip(views, comparison.queries.z.chunk(len(views)), strict=True)
        distances = [2 - 2 * (query * _mean_key(comparison, view)).sum(-1) for view, query in queries]
        return torch.stack(distances).sum(0)  # [b]


def _mean_key(comparison: Comparison, view: int) -> Tensor:
    """The direction of the mean of the keys of each query of a view: [b, D], of patches [b n, D]."""

    def own_keys(other: int) -> Tensor:
        keys = comparison.target_keys[other].to(comparison.queries.z.dtype)
        match = comparison.matches.get((view, other))  # of patches, [b, n]
        return keys if match is None else keys.take_along_dim(match[:, :, None], 1).flatten(0, 1)

    return normalize(torch.stack([own_keys(t) for o, t in comparison.pairs if o == view]).mean(0), dim=1)


class BYOL(Augmentation):
    """BYOL's two views: SimCLR's with gentler colours, and with different blur and solarize.

    Bicubic crop, flip 0.5, jitter 0.8 (brightness and contrast 0.4, saturation 0.2, hue 0.1), grayscale
    0.2; view 0 always blurred; view 1 blurred at 0.1 and solarized at 0.2 (Grill et al. 2020, appendix B).

    Args:
        size: side of the square views in pixels.
        scale: smallest and largest share of the area that the crop keeps.
        strength: factor on the four strengths of the colour jitter.
        asymmetric: as above; else both views are blurred at 0.5 and none is solarized (SimSiam, MoCo v2).
        blur: ``auto`` omits blur at 32 pixels and below, as ``simclr`` does.
    """

    def __init__(
        self,
        size: Annotated[int, Field(ge=1)],
        scale: tuple[Share, Share] = (0.08, 1.0),
        strength: Annotated[float, Field(ge=0, le=2.5)] = 1.0,
        asymmetric: bool = True,
        blur: bool | Literal["auto"] = "auto",
    ):
        self._common: list[Operation] = [
            RandomResizedCrop(size, scale, interpolation="bicubic"),
            Flip(),
            ColorJitter(
                brightness=0.4 * strength,
                contrast=0.4 * strength,
                saturation=0.2 * strength,
                hue=0.1 * strength,
            ),
            Grayscale(),
        ]
        self._asymmetric = asymmetric
        self._has_blur = size > 32 if blur == "auto" else blur

    def pipelines(self) -> list[Pipeline]:
        """One pipeline per view."""
        if self._asymmetric:
            return [self._pipeline(blur=1.0, solarize=0.0), self._pipeline(blur=0.1, solarize=0.2)]
        return [self._pipeline(blur=0.5, solarize=0.0) for _ in range(2)]

    @classmethod
    def example(cls, folder: Path) -> dict[str, Any]:
        """Large enough to be blurred."""
        return {"size": 40}

    def _pipeline(self, blur: float, solarize: float) -> Pipeline:
        blur_steps = [Blur(p=blur)] if self._has_blur else []
        solarize_steps = [Solarize(threshold=0.5, p=solarize)] if solarize else []
        return Pipeline([*self._common, *blur_steps, *solarize_steps])


class CollapseWatch(Callback):
    """Warns as soon as embeddings start to collapse, and names the known causes that fit.

    Every few steps it compares the spread of a batch's keys on the unit sphere with the healthy
    1 / sqrt(D). Queries are no indication: a healthy predictor starts by predicting the mean. The
    evaluation finds a collapse too, but only at the end of an epoch and once the collapse is complete.

    Args:
        every: steps between checks.
        patience: consecutive checks at which the spread must be low before it warns.
        stop: end the run after that epoch.
    """

    #: A spread is low below this share of 1 / sqrt(D), if it was at least twice as high before: encoders
    #: without batch norm start low, and rise if training is healthy.
    LOW = 0.3

    def __init__(
        self,
        every: Annotated[int, Field(ge=1)] = 20,
        patience: Annotated[int, Field(ge=1)] = 2,
        stop: bool = False,
    ):
        self.every, self.patience, self.stop = every, patience, stop
        self._highest = 0.0  # highest spread so far
        self._low = 0  # consecutive checks with a low spread
        self._has_warned = False

    def run_started(self, run: RunState) -> None:
        """Warn about a target that never learns: no collapse, but the encoder learns little from it."""
        if _momentum(run.method.target) == 1:
            run.warn(
                "the target's momentum is 1: it never learns, and its keys stay those of an untrained "
                "encoder; set target.momentum to 0.99, and schedule: cosine to raise it to 1."
            )

    def step_done(self, run: RunState, metrics: Mapping[str, float]) -> None:
        """Check the spread, every few steps."""
        step = int(metrics["step"])
        if run.comparison is None or self._has_warned or (step > 1 and step % self.every):
            return
        spread = spread_of_keys(run.comparison)
        self._highest = max(self._highest, spread)
        self._low = self._low + 1 if spread < min(self.LOW, self._highest / 2) else 0
        if self._low >= self.patience:
            self._has_warned = True
            message = (
                f"the embeddings are collapsing at step {step}: keys of different images spread "
                f"{100 * spread:.0f} % of what is healthy. {' '.join(causes(run.method, run.param_groups))}"
            )
            run.warn(message)
            if self.stop:
                run.stop(message)

    def state_dict(self) -> dict[str, Any]:
        """The spread so far, and whether it has warned."""
        return {"highest": self._highest, "low": self._low, "warned": self._has_warned}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._highest, self._low, self._has_warned = state["highest"], state["low"], state["warned"]


def spread_of_keys(comparison: Comparison) -> float:
    """Standard deviation over different images of the keys of one view, times sqrt(D): about 1 is healthy.

    Only this process's images. Source: Chen and He 2021, section 4.1.
    """
    _, keys = comparison.aligned()[0]  # [b, D]
    return embedding_std(keys.detach()) * math.sqrt(keys.shape[1])


def causes(method: Any, param_groups: list[dict[str, Any]]) -> list[str]:
    """Known causes of collapse that fit a composed method and its optimizer, one sentence each.

    Sources: Grill et al. 2020, table 5; Chen and He 2021, section 4.
    """
    rests_on_predictor = any("predictor" in loss.needs for loss in method.losses)
    structural = list(_structural(method, param_groups)) if rests_on_predictor else []
    return structural or list(_tuning(param_groups))


def _structural(method: Any, param_groups: list[dict[str, Any]]) -> Iterator[str]:
    """Causes in target, predictor and batch norm, if nothing else keeps embeddings apart."""
    if not method.target.detached:
        yield "Gradients reach the keys, so keys move towards queries: set target: ema, or target: stop_grad."
    if method.predictor is None:
        yield "There is no predictor: set for example predictor: {name: mlp, batch_norm: hidden}."
        return
    online, predictor = (_peak_rate(part, param_groups) for part in (method.backbone, method.predictor))
    if predictor == 0:
        yield "The predictor never learns: do not freeze it, and set a learning rate above 0."
    elif predictor < online:
        yield (
            f"The predictor learns at {predictor:g}, slower than the encoder at {online:g}, but it must keep "
            "up: raise its lr_scale in optimizer.groups to 1, or to 10."
        )
    output = list(method.head.modules())[-1]
    if not any(isinstance(module, _BATCH_NORM) for module in (output, *method.predictor.modules())):
        yield "Neither the predictor nor the head's output has batch norm: set batch_norm: hidden in both."
    momentum = _momentum(method.target)
    if momentum is not None and momentum < 0.9 and predictor <= online:
        yield (
            f"The target's momentum of {momentum:g} lets the keys follow at once: raise it to 0.99, or the "
            "predictor's lr_scale to 10."
        )


def _tuning(param_groups: list[dict[str, Any]]) -> Iterator[str]:
    """Causes in the optimizer's settings, if nothing else is wrong."""
    if all(group["weight_decay"] == 0 for group in param_groups):
        yield "Nothing decays the weights: set optimizer.weight_decay to 1e-6 (lars) or 1e-4 (sgd)."
    highest = max(group["peak_lr"] for group in param_groups)
    yield f"The learning rate of {highest:g} may be too high: lower optimizer.lr, or lengthen its warm-up."


_BATCH_NORM = nn.modules.batchnorm._BatchNorm  # 1d, 2d, 3d and synchronised


def _peak_rate(part: nn.Module, param_groups: list[dict[str, Any]]) -> float:
    """The highest peak learning rate of a part's parameters; 0 if the optimizer has none of them."""
    own = {id(parameter) for parameter in part.parameters()}
    rates = [group["peak_lr"] for group in param_groups if any(id(p) in own for p in group["params"])]
    return max(rates, default=0.0)


def _momentum(target: Any) -> float | None:
    """The momentum of a target, or of the one it wraps; None without an average."""
    while target is not None:
        if (momentum := getattr(target, "momentum", None)) is not None:
            return momentum
        target = getattr(target, "of", None)
    return None


@hookimpl
def register_loss(register: Callable[[str, Any], None]) -> None:
    register("regression", Regression)
    register("mean_regression", MeanRegression)


@hookimpl
def register_augmentation(register: Callable[[str, Any], None]) -> None:
    register("byol", BYOL)


@hookimpl
def register_callback(register: Callable[[str, Any], None]) -> None:
    register("collapse_watch", CollapseWatch)
