"""The tokens of torchvision's networks: the sequence of a vision transformer, or the last map before pooling.

torchvision has neither a forward pass that stops before pooling nor one that hides patches. Hooks, which last
for one pass, take the tokens out, leave patches out after positions are added, and replace them before that.

Shape letters: b images, N patches of the grid, n of them visible, G width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from contrastive.backbones.tokens import Replace
from contrastive.parts import Hiding
from contrastive.views import Tokens, take

PREFIX = 1  # the class token of torchvision's vision transformers


def is_transformer(net: nn.Module) -> bool:
    """Whether it is torchvision's vision transformer, whose first token is a class token."""
    from torchvision.models import VisionTransformer

    return isinstance(net, VisionTransformer)


def ways_to_hide(net: nn.Module) -> frozenset[Hiding]:
    """In which ways patches may be hidden: in both if a vision transformer embeds each on its own."""
    embeds_alone = is_transformer(net) and isinstance(net.conv_proj, nn.Conv2d)
    return frozenset(("drop", "replace")) if embeds_alone else frozenset()


def last_map(net: nn.Module, classifier: str) -> tuple[nn.Module, bool]:
    """The module whose input (True) or output (False) is the sequence of tokens or the last map.

    A map is what the last adaptive pooling gets. Where pooling is a function, it is what the last module
    before the classifier returns.

    Args:
        classifier: name of the layer that was the last one.
    """
    if is_transformer(net):
        return net.get_submodule("encoder"), False
    pools = [module for module in net.modules() if isinstance(module, nn.AdaptiveAvgPool2d)]
    if pools:
        return pools[-1], True
    children = [name for name, _ in net.named_children()]
    return net.get_submodule(children[children.index(classifier.partition(".")[0]) - 1]), False


@contextmanager
def token_hooks(
    net: nn.Module,
    source: nn.Module,
    is_input: bool,
    replace: Replace | None,
    keep: Tensor | None,
    hidden: Tensor | None,
) -> Iterator[list[Tensor]]:
    """Within it a pass of the network hides patches; yields a list to which it appends its tokens.

    Args:
        source, is_input: from :func:`last_map`.
        replace: has the token that stands for hidden patches.
        keep: [b, n], positions of the visible patches.
        hidden: [b, N] bool.
    """
    outputs: list[Tensor] = []
    with ExitStack() as hooks:
        if is_input:
            hook = source.register_forward_pre_hook(lambda _, inputs: outputs.append(inputs[0]))
        else:
            hook = source.register_forward_hook(lambda _, __, output: outputs.append(output))
        hooks.callback(hook.remove)
        if keep is not None:
            layers = net.get_submodule("encoder.layers")
            hook = layers.register_forward_pre_hook(lambda _, inputs: (_visible(inputs[0], keep),))
            hooks.callback(hook.remove)
        if hidden is not None:
            assert replace is not None  # an objective that replaces has made it

            def put(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
                embedding = output.permute(0, 2, 3, 1)  # [b, rows, columns, G]
                return replace.put(embedding, hidden).permute(0, 3, 1, 2)

            hooks.callback(net.get_submodule("conv_proj").register_forward_hook(put).remove)
        yield outputs


def _visible(x: Tensor, keep: Tensor) -> Tensor:
    """[b, 1 + N, G] -> [b, 1 + n, G]."""
    return torch.cat([x[:, :PREFIX], take(x[:, PREFIX:], keep)], 1)


def tokens_of_sequence(h: Tensor, x: Tensor, keep: Tensor | None, grid: tuple[int, int]) -> Tokens:
    """Tokens of [b, 1 + n, G]."""
    return Tokens(h, x[:, :PREFIX], x[:, PREFIX:], keep, grid)


def tokens_of_map(h: Tensor, x: Tensor) -> Tokens:
    """Tokens of [b, G, rows, columns]."""
    patches = x.flatten(2).mT  # [b, N, G]
    return Tokens(h, patches[:, :0], patches, None, cast("tuple[int, int]", tuple(x.shape[2:])))
