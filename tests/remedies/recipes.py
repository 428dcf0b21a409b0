"""Recipes with objectives on the tiny data, changed key by key, and what is wrong with one key."""

from __future__ import annotations

import copy
import re
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from contrastive.build import build
from contrastive.errors import RecipeError
from contrastive.recipe import load_recipe
from contrastive.registry import Registry
from tests.support.attempts import TINY, registry
from tests.support.masked_recipes import recipe_of
from tests.support.remedies import Remedy

Tree = dict[str, Any]
CNN = {"name": "timm", "model": "resnet10", "stem": "small", "options": {"width": 0.125}}


def written(tree: Tree) -> Path:
    """The recipe, on the data of the tiny one."""
    tree = copy.deepcopy(tree)
    tree["dataset"] = yaml.safe_load(Path(TINY).read_text())["dataset"]
    Path("r.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return Path("r.yaml")


def refused(path: str, tree: Tree, parts: Registry | None = None) -> str:
    """What is reported about a key of a recipe when it is built, of these parts or the installed ones."""
    try:
        build(load_recipe(written(tree), (), parts or registry()))
    except RecipeError as error:
        return at_key(path, str(error))
    return ""


def at_key(path: str, mistakes: str) -> str:
    """The mistakes at a key, among the lines of them all."""
    own = [line for line in mistakes.splitlines() if f"  {path}: " in line]
    return "\n".join(own) or f"not at {path}, but at {re.findall(r'  ([^ ]+): ', mistakes)}"


def of(name: str, **changes: Any) -> Tree:
    """A recipe of ``recipe_of``; ``a__b`` is the key a.b."""
    tree = recipe_of(Path(), name)
    tree["backbone"]["options"]["depth"] = 1
    for keys, value in changes.items():
        *path, last = keys.split("__")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = value
    return tree


def single(**keys: Any) -> Tree:
    """A recipe without objectives, for whole images."""
    tree = of("dense")
    (objective,) = tree.pop("objectives").values()
    del objective["level"]
    return {**tree, **objective, **keys}


def several(*pipelines: list[Any]) -> Tree:
    """An augmentation of one view per pipeline."""
    return {"name": "views", "of": [*pipelines]}


def rule(file: str, words: str, path: str, wrong: Tree, right: Tree) -> Remedy:
    """A mistake at a key, and the recipe without it."""
    return Remedy(file, words, partial(refused, path), wrong, right)
