"""Which modules of a method run in evaluation mode in every step, because their parameters are frozen.

Its batch norm normalises by running statistics, which do not move; its dropout and stochastic depth are off.
The same holds for the target's copy of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from torch import nn

from contrastive.parts import Backbone, Head, Target

#: The attribute by which a copy of a module knows the name of the original, while a target makes copies.
_ORIGIN = "_name_of_original"


class FrozenModules(NamedTuple):
    """Names of modules within a method.

    Attributes:
        whole: the outermost modules with frozen parameters and no others.
        partial: the innermost modules with both frozen and trained parameters; they stay in training mode.
    """

    whole: tuple[str, ...] = ()
    partial: tuple[str, ...] = ()


def frozen_modules(model: nn.Module, parameters: Collection[nn.Parameter]) -> FrozenModules:
    """The modules of ``model`` that ``parameters``, which are frozen, make up wholly or in part.

    A parameter that needs no gradient anyway, such as a fixed position embedding, does not count as trained.
    """
    frozen = {id(parameter) for parameter in parameters}
    whole: list[str] = []
    partial: list[str] = []

    def visit(prefix: str, module: nn.Module) -> None:
        own = list(module.parameters())
        if not any(id(parameter) in frozen for parameter in own):
            return
        if not any(parameter.requires_grad and id(parameter) not in frozen for parameter in own):
            whole.append(prefix)
            return
        before = len(partial)
        for name, child in module.named_children():
            visit(f"{prefix}.{name}" if prefix else name, child)
        if prefix and len(partial) == before:
            partial.append(prefix)

    visit("", model)
    return FrozenModules(tuple(whole), tuple(partial))


def join_target(
    method: nn.Module, backbone: Backbone, target: Target, heads: Mapping[str, Head]
) -> dict[str, list[str]]:
    """Join a target of a method with the online backbone and the heads that it serves.

    Returns:
        name of a module of these encoders within the method -> names of its copies, which the target
        registered.
    """
    names = {id(module): name for name, module in method.named_modules()}
    encoders = (backbone, *heads.values())
    originals = {id(each): each for part in encoders for each in part.modules() if id(each) in names}
    for key, module in originals.items():
        module.__dict__[_ORIGIN] = names[key]
    try:
        target.join(backbone, heads)
    finally:
        for module in originals.values():
            module.__dict__.pop(_ORIGIN, None)
    copies: dict[str, list[str]] = {}
    for name, module in target.named_modules(prefix=names[id(target)]):
        if (original := module.__dict__.pop(_ORIGIN, None)) is not None:
            copies.setdefault(original, []).append(name)
    return copies
