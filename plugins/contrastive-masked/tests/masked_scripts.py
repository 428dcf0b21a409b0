"""MAE, SimMIM, data2vec, I-JEPA, and SimCLR with MAE as plain scripts on a vision transformer, in float64.

Written from the papers and their authors' code; they share no code with the package, and views and masks are
given. Weights have the names of the method's ``state_dict``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

State = dict[str, Tensor]


def linear(x: Tensor, s: State, name: str) -> Tensor:
    return x @ s[f"{name}.weight"].T + s[f"{name}.bias"]


def layer_norm(x: Tensor, s: State, name: str, eps: float) -> Tensor:
    return plain_norm(x, eps) * s[f"{name}.weight"] + s[f"{name}.bias"]


def plain_norm(x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def block(x: Tensor, s: State, name: str, heads: int, eps: float) -> Tensor:
    b, n, width = x.shape
    qkv = linear(layer_norm(x, s, f"{name}.norm1", eps), s, f"{name}.attn.qkv")
    q, k, v = qkv.reshape(b, n, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    weights = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(width // heads), 3)
    x = x + linear((weights @ v).transpose(1, 2).reshape(b, n, width), s, f"{name}.attn.proj")
    hidden = gelu(linear(layer_norm(x, s, f"{name}.norm2", eps), s, f"{name}.mlp.fc1"))
    return x + linear(hidden, s, f"{name}.mlp.fc2")


def patchify(pixels: Tensor, p: int) -> Tensor:
    """[b, C, h, w] -> [b, N, C p^2], channel by channel."""
    b, c, h, w = pixels.shape
    x = pixels.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(b, (h // p) * (w // p), c * p * p)


#: Mean and standard deviation by which the recipes normalise Fashion-MNIST, as float32 holds them.
INPUTS = torch.tensor([0.286, 0.353]).double()


class ViT:
    """timm's vision transformer with class token: weights under ``prefix`` of a state; ``inputs`` have a
    mean and a standard deviation."""

    def __init__(
        self,
        s: State,
        prefix: str,
        patch: int,
        depth: int,
        heads: int,
        class_token: bool = True,
        inputs: Sequence[float] | Tensor = INPUTS,
    ):
        self.s, self.prefix, self.patch, self.depth, self.heads = s, prefix, patch, depth, heads
        self.class_token, self.inputs = class_token, inputs

    def __call__(
        self,
        pixels: Tensor,
        visible: Tensor | None = None,
        hidden: Tensor | None = None,
        token: Tensor | None = None,
    ) -> list[Tensor]:
        """Outputs of all blocks, and last the normed one: each [b, (1 +) n, G]."""
        s, prefix = self.s, self.prefix
        kernel = s[f"{prefix}.patch_embed.proj.weight"]
        mean, std = self.inputs
        x = (
            patchify((pixels - mean) / std, self.patch) @ kernel.flatten(1).T
            + s[f"{prefix}.patch_embed.proj.bias"]
        )
        if hidden is not None:
            x = torch.where(hidden[:, :, None], token, x)
        positions = s[f"{prefix}.pos_embed"]
        x = x + positions[:, 1:] if self.class_token else x + positions
        if visible is not None:
            x = torch.stack([each[index] for each, index in zip(x, visible, strict=True)])
        if self.class_token:
            first = (s[f"{prefix}.cls_token"] + positions[:, :1]).expand(len(x), -1, -1)
            x = torch.cat([first, x], 1)
        outputs = []
        for number in range(self.depth):
            x = block(x, s, f"{prefix}.blocks.{number}", self.heads, 1e-6)
            outputs.append(x)
        return [*outputs, layer_norm(x, s, f"{prefix}.norm", 1e-6)]


def grid_positions(side: int, width: int) -> Tensor:
    """MAE's fixed embeddings of a square grid, written as in its ``pos_embed.py``: [N, W]."""

    def of_line(places: list[int]) -> Tensor:
        omega = [1 / 10000 ** (i / (width / 4)) for i in range(width // 4)]
        rows = [[math.sin(p * w) for w in omega] + [math.cos(p * w) for w in omega] for p in places]
        return torch.tensor(rows, dtype=torch.float64)

    columns = [n % side for n in range(side * side)]
    rows = [n // side for n in range(side * side)]
    return torch.cat([of_line(columns), of_line(rows)], 1)


def normalised_pixels(pixels: Tensor, p: int) -> Tensor:
    """MAE's targets: pixels of a patch less their mean, by their standard deviation (of n - 1)."""
    x = patchify(pixels, p)
    mean = x.mean(2, keepdim=True)
    variance = (x - mean).square().sum(2, keepdim=True) / (x.shape[2] - 1)
    return (x - mean) / (variance + 1e-6).sqrt()


def mae(s: State, vit: ViT, pixels: Tensor, mask: Tensor, decoder: str, depth: int, heads: int) -> Tensor:
    """The loss of MAE: the mean squared error of hidden patches (He et al. 2022, section 3)."""
    visible = torch.stack([(~m).nonzero()[:, 0] for m in mask])
    latent = linear(vit(pixels, visible)[-1], s, f"{decoder}.enter")
    b, n = mask.shape
    side = math.isqrt(n)
    rows = []
    for i in range(b):
        full = s[f"{decoder}.hidden"].repeat(n, 1)
        full = full.index_copy(0, visible[i], latent[i, 1:])
        rows.append(torch.cat([latent[i, :1], full + grid_positions(side, latent.shape[2])]))
    x = torch.stack(rows)
    for number in range(depth):
        x = block(x, s, f"{decoder}.blocks.{number}", heads, 1e-6)
    x = linear(layer_norm(x, s, f"{decoder}.norm", 1e-6), s, f"{decoder}.leave")[:, 1:]
    error = (x - normalised_pixels(pixels, vit.patch)).square().mean(2)
    return (error * mask).sum() / mask.sum()


def simmim(s: State, vit: ViT, pixels: Tensor, mask: Tensor, predictor: str, token: str) -> Tensor:
    """The loss of SimMIM: the mean absolute error of hidden pixels (Xie et al. 2022, section 3.4)."""
    x = linear(vit(pixels, hidden=mask, token=s[token])[-1][:, 1:], s, predictor)
    error = (x - patchify(pixels, vit.patch)).abs()
    return (error * mask[:, :, None]).sum() / mask.sum() / x.shape[2]


def smooth_l1(x: Tensor, y: Tensor, beta: float) -> Tensor:
    d = (x - y).abs()
    return torch.where(d < beta, 0.5 * d**2 / beta, d - 0.5 * beta)


def data2vec(
    s: State,
    vit: ViT,
    teacher: ViT,
    pixels: Tensor,
    mask: Tensor,
    predictor: str,
    token: str,
    layers: int,
    beta: float,
) -> Tensor:
    """The loss of data2vec on images (Baevski et al. 2022, section 3.3), of outputs at the ends of blocks."""
    with torch.no_grad():
        outputs = teacher(pixels)[:-1][-layers:]
        target = torch.stack([plain_norm(each[:, 1:], 1e-5) for each in outputs]).mean(0)
    x = linear(vit(pixels, hidden=mask, token=s[token])[-1][:, 1:], s, predictor)
    return smooth_l1(x, target, beta)[mask].mean()


def ijepa(
    s: State,
    vit: ViT,
    teacher: ViT,
    pixels: Tensor,
    mask: Tensor,
    targets: Tensor,
    predictor: str,
    depth: int,
    heads: int,
) -> Tensor:
    """The loss of I-JEPA (Assran et al. 2023, section 3): each block is predicted from the context alone."""
    with torch.no_grad():
        target = plain_norm(teacher(pixels)[-1], 1e-5)
    visible = torch.stack([(~m).nonzero()[:, 0] for m in mask])
    context = linear(vit(pixels, visible)[-1], s, f"{predictor}.enter")
    places = grid_positions(math.isqrt(mask.shape[1]), context.shape[2])
    losses = []
    for number in range(targets.shape[1]):
        own = targets[:, number]
        x = torch.cat([context + places[visible], s[f"{predictor}.hidden"] + places[own]], 1)
        for layer in range(depth):
            x = block(x, s, f"{predictor}.blocks.{layer}", heads, 1e-6)
        x = linear(layer_norm(x, s, f"{predictor}.norm", 1e-6), s, f"{predictor}.leave")
        x = x[:, -own.shape[1] :]
        keys = torch.stack([each[index] for each, index in zip(target, own, strict=True)])
        losses.append(smooth_l1(x, keys, 1.0).mean())
    return torch.stack(losses).mean()


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """SimCLR's loss of two views [2 b, D], one below the other (Chen et al. 2020, equation 1)."""
    z = z / z.square().sum(1, keepdim=True).sqrt()
    b = len(z) // 2
    similarity = (z @ z.T / temperature).exp()
    losses = []
    for i in range(2 * b):
        own = similarity[i, (i + b) % (2 * b)]
        losses.append(-torch.log(own / (similarity[i].sum() - similarity[i, i])))
    return torch.stack(losses).mean()


def projection(h: Tensor, s: State, head: str) -> Tensor:
    """Linear, batch norm, ReLU, linear: h [n, F] -> z [n, D]."""
    x = h @ s[f"{head}.layers.0.weight"].T
    mean, variance = x.mean(0), (x - x.mean(0)).square().mean(0)
    x = (x - mean) / (variance + 1e-5).sqrt() * s[f"{head}.layers.1.weight"] + s[f"{head}.layers.1.bias"]
    return linear(x.clamp(min=0), s, f"{head}.layers.3")
