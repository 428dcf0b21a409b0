"""What a masked autoencoder costs: the encoder on a quarter of the patches, alone and with MAE's decoder.

Forward and backward pass of a ViT-S/16 at 224 pixels, in float32, against the same encoder on all patches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from contrastive_masked import Decoder
from torch import Tensor

from benchmarks.harness import Case, Row, pair, stopwatch
from contrastive.backbones import Timm
from contrastive.views import Marks, Tokens, View

BATCH, SIZE, MODEL, RATIO = 16, 224, "vit_small_patch16_224", 0.75


def masked_view() -> View:
    """Random pixels, three quarters of whose patches are hidden, others in each image."""
    count = (SIZE // 16) ** 2
    order = torch.rand(BATCH, count, generator=torch.Generator().manual_seed(0)).argsort(1)
    mask = torch.ones(BATCH, count, dtype=torch.bool)
    mask.scatter_(1, order[:, : int(count * (1 - RATIO))], value=False)
    return View(torch.rand(BATCH, 3, SIZE, SIZE), Marks.of_mask(mask.numpy()))


def step(forward: Callable[[], Tensor], *modules: torch.nn.Module) -> Callable[[], None]:
    """A forward and backward pass that leaves no gradients."""

    def once() -> None:
        forward().square().mean().backward()
        for module in modules:
            module.zero_grad(set_to_none=True)

    return once


class Work:
    """The three passes that are timed, on one encoder and view."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.encoder = Timm(3, SIZE, MODEL)
        self.decoder = Decoder(self.encoder.features, 3 * 16 * 16)
        self.view = masked_view()

    def visible(self) -> Tokens:
        """The encoder's tokens of the visible patches."""
        return self.encoder.tokens(self.view, keep=self.view.marks.visible)

    def encode_visible(self) -> Callable[[], None]:
        return step(lambda: self.visible().patches, self.encoder)

    def rebuild(self) -> Callable[[], None]:
        hidden = self.view.marks.hidden
        assert hidden is not None
        return step(lambda: self.decoder.at(self.visible(), hidden), self.encoder, self.decoder)

    def encode_whole(self) -> Callable[[], None]:
        return step(lambda: self.encoder.tokens(View(self.view.data)).patches, self.encoder)


def _cases(work: Work) -> tuple[Case, Case]:
    shape = f"ViT-S/16, {BATCH} images of {SIZE} px, {RATIO:.0%} hidden"
    options = {"work": BATCH, "unit": "images/s", "repetitions": 5}
    return (
        Case(f"{shape}: encoder alone", stopwatch(work.encode_visible()), **options),
        Case(f"{shape}: encoder and MAE's decoder", stopwatch(work.rebuild()), **options),
    )


def cases() -> Iterator[Case]:
    """Both passes on visible patches."""
    yield from _cases(Work())


def rows() -> Iterator[Row]:
    """Both against the encoder on all patches."""
    work = Work()
    whole = stopwatch(work.encode_whole())
    alone, with_decoder = _cases(work)
    yield pair(alone, whole, peer="the whole encoder", target=1 / 0.45, note="at most 0.45 of its time")
    yield pair(with_decoder, whole, peer="the whole encoder")
