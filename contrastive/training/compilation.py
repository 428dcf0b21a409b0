"""``train.compile``: encoders and the colour operations of views through torch.compile.

With a mode, torch replays CUDA graphs. They share one pool of memory, whose rules are kept by construction:

- The engine marks the beginning of each optimizer step. Until the next mark, no graph reuses memory of the
  pool that is still live: what another view or chunk has saved for its backward pass, and gradients that add
  up over chunks and micro-batches. Without marks, a forward pass after a backward pass may reuse both.
- After the mark, graphs reuse the memory of the step before even if a tensor still refers to it. So compiled
  calls return copies outside the pool, which a part or a callback may keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial, wraps
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from contrastive.augmentations import Pipeline, with_compiled_colours
from contrastive.errors import ContrastiveError
from contrastive.parts import Backbone, Head
from contrastive.views import Tokens

#: The backend of torch.compile.
BACKEND = "inductor"
#: Graphs of one function, which all modules of a class share: torch's own limit of 8 is fewer than views of
#: several sizes in uneven chunks need, and beyond it torch silently runs a module uncompiled.
_GRAPHS = 64
#: What encodes next to ``forward``.
_TOKEN_METHODS: dict[type[nn.Module], tuple[str, ...]] = {Backbone: ("tokens",), Head: ("at", "image")}


def compile_encoders(method: nn.Module, mode: str | None = None) -> None:
    """Compile every backbone and head in place: the online ones, the predictor, and a target's copies.

    Losses stay as they are. ``state_dict`` keeps its names, so that checkpoints and exports are the same as
    without compilation. Each view size and each batch size is compiled separately.

    Args:
        method: what is compiled.
        mode: torch's, which replays CUDA graphs; None: its default mode, without them.
    """
    limits = torch._dynamo.config
    limits.cache_size_limit = max(limits.cache_size_limit, _GRAPHS)
    for module in method.modules():
        for kind, names in _TOKEN_METHODS.items():
            if isinstance(module, kind):
                _compile(module, names, mode)


def _compile(module: nn.Module, names: Iterable[str], mode: str | None) -> None:
    """Compile calls of a module, and some of its methods."""
    module.compile(backend=BACKEND, mode=mode, dynamic=False)
    if mode is not None:
        assert module._compiled_call_impl is not None
        module._compiled_call_impl = _copying(module._compiled_call_impl)
    for name in names:
        function = torch.compile(getattr(type(module), name), backend=BACKEND, mode=mode, dynamic=False)
        # A bound method: a deep copy of the module gets one that is bound to itself.
        setattr(module, name, MethodType(function if mode is None else _copying(function), module))


def _copying(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, returning copies: its own outputs lie in memory that the next step reuses."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return _copy(function(*args, **kwargs))

    return call


def _copy(output: Any) -> Any:
    """A copy of a tensor, or of the tensors of tokens; their gradients pass."""
    if isinstance(output, Tokens):
        return replace(output, **{name: _copy(value) for name, value in vars(output).items()})
    return output.clone() if isinstance(output, Tensor) else output


def compile_views(pipelines: Sequence[Pipeline]) -> list[Pipeline]:
    """Pipelines whose colour operations are compiled, each without breaks of the graph.

    Their inputs have the same shapes in every batch; if the sizes of views change, the second one is compiled
    for all. In no mode do they replay CUDA graphs, which would first copy all pixels for a few kernels.
    """
    compiler = partial(torch.compile, backend=BACKEND, fullgraph=True)
    return [with_compiled_colours(pipeline, compiler) for pipeline in pipelines]


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
