"""The tokens of timm's networks: those of patches, and those before them (class and registers).

timm has no masked forward pass. Patches are left out by a module in the slot where timm drops patches at
random, after positions are added; they are replaced by a hook on the patch embedding, before that.

Shape letters: b images, N patches of the grid, n of them visible, P prefix tokens, G width.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from contrastive.errors import UsageError
from contrastive.parts import Backbone, Hiding
from contrastive.views import Tokens, take


def check_hiding(backbone: Backbone, name: str, keep: Tensor | None, hidden: Tensor | None) -> None:
    """Raise UsageError if a backbone is to hide patches in a way that it does not declare."""
    for way, value in (("drop", keep), ("replace", hidden)):
        if value is not None and way not in backbone.hides:
            raise UsageError(f"{name} cannot hide patches by {way}.")


class Keep(nn.Module):
    """Keeps the patches at given positions, in a network's slot ``patch_drop``; all if there are none.

    Args:
        prefix: number of tokens before the patches.
        gives_indices: whether the network also takes the positions that were kept, to rotate its keys.
    """

    def __init__(self, prefix: int, gives_indices: bool):
        super().__init__()
        self.prefix, self.gives_indices = prefix, gives_indices
        self.positions: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor | None]:
        """[b, P + N, G] -> [b, P + n, G]."""
        if self.positions is not None:
            x = torch.cat([x[:, : self.prefix], take(x[:, self.prefix :], self.positions)], 1)
        return (x, self.positions) if self.gives_indices else x


class Replace(nn.Module):
    """Puts a learnt token in the place of hidden patches, after a network's patch embedding.

    It starts from zeros and is always in the graph while patches are hidden.

    Args:
        width: of the embedded patches.
    """

    def __init__(self, width: int):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(width))
        self.hidden: Tensor | None = None

    def hook(self, _: nn.Module, __: Any, output: Tensor) -> Tensor:
        """[b, N, G], or [b, H, W, G], as ``register_forward_hook`` hands it over."""
        return output if self.hidden is None else self.put(output, self.hidden)

    def put(self, x: Tensor, hidden: Tensor) -> Tensor:
        """x [b, N, G] or [b, H, W, G], with the token at the patches of ``hidden`` [b, N]."""
        return torch.where(hidden.view(*x.shape[:-1], 1), self.token.to(x.dtype), x)


def ways_to_hide(net: nn.Module) -> frozenset[Hiding]:
    """In which ways a network's patches may be hidden, as far as its modules tell."""
    ways: set[Hiding] = set()
    if _grid_of(net) is not None and hasattr(net, "patch_drop") and _is_free(net.patch_drop):
        ways.add("drop")
    if _grid_of(net) is not None and hasattr(net, "num_prefix_tokens"):
        ways.add("replace")
    return frozenset(ways)


def _is_free(slot: object) -> bool:
    return slot is None or isinstance(slot, nn.Identity | Keep)


def _grid_of(net: nn.Module) -> tuple[int, int] | None:
    """Rows and columns of the patches that a network embeds; None if it embeds none."""
    grid = getattr(getattr(net, "patch_embed", None), "grid_size", None)
    return None if grid is None else cast("tuple[int, int]", tuple(grid))


def keep_module(net: nn.Module) -> Keep:
    """The module that leaves patches out, which is put in its place if it is not there yet."""
    slot = net.patch_drop
    if isinstance(slot, Keep):
        return slot
    keep = Keep(cast(int, net.num_prefix_tokens), gives_indices=slot is None)
    net.patch_drop = keep
    return keep


def split_tokens(
    net: nn.Module, name: str, features: Tensor, keep: Tensor | None, size: torch.Size
) -> Tokens:
    """What ``forward_features`` gave, as tokens; ``h`` is what ``forward_head`` makes of it.

    Args:
        net, name: the network, and its name in messages.
        features: [b, P + n, G], or a map [b, G, rows, columns] or [b, rows, columns, G].
        keep: [b, n], positions of the visible patches; None: all.
        size: (h, w) of the view in pixels.

    Raises:
        UsageError: the tokens are not those of a grid.
    """
    h = cast(Any, net).forward_head(features)
    if not isinstance(features, Tensor) or features.ndim not in (3, 4):
        raise UsageError(
            f"{name} gives no tokens of patches; use a vision transformer or a convolutional network."
        )
    if features.ndim == 4:
        is_last = getattr(net, "output_fmt", "NCHW") == "NHWC"
        patches = features if is_last else features.permute(0, 2, 3, 1)  # [b, rows, columns, G]
        flat = patches.flatten(1, 2)
        return Tokens(h, flat[:, :0], flat, None, (patches.shape[1], patches.shape[2]))
    tokens = features
    if norms_after_pooling(net):
        tokens = cast(nn.Module, net.fc_norm)(tokens)
    prefix = cast(int, getattr(net, "num_prefix_tokens", 0))
    grid = _grid(net, size)
    patches = tokens[:, prefix:]
    count = patches.shape[1] if keep is None else None
    if grid is None or (count is not None and count != grid[0] * grid[1]):
        raise UsageError(
            f"{name} gives {tokens.shape[1]} tokens for views of {size[0]} x {size[1]} pixels, of which it "
            f"declares {prefix} as class or register tokens. The others do not match a grid of patches that "
            "it declares; use another network at level patch."
        )
    return Tokens(h, tokens[:, :prefix], patches, keep, grid)


def norms_after_pooling(net: nn.Module) -> bool:
    """Whether a network norms the pooled patches, not each of them."""
    return isinstance(getattr(net, "norm", None), nn.Identity) and hasattr(net, "fc_norm")


def _grid(net: nn.Module, size: torch.Size) -> tuple[int, int] | None:
    """Rows and columns of patches of a view; those of the last stage if patches are merged on the way."""
    embed = getattr(net, "patch_embed", None)
    own = _grid_of(net)
    if embed is None or own is None:
        return None
    patch = getattr(embed, "patch_size", None)
    if patch is not None and tuple(getattr(embed, "img_size", size) or size) != tuple(size):
        return size[0] // patch[0], size[1] // patch[1]
    return own
