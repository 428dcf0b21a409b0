"""Broken augmentations."""

import torch

from contrastive.augmentations import Operation


class _Brightness(Operation):
    """Brightness that is whole."""

    name = "brightness"

    def draw(self, rng):
        return {"amount": rng.uniform(0.3, 1.0)}

    def render(self, pixels, params):
        return pixels * torch.from_numpy(params["amount"]).to(pixels)[:, None, None, None]


class GlobalDraw(_Brightness):
    """Draws from torch's default generator."""

    def render(self, pixels, params):
        return pixels * torch.rand(len(pixels), 1, 1, 1)


class OneDraw(_Brightness):
    """One draw for the whole batch."""

    def draw(self, rng):
        amount = rng.uniform(0.3, 1.0)
        return {"amount": amount[:1].repeat(len(amount))}


class LeavesRange(_Brightness):
    """Brightens beyond white."""

    def draw(self, rng):
        return {"amount": rng.uniform(0.3, 3.0)}


class InPlace(_Brightness):
    """Writes into the pixels it is given."""

    def render(self, pixels, params):
        return pixels.mul_(torch.from_numpy(params["amount"]).to(pixels)[:, None, None, None])


class LooksAtOthers(_Brightness):
    """Scales by the brightest pixel of the whole batch."""

    def render(self, pixels, params):
        return super().render(pixels, params) / pixels.max()


class WrongSize(_Brightness):
    """Says that it makes 16 x 16 pixels."""

    size = (16, 16)


FAULTS = {
    GlobalDraw: "global state",
    OneDraw: "own draw",
    LeavesRange: "views",
    InPlace: "input kept",
    LooksAtOthers: "pure",
    WrongSize: "size",
}
