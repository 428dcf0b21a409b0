"""Broken backbones that give tokens, and heads that read them."""

from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from contrastive.kinds import InChannels, InFeatures, OutFeatures
from contrastive.parts import Backbone, Head
from contrastive.views import Tokens, View, take

PATCH, WIDTH = 8, 6


class _Patches(Backbone):
    """One class token and patches of 8 pixels, which are mixed after some are hidden."""

    features = WIDTH
    hides = frozenset(("drop", "replace"))

    def __init__(self, in_channels: InChannels):
        super().__init__()
        self.enter = nn.Linear(in_channels * PATCH**2, WIDTH)
        self.places = nn.Linear(1, WIDTH)
        self.token = nn.Parameter(torch.randn(WIDTH))
        self.mix = nn.Linear(2 * WIDTH, WIDTH)

    def allow_replacing(self):
        self.stand_in = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x):
        return self.tokens(View(x)).h

    def tokens(self, view, keep=None, hidden=None):
        x = self.enter(F.unfold(view.data, PATCH, stride=PATCH).mT)  # [b, N, G]
        if hidden is not None:
            x = torch.where(hidden[:, :, None], self.stand_in, x)
        x = x + self.places(torch.linspace(-1, 1, x.shape[1])[:, None])
        return self.encode(x if keep is None else take(x, keep), keep, view)

    def encode(self, x, keep, view):
        x = torch.cat([self.token.expand(len(x), 1, -1), x], 1)
        x = self.mix(torch.cat([x, x.mean(1, keepdim=True).expand_as(x)], 2)).tanh()
        rows, columns = (side // PATCH for side in view.data.shape[2:])
        return Tokens(x.mean(1), x[:, :1], x[:, 1:], keep, (rows, columns))


class MixesFirst(_Patches):
    """Mixes patches before it leaves some out: a hidden pixel reaches the visible ones."""

    def tokens(self, view, keep=None, hidden=None):
        whole = super().tokens(view)
        if keep is None:
            return super().tokens(view, hidden=hidden)
        return replace(whole, patches=whole.at(keep), positions=keep, h=whole.h)


class ReplacesLate(_Patches):
    """Puts its token in the place of patches after their mean was taken."""

    def tokens(self, view, keep=None, hidden=None):
        found = super().tokens(view, keep)
        if hidden is None:
            return found
        return replace(found, patches=torch.where(hidden[:, :, None], self.stand_in, found.patches))


class KeepsHidden(_Patches):
    """Takes the mask the wrong way round."""

    def tokens(self, view, keep=None, hidden=None):
        return super().tokens(view, keep, None if hidden is None else ~hidden)


class PlacesAfterwards(_Patches):
    """Counts positions among the visible patches."""

    def tokens(self, view, keep=None, hidden=None):
        x = self.enter(F.unfold(view.data, PATCH, stride=PATCH).mT)
        if hidden is not None:
            x = torch.where(hidden[:, :, None], self.stand_in, x)
        x = x if keep is None else take(x, keep)
        x = x + self.places(torch.linspace(-1, 1, x.shape[1])[:, None])
        return self.encode(x, keep, view)


class PrefixAmongPatches(_Patches):
    """Its class token is one of the patches, as in a network that does not declare such tokens."""

    hides = frozenset()

    def encode(self, x, keep, view):
        found = super().encode(x, keep, view)
        return replace(found, patches=torch.cat([found.prefix, found.patches], 1), prefix=found.prefix[:, :0])


class PoolsDifferently(_Patches):
    """Features are the mean of the patches; of tokens, h is the class token."""

    def tokens(self, view, keep=None, hidden=None):
        found = super().tokens(view, keep, hidden)
        return replace(found, h=found.prefix[:, 0])

    def forward(self, x):
        return self.tokens(View(x)).patches.mean(1)


class _Fills(Head):
    """Predicts a hidden patch from the visible ones, weighted by where they are, and its position."""

    fills = True

    def __init__(self, in_features: InFeatures, out_features: OutFeatures):
        super().__init__()
        self.out_features = out_features
        self.layer, self.place = nn.Linear(in_features, out_features), nn.Linear(2, out_features)

    def forward(self, h):
        raise NotImplementedError("it predicts patches")

    def at(self, tokens, positions):
        context = self.context(tokens)  # [b, F]
        shape = (len(context), *(1 for _ in positions.shape[1:]), -1)
        return self.layer(context).view(shape) + self.of(positions, tokens.count)

    def context(self, tokens):
        positions = tokens.everywhere() if tokens.positions is None else tokens.positions
        return (tokens.patches * torch.cos(positions[:, :, None] / 3)).mean(1)

    def of(self, positions, count):
        share = positions.to(self.place.weight.dtype) / count
        return self.place(torch.stack([share, share.square()], -1))


class RemembersWholeViews(_Fills):
    """Keeps the patches of the last whole view that it saw, and predicts with them."""

    last = None

    def context(self, tokens):
        if tokens.positions is None:
            self.last = tokens.patches.detach().mean(1)
        return super().context(tokens) + (0 if self.last is None else self.last)


class IgnoresPlaces(_Fills):
    """Takes the visible patches for the first ones of the grid."""

    def context(self, tokens):
        return super().context(replace(tokens, positions=tokens.everywhere()[:, : tokens.patches.shape[1]]))


class PredictsOne(_Fills):
    """Predicts the same for every hidden patch."""

    def of(self, positions, count):
        return self.place(torch.ones(*positions.shape, 2))


class FlattensBlocks(_Fills):
    """Forgets that positions may come in blocks."""

    def at(self, tokens, positions):
        return super().at(tokens, positions.flatten(1))


class UnusedDecoder(_Fills):
    """Has a layer that no prediction passes: nothing but weight decay would change it."""

    def __init__(self, in_features: InFeatures, out_features: OutFeatures):
        super().__init__(in_features, out_features)
        self.extra = nn.Linear(in_features, out_features)


class ImageOfItsOwn(_Fills):
    """Says how it makes z of whole images, and not that it reads tokens for it."""

    def image(self, tokens):
        return self.layer(tokens.patches.mean(1))


class Embeds(Head):
    """An embedding of images and of patches, that is whole."""

    def __init__(self, in_features: InFeatures):
        super().__init__()
        self.out_features, self.layer = in_features, nn.Linear(in_features, in_features)

    def forward(self, h):
        return self.layer(h)


class MixesImages(Embeds):
    """Subtracts the mean over the batch from its patches."""

    def at(self, tokens, positions):
        z = super().at(tokens, positions)
        return z - z.mean(0)


class _Pools(Head):
    """The embedding of the mean of the patches."""

    pools = True

    def __init__(self, in_features: InFeatures):
        super().__init__()
        self.out_features, self.layer = in_features, nn.Linear(in_features, in_features)

    def forward(self, h):
        return self.layer(h)

    def image(self, tokens):
        return self(tokens.patches.mean(1))


class PoolsUndeclared(_Pools):
    """Pools patches and does not say so."""

    pools = False


class PoolsNothing(_Pools):
    """Says that it pools patches, and reads h."""

    def image(self, tokens):
        return self(tokens.h)


FAULTS = {
    MixesFirst: "hides",
    ReplacesLate: "hides",
    KeepsHidden: "hides",
    PlacesAfterwards: "hides",
    PrefixAmongPatches: "tokens",
    PoolsDifferently: "tokens",
    RemembersWholeViews: "fills",
    IgnoresPlaces: "fills",
    PredictsOne: "fills",
    FlattensBlocks: "positions",
    UnusedDecoder: "gradients",
    ImageOfItsOwn: "pools",
    MixesImages: "rows",
    PoolsUndeclared: "pools",
    PoolsNothing: "pools",
}


class Patches(_Patches):
    """Tokens that are whole."""


class Fills(_Fills):
    """A predictor that is whole."""


class Pools(_Pools):
    """A head of tokens that is whole."""


WHOLE = (Patches, Fills, Embeds, Pools)
