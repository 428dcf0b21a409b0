"""Options that a model takes and never uses."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import nn

from contrastive.errors import UsageError, did_you_mean

#: An option that no model has: a model that takes it takes anything.
_NONSENSE = "no_model_has_this_option"


def refuse_unused(
    net: nn.Module, name: str, options: Mapping[str, Any], build: Callable[[dict[str, Any]], nn.Module]
) -> None:
    """Raise UsageError for an option that nothing in the code of a model names, if the model takes anything.

    An option that the code names and does nothing with cannot be told from one that has an effect.

    Args:
        net: built with the options.
        name: of the model.
        options: of the recipe.
        build: builds the model with other options.
    """
    names = _named_parameters(type(net).__mro__) if options else frozenset()
    for key, value in options.items():
        is_absent = value is None and ":" not in key  # null removes an option that the recipe inherits
        if key in names or is_absent or not _takes_anything(build, value):
            continue
        remedy = did_you_mean(key, names) or " Remove it."
        if ":" in key:
            word, _, text = key.partition(":")
            remedy = f" A space is missing after the colon: write '{word}: {text}'."
        raise UsageError(f"backbone options: {name} has no option '{key}' and would ignore it.{remedy}")


def _takes_anything(build: Callable[[dict[str, Any]], nn.Module], value: Any) -> bool:
    try:
        with torch.random.fork_rng(devices=[]):
            build({_NONSENSE: value})
    except Exception:  # a model refuses an unknown option in its own code, with any error
        return False
    return True


@cache
def _named_parameters(classes: tuple[type, ...]) -> frozenset[str]:
    """The parameters of a model's classes, and of all functions and classes of their modules."""
    names: set[str] = set()
    for base in classes:
        if base.__module__.partition(".")[0] in ("torch", "builtins"):
            continue
        names.update(_parameters(base))
        for member in vars(sys.modules[base.__module__]).values():
            if getattr(member, "__module__", None) == base.__module__ and callable(member):
                names.update(_parameters(member))
    return frozenset(names)


def _parameters(function: Callable[..., Any]) -> Iterator[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C
        return
    keywords = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    yield from (parameter.name for parameter in parameters if parameter.kind in keywords)
