"""Methods built from lightly's own parts, as its examples for plain PyTorch combine them.

Heads, losses, transforms, memory bank and momentum updates are lightly's; sizes of heads, optimizers, rates,
momenta and batches are those of its examples. The network, whose width the heads take, comes from outside.
The augmentation is as strong as that of our recipes: crops of 32 px, colours of strength 0.5, no blur.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightly.loss import (
    BarlowTwinsLoss,
    DINOLoss,
    LeJEPALoss,
    NegativeCosineSimilarity,
    NTXentLoss,
    SwaVLoss,
    VICRegLoss,
)
from lightly.models.modules import (
    BarlowTwinsProjectionHead,
    BYOLPredictionHead,
    BYOLProjectionHead,
    DINOProjectionHead,
    LeJEPAProjectionHead,
    NNCLRPredictionHead,
    NNCLRProjectionHead,
    NNMemoryBankModule,
    SimCLRProjectionHead,
    SwaVProjectionHead,
    SwaVPrototypes,
)
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms import DINOTransform, SimCLRTransform, SwaVTransform
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

Transform = Callable[[Any], Sequence[Tensor]]
#: Loss of a batch's views [N, C, H, W], given the number of the epoch.
ViewsLoss = Callable[[Sequence[Tensor], int], Tensor]

SGD_RATE = 0.06


@dataclass(frozen=True)
class LightlyMethod:
    """A method around a network.

    Attributes:
        loss: of a batch's views.
        optimizer: of all that is trained.
        after_step: follows each optimizer step.
    """

    loss: ViewsLoss
    optimizer: Optimizer
    after_step: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Example:
    """One of lightly's examples.

    Attributes:
        build: the method around a network with features of a width.
        transform: an image's views.
        batch: images of a step.
    """

    build: Callable[[nn.Module, int], LightlyMethod]
    transform: Callable[[], Transform]
    batch: int = 256


def parameters(*modules: nn.Module) -> Iterable[nn.Parameter]:
    return nn.ModuleList(modules).parameters()


def frozen_copy(module: nn.Module) -> nn.Module:
    twin = copy.deepcopy(module)
    deactivate_requires_grad(twin)
    return twin


def two_views(
    head_of: Callable[[int], nn.Module], criterion_of: Callable[[], nn.Module]
) -> Callable[[nn.Module, int], LightlyMethod]:
    """A method whose loss compares the projections of two views.

    Args:
        head_of: the head on features of a width.
    """

    def build(net: nn.Module, width: int) -> LightlyMethod:
        head, criterion = head_of(width), criterion_of()

        def loss(views: Sequence[Tensor], epoch: int) -> Tensor:
            return criterion(*(head(net(view)) for view in views))

        return LightlyMethod(loss, SGD(parameters(net, head), SGD_RATE))

    return build


def byol(net: nn.Module, width: int) -> LightlyMethod:
    head, predictor = BYOLProjectionHead(width, 1024, 256), BYOLPredictionHead(256, 1024, 256)
    net_average, head_average = frozen_copy(net), frozen_copy(head)
    criterion = NegativeCosineSimilarity()

    def loss(views: Sequence[Tensor], epoch: int) -> Tensor:
        update_momentum(net, net_average, m=0.99)
        update_momentum(head, head_average, m=0.99)
        p = [predictor(head(net(view))) for view in views]
        z = [head_average(net_average(view)).detach() for view in views]
        return 0.5 * (criterion(p[0], z[1]) + criterion(p[1], z[0]))

    return LightlyMethod(loss, SGD(parameters(net, head, predictor), SGD_RATE))


def nnclr(net: nn.Module, width: int) -> LightlyMethod:
    head, predictor = NNCLRProjectionHead(width, 512, 128), NNCLRPredictionHead(128, 512, 128)
    bank, criterion = NNMemoryBankModule(size=4096), NTXentLoss()

    def loss(views: Sequence[Tensor], epoch: int) -> Tensor:
        z = [head(net(view)) for view in views]
        p = [predictor(each) for each in z]
        near = [bank(each.detach(), update=index == 1) for index, each in enumerate(z)]
        return 0.5 * (criterion(near[0], p[1]) + criterion(near[1], p[0]))

    return LightlyMethod(loss, SGD(parameters(net, head, predictor), SGD_RATE))


def swav(net: nn.Module, width: int) -> LightlyMethod:
    head, prototypes = SwaVProjectionHead(width, 512, 128), SwaVPrototypes(128, n_prototypes=512)
    criterion = SwaVLoss()

    def loss(views: Sequence[Tensor], epoch: int) -> Tensor:
        prototypes.normalize()
        scores = [prototypes(nn.functional.normalize(head(net(view)), dim=1)) for view in views]
        return criterion(scores[:2], scores[2:])

    return LightlyMethod(loss, Adam(parameters(net, head, prototypes), 0.001))


def dino(net: nn.Module, width: int) -> LightlyMethod:
    head = DINOProjectionHead(width, 512, 64, 2048)
    teacher, teacher_head = frozen_copy(net), DINOProjectionHead(width, 512, 64, 2048)
    deactivate_requires_grad(teacher_head)  # with weights of its own, as in the example
    criterion = DINOLoss(output_dim=2048, warmup_teacher_temp_epochs=5)

    def loss(views: Sequence[Tensor], epoch: int) -> Tensor:
        targets = [teacher_head(teacher(view)) for view in views[:2]]
        return criterion(targets, [head(net(view)) for view in views], epoch=epoch)

    def update_teacher() -> None:
        update_momentum(net, teacher, m=0.99)
        update_momentum(head, teacher_head, m=0.99)

    return LightlyMethod(loss, Adam(parameters(net, head), 0.001), update_teacher)


def lejepa(net: nn.Module, width: int) -> LightlyMethod:
    head, criterion = LeJEPAProjectionHead(width), LeJEPALoss()

    def loss(views: Sequence[Tensor], epoch: int) -> Tensor:
        z = [head(net(torch.cat([*some]))) for some in (views[:2], views[2:])]
        large, small = (each.unflatten(0, (2, -1)) for each in z)  # [2, N, D]
        return criterion(local_proj=small, global_proj=large)

    return LightlyMethod(loss, AdamW(parameters(net, head), 5e-4, weight_decay=5e-2))


def narrow_head(width: int) -> nn.Module:
    return SimCLRProjectionHead(width, 512, 128)


def wide_head(width: int) -> nn.Module:
    return BarlowTwinsProjectionHead(width, 2048, 2048)


def crops(**options: Any) -> Callable[[], Transform]:
    """lightly's DINO transform with two large and two small views, without blur and solarization."""
    fixed = {"cj_sat": 0.8, "gaussian_blur": (0.0, 0.0, 0.0), "solarization_prob": 0.0, "normalize": None}
    sizes = {"global_crop_size": 32, "local_crop_size": 16, "n_local_views": 2}
    return lambda: DINOTransform(**sizes, **fixed, **options)


