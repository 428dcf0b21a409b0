"""CMAE as a plain script, in float64, from the paper and the authors' code (Huang et al. 2022).

It shares no code with the package. Weights have the names of the method's ``state_dict``.
"""

from __future__ import annotations

import math

import torch
from masked_scripts import State, ViT, block, grid_positions, layer_norm, linear, normalised_pixels
from torch import Tensor

CONTRAST, REBUILD = "objectives.contrast", "objectives.rebuild"
HEAD, TARGET = f"{CONTRAST}.head", f"{CONTRAST}.target.encoder"


def decode(latent: Tensor, visible: Tensor, n: int, s: State, name: str, depth: int, heads: int) -> Tensor:
    """MAE's decoder: class token and visible patches [b, 1 + v, G] -> all patches [b, n, D]."""
    x = linear(latent, s, f"{name}.enter")
    places = grid_positions(math.isqrt(n), x.shape[2])
    images = []
    for tokens, own in zip(x, visible, strict=True):
        full = s[f"{name}.hidden"].repeat(n, 1).index_copy(0, own, tokens[1:])
        images.append(torch.cat([tokens[:1], full + places]))
    x = torch.stack(images)
    for number in range(depth):
        x = block(x, s, f"{name}.blocks.{number}", heads, 1e-6)
    return linear(layer_norm(x, s, f"{name}.norm", 1e-6), s, f"{name}.leave")[:, 1:]


def perceptron(x: Tensor, s: State, name: str) -> Tensor:
    """Linear, batch norm, ReLU, linear without bias, as projector and predictor of the authors' code."""
    x = x @ s[f"{name}.layers.0.weight"].T
    x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
    x = x * s[f"{name}.layers.1.weight"] + s[f"{name}.layers.1.bias"]
    return x.clamp(min=0) @ s[f"{name}.layers.3.weight"].T


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(1, keepdim=True).sqrt()


def cmae(
    s: State,
    vit: ViT,
    teacher: ViT,
    pixels: Tensor,
    shifted: Tensor,
    mask: Tensor,
    depths: tuple[int, int],
    heads: int,
    temperature: float,
) -> Tensor:
    """The loss: L_r + 2 t CE, as in the authors' ``CMAEPretrainHead`` (the paper has weights of 1).

    Args:
        vit, teacher: the encoder, and its average. Both norm their output, unlike the authors' target.
        pixels, shifted: the masked view, and the target's.
        mask: [b, n] of the masked view, True: hidden.
        depths: blocks of the feature decoder, and of the pixel decoder.
        heads: of both decoders.
        temperature: t.
    """
    n = mask.shape[1]
    visible = torch.stack([(~own).nonzero()[:, 0] for own in mask])
    latent = vit(pixels, visible)[-1]
    feature = decode(latent, visible, n, s, f"{HEAD}.decoder", depths[0], heads)
    z = perceptron(feature.mean(1), s, f"{HEAD}.projector")
    query = unit(perceptron(z, s, f"{CONTRAST}.predictor"))
    with torch.no_grad():
        key = unit(perceptron(teacher(shifted)[-1][:, 1:].mean(1), s, f"{TARGET}.1.projector"))
    scores = query @ key.T / temperature
    entropy = torch.stack([torch.logsumexp(row, 0) - row[i] for i, row in enumerate(scores)]).mean()

    rebuilt = decode(latent, visible, n, s, f"{REBUILD}.predictor", depths[1], heads)
    error = (rebuilt - normalised_pixels(pixels, vit.patch)).square().mean(2)
    return (error * mask).sum() / mask.sum() + 2 * temperature * entropy
