"""DINO, iBOT, DINOv2 and MSN as plain scripts on a vision transformer, in float64, for tests.

Written from the papers and their authors' code; they share no code with the package, and views and masks are
given. Weights have the names of the method's ``state_dict``, which also holds the centres.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import masked_scripts
import torch
import torch.nn.functional as F
from masked_scripts import State, gelu, linear
from torch import Tensor

TOKEN = "backbone.replace.token"


class ViT:
    """timm's vision transformer with a class token; positions of one grid, resampled for others."""

    def __init__(self, s: State, prefix: str, patch: int, depth: int, heads: int):
        self.s, self.prefix, self.patch, self.depth, self.heads = s, prefix, patch, depth, heads

    def __call__(self, pixels: Tensor, **hiding: Tensor) -> Tensor:
        """The normed tokens, [b, 1 + n, G]; ``hiding`` as in :class:`masked_scripts.ViT`."""
        name = f"{self.prefix}.pos_embed"
        positions, side = self.s[name], pixels.shape[2] // self.patch
        old = math.isqrt(positions.shape[1] - 1)
        if side != old:
            grid = positions[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
            grid = F.interpolate(grid, (side, side), mode="bicubic", antialias=True)
            own = grid.permute(0, 2, 3, 1).reshape(1, side * side, -1)
            positions = torch.cat([positions[:, :1], own], 1)
        net = masked_scripts.ViT({**self.s, name: positions}, self.prefix, self.patch, self.depth, self.heads)
        return net(pixels, **hiding)[-1]


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def softmax(x: Tensor) -> Tensor:
    e = (x - x.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


def entropy(codes: Tensor, scores: Tensor) -> Tensor:
    """Mean of -sum of codes x log softmax of scores."""
    return -(codes * softmax(scores).log()).sum(-1).mean()


def head(x: Tensor, s: State, name: str) -> Tensor:
    """DINO's: three layers, the direction, and weights of length 1 (weight_norm with g = 1)."""
    x = gelu(linear(x, s, f"{name}.mlp.0"))
    x = gelu(linear(x, s, f"{name}.mlp.2"))
    return unit(linear(x, s, f"{name}.mlp.4")) @ unit(s[f"{name}.prototypes"]).T


def sinkhorn(scores: Tensor, t: float) -> Tensor:
    """DINOv2's ``sinkhorn_knopp_teacher``: [B, K] -> [B, K]."""
    q = (scores / t).exp().T
    prototypes, samples = q.shape
    q = q / q.sum()
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / prototypes
        q = q / q.sum(0, keepdim=True) / samples
    return (q * samples).T


def across(codes: Sequence[Tensor], scores: Sequence[Tensor]) -> Tensor:
    """The mean over pairs of a target view and another online view, as DINO's loss counts them."""
    terms = [entropy(c, x) for q, c in enumerate(codes) for v, x in enumerate(scores) if v != q]
    return sum(terms[1:], terms[0]) / len(terms)


def moved(centre: Tensor, keys: Tensor) -> Tensor:
    return 0.9 * centre + 0.1 * keys.reshape(-1, keys.shape[-1]).mean(0)


def dino(s: State, student: ViT, teacher: ViT, views: Sequence[Tensor], t: float) -> Tensor:
    """DINO (algorithm 1 and its multi-crop); moves the centre after the loss."""
    large, small = torch.cat(list(views[:2])), torch.cat(list(views[2:]))
    with torch.no_grad():
        keys = head(teacher(large)[:, 0], s, "target.encoder.1")
        codes = softmax((keys - s["losses.0.centre"]) / t).chunk(2)
    scores = [head(student(x)[:, 0], s, "head") / 0.1 for x in (large, small)]
    loss = across(codes, [*scores[0].chunk(2), *scores[1].chunk(len(views) - 2)])
    s["losses.0.centre"] = moved(s["losses.0.centre"], keys)
    return loss


def ibot(
    s: State, student: ViT, teacher: ViT, views: Sequence[Tensor], masks: Sequence[Tensor], t: float
) -> Tensor:
    """iBOT (section 3.2) with one head for both losses, whose weights are 1.

    Its centre of patches sees all of them, as in the authors' code.
    """
    large, small, mask = torch.cat(list(views[:2])), torch.cat(list(views[2:])), torch.cat(list(masks))
    with torch.no_grad():
        keys = head(teacher(large), s, "target.encoder.1")  # [2 b, 1 + N, K]
        whole, patches = (f"objectives.{name}.losses.0.centre" for name in ("whole", "patch"))
        codes = softmax((keys[:, 0] - s[whole]) / t).chunk(2)
        patch_codes = softmax((keys[:, 1:] - s[patches]) / t)
    scores = head(student(large, hidden=mask, token=s[TOKEN]), s, "head") / 0.1
    local = (head(student(small)[:, 0], s, "head") / 0.1).chunk(len(views) - 2)
    loss = across(codes, [*scores[:, 0].chunk(2), *local])
    errors = -(patch_codes * softmax(scores[:, 1:]).log()).sum(2) * mask
    loss = loss + (errors.sum(1) / mask.sum(1)).mean()
    s[whole], s[patches] = moved(s[whole], keys[:, 0]), moved(s[patches], keys[:, 1:])
    return loss


def koleo(x: Tensor) -> Tensor:
    """DINOv2's ``KoLeoLoss`` of the class tokens of a view."""
    x = unit(x)
    with torch.no_grad():
        dots = x @ x.T
        nearest = dots.fill_diagonal_(-1).argmax(1)
    return -((x - x[nearest] + 1e-8).norm(dim=1) + 1e-8).log().mean()


def dinov2(
    s: State, student: ViT, teacher: ViT, views: Sequence[Tensor], masks: Sequence[Tensor], t: float
) -> Tensor:
    """DINOv2 (section 4): a head for each objective, Sinkhorn's assignments, and KoLeo before the heads."""
    large, small, mask = torch.cat(list(views[:2])), torch.cat(list(views[2:])), torch.cat(list(masks))
    with torch.no_grad():
        tokens = teacher(large)
        codes = sinkhorn(head(tokens[:, 0], s, "target.encoder.1"), t).chunk(2)
        patch_codes = sinkhorn(head(tokens[:, 1:][mask], s, "target.encoder.2"), t)  # hidden patches only
    hidden = student(large, hidden=mask, token=s[TOKEN])
    scores = [head(x, s, "objectives.whole.head") / 0.1 for x in (hidden[:, 0], student(small)[:, 0])]
    loss = across(codes, [*scores[0].chunk(2), *scores[1].chunk(len(views) - 2)])
    patches = head(hidden[:, 1:][mask], s, "objectives.patch.head") / 0.1
    errors = -(patch_codes * softmax(patches).log()).sum(1)
    weights = (1 / mask.sum(1).double())[:, None].expand_as(mask)[mask]
    loss = loss + (errors * weights).sum() / len(mask)
    return loss + 0.1 * (koleo(hidden[: len(mask) // 2, 0]) + koleo(hidden[len(mask) // 2 :, 0]))


def projection(h: Tensor, s: State, name: str) -> Tensor:
    """A head of three layers with batch norm after the first two; its statistics are those of ``h``."""
    for layer in (0, 3):
        h = h @ s[f"{name}.{layer}.weight"].T
        h = (h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt()
        h = (h * s[f"{name}.{layer + 1}.weight"] + s[f"{name}.{layer + 1}.bias"]).clamp_min(0)
    return linear(h, s, f"{name}.6")


def msn(s: State, student: ViT, teacher: ViT, views: Sequence[Tensor], mask: Tensor) -> Tensor:
    """MSN (section 3) without Sinkhorn: view 1 without its hidden patches and small crops against view 0."""
    prototypes = s["objectives.whole.losses.0.prototypes"]

    def assign(z: Tensor) -> Tensor:
        return softmax(unit(z) @ unit(prototypes).T / 0.1)

    visible = torch.stack([(~m).nonzero()[:, 0] for m in mask])
    name = "objectives.whole.head.layers"
    anchors = assign(
        torch.cat(
            [  # batch norm sees crops of one size together
                projection(student(views[1], visible=visible)[:, 0], s, name),
                projection(student(torch.cat(list(views[2:])))[:, 0], s, name),
            ]
        )
    )
    with torch.no_grad():
        key = projection(teacher(views[0])[:, 0], s, "objectives.whole.target.encoder.1.layers")
        sharp = assign(key) ** (1 / 0.25)
        sharp = (sharp / sharp.sum(1, keepdim=True)).repeat(len(views) - 1, 1)
    mean = anchors.mean(0)
    regulariser = (mean * mean.log()).sum() + math.log(len(mean))
    return -(sharp * anchors.log()).sum(1).mean() + regulariser
