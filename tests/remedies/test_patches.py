"""Remedies of messages about crops, masks, tokens, comparisons of patches, and parts of plugins for them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contrastive_clusters import DINO, DeepCluster, SwAV
from contrastive_decorrelation import MMCR, WMSE, LeJEPA, Subvector, VICReg
from contrastive_decorrelation.heads import IterNorm
from contrastive_masked import Decoder
from torch import Tensor, nn

from contrastive.augmentations import CropOf, Flip, Sequence, Views
from contrastive.backbones.tokens import split_tokens
from contrastive.comparison import Comparison
from contrastive.evaluation.features import feature_of
from contrastive.parts import Augmentation, Backbone, Loss
from contrastive.values import Progress
from contrastive.views import Marks, Tokens, View
from tests.remedies.recipes import Tree, of, refused, rule, several, single
from tests.support.masked_recipes import CROP
from tests.support.patches import TinyPatches
from tests.support.remedies import Remedy
from tests.support.teachers import export_transformer


class Foreign(Augmentation):
    """Two views that are not made of operations."""

    def pipelines(self):
        return [object(), object()]


class Pooling(Backbone):
    """Averages the pixels."""

    features = 2

    def forward(self, x):
        return x.mean((2, 3))


class Net(nn.Module):
    """A network that averages what it is given, and embeds no patches."""

    def forward_head(self, features: Tensor) -> Tensor:
        return features[0]


def joined(first: Augmentation) -> None:
    Views([first, CropOf(0)]).pipelines()


def masked(counts: list[int]) -> None:
    Marks.of_mask(np.arange(16) < np.array(counts)[:, None])


def split(features: Any) -> None:
    split_tokens(Net(), "net", features, None, torch.Size((8, 8)))


def tokens_of(backbone: Backbone) -> None:
    backbone.tokens(View(torch.zeros(1, 2, 4, 4, dtype=torch.float64)))


def predicted(level: str) -> None:
    decoder = Decoder(6, 3, width=8, depth=1, heads=2)
    if level == "image":
        decoder(torch.zeros(2, 6))
    decoder.at(
        Tokens(torch.zeros(1, 6), *torch.zeros(2, 1, 1, 6), None, (1, 1)),
        torch.zeros(1, 1, dtype=torch.int64),
    )


def feature(name: str) -> None:
    backbone = TinyPatches()
    tokens = backbone.tokens(View(torch.zeros(1, 2, 4, 4, dtype=torch.float64)))
    feature_of(backbone, None, tokens, name)


def compared(keywords: dict[str, Any]) -> None:
    Comparison.of([torch.randn(2, 3, 8), torch.randn(2, 3, 8)], **keywords)


def loss_of(images: int) -> None:
    VICReg()(torch.randn(images, 8), torch.randn(images, 8))


def assigned(loss: Loss, patches: int | None = 3) -> None:
    """A loss of two views and their keys, of images or of patches."""
    shape = (4, 8) if patches is None else (4, patches, 8)
    views = [torch.randn(shape), torch.randn(shape)]
    loss(Comparison.of(views, views, pairs=[(0, 1), (1, 0)], normalise=loss.normalised))


def clustered(count: int) -> None:
    """An epoch of four images."""
    loss = DeepCluster(8, [count])
    loss.after_batch(Comparison.of([torch.randn(4, 8), torch.randn(4, 8)]))
    loss.after_step(Progress(0, 10))


def statistics_of(shape: tuple[int, ...]) -> None:
    """A loss of whole images on two views of a shape."""
    MMCR()(torch.randn(shape), torch.randn(shape))


def whitened(settings: dict[str, float]) -> None:
    """W-MSE of 20 images, 8 wide."""
    WMSE(**settings)(torch.randn(20, 8), torch.randn(20, 8))


def global_views(views: list[int]) -> None:
    """LeJEPA of three views, some of which are targets."""
    z = dict(enumerate(torch.randn(3, 5, 4)))
    pairs = [(o, t) for o in z for t in views if o != t]
    keys = {t: z[t] for t in views}
    LeJEPA(slices=4)(Comparison.of(z, keys, pairs=pairs, normalise=False))


def crops() -> Iterator[Remedy]:
    file, path = "augmentations/crop_of.py", "augmentation"

    def crop_of(words: str, wrong: Any, right: Any) -> Remedy:
        return rule(file, words, path, of("dense", augmentation=wrong), of("dense", augmentation=right))

    first, second = {"crop_of": 0}, {"crop_of": 1}
    yield crop_of("write it as an entry of views", {"name": "crop_of", **first}, several([CROP], first))
    yield crop_of(
        "has the crop of view {} itself",
        several([CROP], first, second),
        several([CROP], first, first),
    )
    yield crop_of(
        "put random_resized_crop first",
        several(["solarize", CROP], first),
        several([CROP, "solarize"], first),
    )
    yield crop_of("; remove size", several(["flip"], {**first, "size": 16}), several(["flip"], first))
    yield Remedy(
        file, "use an augmentation made of operations", joined, Foreign, lambda _: Sequence([Flip()])
    )
    shift = {"name": "shift", "size": 12}
    wrong, right = (several(*2 * [[CROP, {**shift, "pixels": pixels}]]) for pixels in (5, 4))
    yield rule(
        "augmentations/shift.py",
        "; lower pixels",
        "augmentation",
        of("dense", augmentation=wrong),
        of("dense", augmentation=right),
    )


def masks() -> Iterator[Remedy]:
    def mask(words: str, recipe: str, wrong: Tree, right: Tree) -> Remedy:
        wrong, right = (of(recipe, augmentation=several([CROP, each])) for each in (wrong, right))
        return rule("contrastive_masked/masks.py", words, "augmentation", wrong, right)

    patches = {"name": "mask_patches", "unit": 3}
    yield mask("choose a unit that divides both", "mae", patches, {**patches, "unit": 2})
    targets = {"name": "mask_targets", "scale": [0.3, 0.35]}
    yield mask("; lower blocks or scale", "ijepa", targets, {**targets, "blocks": 1})
    all_of, none_of = {"name": "mask_patches", "ratio": 0.99}, {"name": "mask_blocks", "ratio": [0.005, 0.5]}
    yield mask("; lower it", "mae", all_of, {**all_of, "ratio": 0.9})
    yield mask("; raise it", "mae", none_of, {**none_of, "ratio": [0.1, 0.5]})
    yield Remedy("contrastive/views.py", "draw the number once for all", masked, [3, 4], [4, 4])


def tokens() -> Iterator[Remedy]:
    file = "backbones/tokens.py"
    of_image = torch.zeros(1, 6, 2, 2)
    yield Remedy(file, "gives no tokens of patches", split, [torch.zeros(1, 6)], of_image)
    yield Remedy(file, "use another network at level patch", split, torch.zeros(1, 5, 6), of_image)
    yield Remedy(
        "parts/encoder.py",
        "use a timm or torchvision backbone",
        tokens_of,
        Pooling,
        lambda _: TinyPatches(),
    )
    yield Remedy("contrastive_masked/decoders.py", "use it as predictor", predicted, "image", "patch")
    yield Remedy("evaluation/features.py", "set feature: h", feature, "z", "h")


def comparisons() -> Iterator[Remedy]:
    file = "comparison/comparison.py"
    keys = [torch.randn(2, 5, 8), torch.randn(2, 5, 8)]
    matches = {pair: torch.tensor([4, 0, 2]) for pair in ((0, 1), (1, 0))}

    yield Remedy(file, "; give matches", compared, {"keys": keys}, {"keys": keys, "matches": matches})
    own = {"pairs": [(0, 0)]}
    same = [torch.randn(2, 3, 8), torch.randn(2, 3, 8)]
    yield Remedy(file, "; give keys of their own", compared, own, {**own, "keys": same})
    file = "contrastive_decorrelation/batch.py"
    yield Remedy(file, "give it a batch of at least two", loss_of, 1, 2)
    yield Remedy(file, "write it in an objective with level: image", statistics_of, (5, 2, 4), (5, 4))
    file = "contrastive_decorrelation/whitening.py"
    yield Remedy(file, "raise sub_batch and", whitened, {"sub_batch": 4}, {"sub_batch": 10})
    yield Remedy(
        file, "set shrinkage above 0", whitened, {"sub_batch": 4}, {"sub_batch": 4, "shrinkage": 0.1}
    )
    file = "contrastive_decorrelation/sketches.py"
    yield Remedy(file, "list it among", global_views, [0], [0, 1])
    file = "contrastive_decorrelation/heads.py"
    yield Remedy(file, "set dim to", partial(Subvector, 8), 9, 8)
    yield Remedy(file, "set channels to a divisor", partial(IterNorm, 12), 5, 4)


def parts() -> Iterator[Remedy]:
    sgd = {"name": "sgd", "lr": 0.1, "final_lr": 0.01}
    yield rule(
        "optimizers/scheduled.py",
        "set schedule: cosine or final_lr: 0",
        "optimizer",
        of("dense", optimizer={**sgd, "schedule": "constant"}),
        of("dense", optimizer={**sgd, "schedule": "cosine"}),
    )
    yield rule(
        "optimizers/scheduled.py",
        "lower final_lr or",
        "optimizer.final_lr",
        of("dense", optimizer={**sgd, "final_lr": 0.2}),
        of("dense", optimizer=sgd),
    )
    dino = {"negatives": "none", "target": "ema"}
    wrong, right = (
        {"name": "dino", "target_temperature": {"from": start, "to": 0.07}} for start in (0.0, 0.04)
    )
    yield rule(
        "contrastive_clusters/dino.py",
        "it must stay above 0",
        "loss.target_temperature",
        single(**dino, loss=wrong),
        single(**dino, loss=right),
    )
    yield Remedy(
        "contrastive_clusters/swav.py",
        "; use {name: dino",
        assigned,
        lambda: SwAV(8),
        lambda _: DINO(8, codes="sinkhorn"),
    )
    file = "contrastive_clusters/deepcluster.py"
    yield Remedy(file, "; set level: image", partial(assigned, DeepCluster(8)), 3, None)
    yield Remedy(file, "set numbers up to", clustered, 5, 4)
    file, mochi = "contrastive_negatives.py", {"name": "mochi", "mixtures": 0, "query_mixtures": 0}
    yield rule(
        file,
        "set mixtures or query_mixtures",
        "negatives.1",
        single(negatives=["in_batch", mochi]),
        single(negatives=["in_batch", {**mochi, "mixtures": 4}]),
    )
    stock = {"name": "stock", "weights": "teacher"}
    yield Remedy(
        file,
        "use a fixed target, such as stock",
        partial(guided, "negatives.1.guide"),
        {"guide": "ema"},
        {"guide": stock},
    )
    both = {"guide": stock, "bound": 0.5}
    yield Remedy(
        file,
        "it has no effect with a bound",
        partial(guided, "negatives.1.margin"),
        {**both, "margin": 0.1},
        both,
    )


def guided(path: str, keys: Tree) -> str:
    """A recipe whose negatives are guided, next to a teacher."""
    export_transformer(Path("teacher"), channels=3, size=16)
    return refused(path, single(negatives=["in_batch", {"name": "guided", **keys}]))


REMEDIES = [*crops(), *masks(), *tokens(), *comparisons(), *parts()]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
