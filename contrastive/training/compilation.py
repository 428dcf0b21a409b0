"""``train.compile``: the encoders' forward and backward passes through torch.compile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MethodType

import torch
from torch import nn

from contrastive.errors import ContrastiveError
from contrastive.parts import Backbone, Head

#: The backend of torch.compile.
BACKEND = "inductor"
#: What encodes next to ``forward``.
_TOKEN_METHODS: dict[type[nn.Module], tuple[str, ...]] = {Backbone: ("tokens",), Head: ("at", "image")}


def compile_encoders(method: nn.Module) -> None:
    """Compile every backbone and head in place: the online ones, the predictor, and a target's copies.

    Losses stay as they are. ``state_dict`` keeps its names, so that checkpoints and exports are the same as
    without compilation. Each view size and each batch size is compiled separately.
    """
    for module in method.modules():
        for kind, names in _TOKEN_METHODS.items():
            if isinstance(module, kind):
                _compile(module, names)


def _compile(module: nn.Module, names: Iterable[str]) -> None:
    """Compile calls of a module, and some of its methods."""
    module.compile(backend=BACKEND, dynamic=False)
    for name in names:
        function = torch.compile(getattr(type(module), name), backend=BACKEND, dynamic=False)
        # A bound method: a deep copy of the module gets one that is bound to itself.
        setattr(module, name, MethodType(function, module))


def without_compilation() -> AbstractContextManager[object]:
    """Within it, compiled modules run uncompiled, so that other batch sizes cause no compilation."""
    return torch.compiler.set_stance("force_eager")


@contextmanager
def explain_compile_errors() -> Iterator[None]:
    """Raises ContrastiveError, with the remedy, if torch.compile fails."""
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        message = str(error).partition("\nSet TORCH")[0]  # torch's own advice follows
        reason = " ".join(message.split()[:40]) or type(error).__name__
        raise ContrastiveError(
            f"train.compile: torch.compile failed ({reason}). On a CPU it needs a C++ compiler such as g++; "
            "set train.compile: false to train without it."
        ) from error


def explain_compile_errors_if(compiles: bool) -> AbstractContextManager[None]:
    """:func:`explain_compile_errors` for a run that compiles; otherwise torch._dynamo, which loads slowly, is
    not imported."""
    return explain_compile_errors() if compiles else nullcontext()
