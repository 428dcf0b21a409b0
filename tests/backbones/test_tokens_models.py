"""Tokens of 25 networks of timm at two sizes: right, or refused with a reason, as docs/backbones.md says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from token_table import MODELS, Row, lines, masked_view, measure
from torch import Tensor
from torch.nn import functional as F

from contrastive.backbones import Timm
from contrastive.errors import UsageError
from contrastive.parts import Hiding
from contrastive.views import Tokens, View

PAGE = Path(__file__).parents[2] / "docs/backbones.md"

#: Model -> pixels per patch of its last grid, and tokens before the patches, as its authors have them.
TOKENS = {
    "vit_tiny_patch16_224": (16, 1),
    "vit_base_patch16_gap_224": (16, 0),
    "vit_small_patch14_reg4_dinov2": (14, 5),
    "vit_small_patch16_dinov3": (16, 5),
    "vit_relpos_small_patch16_224": (16, 0),
    "deit_tiny_patch16_224": (16, 1),
    "deit_tiny_distilled_patch16_224": (16, 2),
    "deit3_small_patch16_224": (16, 1),
    "eva02_tiny_patch14_224": (14, 1),
    "beit_base_patch16_224": (16, 1),
    "cait_xxs24_224": (16, 1),
    "swin_tiny_patch4_window7_224": (32, 0),
    "maxvit_tiny_rw_224": (32, 0),
    "poolformer_s12": (32, 0),
    "convnext_atto": (32, 0),
    "resnet18": (32, 0),
    "regnety_002": (32, 0),
    "mobilenetv3_small_050": (32, 0),
}
#: Models that run by default, and those that .ci/run runs besides.
QUICK = ("vit_tiny_patch16_224", "levit_128s", "mobilenetv3_small_050")
CI = ("deit_tiny_distilled_patch16_224", "eva02_tiny_patch14_224")


def mark(model: str, is_small: bool = True) -> list:
    if not is_small or model not in QUICK + CI:
        return [pytest.mark.slow]
    return [pytest.mark.ci] if model in CI else []


def network(model: str, size: int) -> Timm:
    torch.manual_seed(0)
    return Timm(3, size, model).eval().double()


@pytest.mark.parametrize("model", [pytest.param(model, marks=mark(model)) for model in MODELS])
def test_the_table_says_what_is_measured(model: str):
    page = PAGE.read_text(encoding="utf-8").splitlines()
    rows = [measure(model, size) for size in MODELS[model]]
    assert [line for line in page if line.startswith(f"| `{model}` ")] == lines(rows)


@pytest.mark.parametrize(
    ("model", "size"),
    [
        pytest.param(model, size, marks=mark(model, size == min(sizes)))
        for model, sizes in MODELS.items()
        for size in sizes
    ],
)
def test_tokens_are_right_or_refused(model: str, size: int):
    row = measure(model, size)
    (check_refusal if row.refusal else check)(row)


def check_refusal(row: Row) -> None:
    """Neither tokens nor, on the way to them, anything but an error of the user's."""
    assert row.model not in TOKENS
    with pytest.raises(UsageError, match=r"\w; |Choose another"):  # with a remedy
        Timm(3, row.size, row.model).tokens(View(torch.rand(1, 3, row.size, row.size)))


def check(row: Row) -> None:
    backbone, view = network(row.model, row.size), masked_view(row.size, row.grid)
    x = view.data.double()
    with torch.no_grad():
        tokens, h = backbone.tokens(View(x)), backbone(x)
    assert torch.equal(tokens.h, h)
    stride, prefix = TOKENS[row.model]
    side = -(-row.size // stride)
    assert (row.grid, row.prefix) == (tokens.grid, tokens.prefix.shape[1]) == ((side, side), prefix)
    assert tokens.patches.shape[:2] == (2, side * side)
    for way in row.hides:
        check_hidden_pixels(backbone, view, way)
    if "drop" in row.hides:
        check_drop(backbone, view, x, prefix)


def check_hidden_pixels(backbone: Timm, view: View, way: Hiding) -> None:
    """Their gradient is zero, and that of every other patch is not."""
    backbone.allow_replacing()
    backbone.double()
    x = view.data.double().requires_grad_()
    hidden = view.marks.mask
    tokens = backbone.tokens(
        View(x), **({"keep": view.marks.visible} if way == "drop" else {"hidden": hidden})
    )
    by_patch = gradients(tokens, x)
    assert (by_patch[hidden] == 0).all()
    assert (by_patch[~hidden] > 0).all()


def gradients(tokens: Tokens, x: Tensor) -> Tensor:
    """Sums of absolute gradients of a random sum of all tokens, per patch: [b, N]."""
    generator = torch.Generator().manual_seed(0)
    outputs = torch.cat([tokens.prefix, tokens.patches], 1)
    weights = torch.rand(outputs.shape, generator=generator, dtype=x.dtype)
    [gradient] = torch.autograd.grad((outputs * weights).sum(), x)
    sides = [side // count for side, count in zip(x.shape[2:], tokens.grid, strict=True)]
    return F.unfold(gradient, sides, stride=sides).abs().sum(1)


def check_drop(backbone: Timm, view: View, x: Tensor, prefix: int) -> None:
    """The whole network with attention masked to the patches that are kept gives them the same tokens."""
    attend = F.scaled_dot_product_attention
    keys = torch.cat([torch.ones(2, prefix, dtype=torch.bool), ~view.marks.mask], 1)[:, None, None]
    calls = []

    def masked(q: Tensor, k: Tensor, v: Tensor, attn_mask: None = None, **options) -> Tensor:
        assert attn_mask is None
        calls.append(k.shape[2])
        return attend(q, k, v, attn_mask=keys, **options)

    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        visible = backbone.tokens(View(x), keep=view.marks.visible)
        patch.setattr(F, "scaled_dot_product_attention", masked)
        whole = backbone.tokens(View(x))
    assert calls == [keys.shape[-1]] * len(backbone.net.blocks)
    assert torch.equal(visible.positions, view.marks.visible)
    expected = Tokens(whole.h, whole.prefix, whole.at(view.marks.visible), None, whole.grid)
    for own, other in ((visible.prefix, expected.prefix), (visible.patches, expected.patches)):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-6)
