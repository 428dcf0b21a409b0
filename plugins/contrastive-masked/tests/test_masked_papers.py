"""Masked methods against plain scripts of their papers: loss and weights after three steps, in float64."""

from __future__ import annotations

from collections.abc import Callable

import masked_scripts as scripts
import numpy as np
import pytest
import torch
from contrastive_masked import L1, MSE, Decoder, MaskPatches, MaskTargets, OwnPixels, Positional, SmoothL1
from torch import Tensor

from contrastive.backbones import Timm
from contrastive.heads import Linear, NoHead
from contrastive.negatives import NoNegatives
from contrastive.targets import EMA
from contrastive.training import Method, Objective
from contrastive.values import Progress
from contrastive.views import Marks, View

B, SIDE, PATCH, G, DEPTH, HEADS, STEPS, RATE = 4, 16, 4, 24, 3, 3, 3, 0.1
N = (SIDE // PATCH) ** 2
MOMENTUM = 0.9
BACKBONE = "backbone.net"


def vision_transformer(**options) -> Timm:
    own = {"patch_size": PATCH, "depth": DEPTH, "embed_dim": G, "num_heads": HEADS}
    return Timm(1, SIDE, "vit_tiny_patch16_224", options=own | options)


def views(targets: bool) -> list[View]:
    """Pixels of every step, with masks that differ from image to image."""
    generator, numbers = torch.Generator().manual_seed(1), np.random.default_rng(1)
    batches = []
    for _ in range(STEPS):
        pixels = torch.rand(B, 1, SIDE, SIDE, generator=generator, dtype=torch.float64)
        if targets:
            starts = numbers.integers(0, 3, (B, 2))
            blocks = np.stack([[[s * 4, s * 4 + 1], [s * 4 + 4, s * 4 + 5]] for s in starts[:, 0]])
            mask = np.zeros((B, N), bool)
            for image, own in enumerate(blocks):
                rest = [n for n in range(N) if n not in own.flatten()]
                hidden = [*own.flatten(), *numbers.permutation(rest)][:9]
                mask[image, hidden] = True
            marks = Marks.of_mask(mask).updated(Marks(targets=torch.from_numpy(blocks)))
        else:
            order = np.argsort(numbers.random((B, N)), axis=1)
            mask = np.zeros((B, N), bool)
            np.put_along_axis(mask, order[:, :12], True, 1)
            marks = Marks.of_mask(mask)
        batches.append(View(pixels, marks))
    return batches


def objective(**parts) -> Objective:
    own = {
        "head": NoHead(G),
        "negatives": [NoNegatives()],
        "online_views": (0,),
        "target_views": (0,),
        "name": "masked",
        "level": "patch",
        "same": True,
        "rows": "masked",
    }
    return Objective(**(own | parts))


def mae() -> tuple[Timm, Objective]:
    decoder = Decoder(G, PATCH**2, width=16, depth=2, heads=4)
    target = OwnPixels(1, PATCH)
    return vision_transformer(), objective(
        predictor=decoder, target=target, losses=[(1.0, MSE())], hide="drop"
    )


def simmim() -> tuple[Timm, Objective]:
    target = OwnPixels(1, PATCH, per_patch=False)
    return vision_transformer(), objective(
        predictor=Linear(G, PATCH**2), target=target, losses=[(1.0, L1())], hide="replace"
    )


def data2vec() -> tuple[Timm, Objective]:
    target = EMA(MOMENTUM, layers=2, layer_norm=True)
    return vision_transformer(), objective(
        predictor=Linear(G, G), target=target, losses=[(1.0, SmoothL1(2.0))], hide="replace"
    )


def ijepa() -> tuple[Timm, Objective]:
    predictor = Positional(G, G, width=16, depth=2, heads=4)
    return vision_transformer(class_token=False, global_pool="avg", fc_norm=False), objective(
        predictor=predictor,
        target=EMA(MOMENTUM, layer_norm=True),
        losses=[(1.0, SmoothL1())],
        hide="drop",
        rows="targets",
    )


PREDICTOR = "objectives.masked.predictor"
TEACHER = "objectives.masked.target.encoder.0.net"
TOKEN = "backbone.replace.token"


def script_loss(name: str, s: scripts.State, view: View) -> Tensor:
    marks, pixels = view.marks, view.data
    vit = scripts.ViT(s, BACKBONE, PATCH, DEPTH, HEADS, class_token=name != "ijepa")
    teacher = scripts.ViT(s, TEACHER, PATCH, DEPTH, HEADS, class_token=name != "ijepa")
    if name == "mae":
        return scripts.mae(s, vit, pixels, marks.mask, PREDICTOR, 2, 4)
    if name == "simmim":
        return scripts.simmim(s, vit, pixels, marks.mask, f"{PREDICTOR}.layer", TOKEN)
    if name == "data2vec":
        return scripts.data2vec(s, vit, teacher, pixels, marks.mask, f"{PREDICTOR}.layer", TOKEN, 2, 2.0)
    return scripts.ijepa(s, vit, teacher, pixels, marks.mask, marks.targets, PREDICTOR, 2, 4)


def move_average(s: scripts.State) -> None:
    copy = TEACHER.removesuffix(".net")  # of the backbone, with the token that a copy never uses
    for name in list(s):
        if name.startswith(copy):
            online = s[name.replace(copy, "backbone")].detach()
            s[name] = MOMENTUM * s[name] + (1 - MOMENTUM) * online


@pytest.mark.parametrize("make", [mae, simmim, data2vec, ijepa])
def test_three_steps_equal_the_script(make: Callable[[], tuple[Timm, Objective]]):
    name = make.__name__
    torch.manual_seed(0)
    backbone, own = make()
    method = Method.of(backbone, [own], {}, joint=True).double().train()
    s = {key: value.clone() for key, value in method.state_dict().items()}
    trained = [key for key, p in method.named_parameters() if p.requires_grad]
    for step, view in enumerate(views(targets=name == "ijepa")):
        loss = method([view], torch.arange(B)).loss
        loss.backward()
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter.data -= RATE * parameter.grad
                parameter.grad = None
        method.after_step(Progress(step, STEPS))

        leaves = [s[key].requires_grad_() for key in trained]
        value = script_loss(name, s, view)
        torch.testing.assert_close(loss, value, rtol=1e-9, atol=1e-12)
        gradients = torch.autograd.grad(value, leaves, allow_unused=True)
        for key, gradient in zip(trained, gradients, strict=True):
            s[key] = s[key].detach() - (0 if gradient is None else RATE * gradient)
        move_average(s)
    for key, tensor in method.state_dict().items():
        torch.testing.assert_close(tensor, s[key].detach(), rtol=1e-9, atol=1e-11, msg=key)


@pytest.mark.parametrize("operation", [MaskPatches(0.75), MaskTargets(2, (0.1, 0.1), (1.0, 1.0))])
def test_masks_belong_to_the_image(operation):
    """The same image has the same mask in any batch, and other images other masks, of one size."""
    from contrastive.augmentations import Pipeline
    from contrastive.rng import Key

    pipeline, sizes = Pipeline([operation]), np.full((6, 2), SIDE)
    ids = np.arange(10, 16)
    marks = pipeline.marks(ids, Key(0, 0, 0), (8, 8), sizes)
    alone = pipeline.marks(ids[2:3], Key(0, 0, 0), (8, 8), sizes[:1])
    assert torch.equal(marks.mask[2:3], alone.mask)
    assert len({tuple(row) for row in marks.mask.tolist()}) == len(ids)
    assert torch.equal(marks.mask.sum(1), marks.mask.sum(1)[:1].expand(len(ids)))
    other = pipeline.marks(ids, Key(0, 1, 0), (8, 8), sizes)
    assert not torch.equal(marks.mask, other.mask)
