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


def bind_target(target: Target, backbone: Backbone, head: Head) -> dict[str, list[str]]:
    """Bind a target to the online encoder.

    Returns:
        name of a module of the encoder within the method -> names of its copies, which the target registered.
    """
    parts: Mapping[str, nn.Module] = {"backbone": backbone, "head": head}
    originals = {
        f"{prefix}.{name}".rstrip("."): module
        for prefix, part in parts.items()
        for name, module in part.named_modules()
    }
    for name, module in originals.items():
        module.__dict__[_ORIGIN] = name
    try:
        target.bind(nn.Sequential(backbone, head))
    finally:
        for module in originals.values():
            module.__dict__.pop(_ORIGIN, None)
    copies: dict[str, list[str]] = {}
    for name, module in target.named_modules(prefix="target"):
        if (original := module.__dict__.pop(_ORIGIN, None)) is not None:
            copies.setdefault(original, []).append(name)
    return copies