def pair_of_views() -> Transform:
    return SimCLRTransform(input_size=32, cj_strength=0.5, min_scale=0.2, gaussian_blur=0.0, normalize=None)


def swav_views() -> Transform:
    return SwaVTransform(
        crop_sizes=(32, 16),
        crop_counts=(2, 2),
        crop_min_scales=(0.3, 0.1),
        crop_max_scales=(1.0, 0.3),
        cj_strength=0.5,
        gaussian_blur=0.0,
        normalize=None,
    )


#: Recipe of ours, cifar10/NAME-cpu, whose data, network and augmentation the example gets.
EXAMPLES: Mapping[str, Example] = {
    "simclr": Example(
        two_views(lambda width: SimCLRProjectionHead(width, 512, 128), NTXentLoss), pair_of_views
    ),
    "byol": Example(byol, pair_of_views),
    "swav": Example(swav, swav_views, 128),
    "dino-vit": Example(dino, crops(global_crop_scale=(0.4, 1.0), local_crop_scale=(0.1, 0.4)), 64),
    "barlow_twins": Example(two_views(wide_head, BarlowTwinsLoss), pair_of_views),
    "vicreg": Example(two_views(wide_head, VICRegLoss), pair_of_views),
    "nnclr": Example(nnclr, pair_of_views),
    "lejepa": Example(lejepa, crops(global_crop_scale=(0.3, 1.0), local_crop_scale=(0.05, 0.3)), 64),
}
