"""Recipes: YAML -> nodes with line and column -> a resolved :class:`Recipe`. Imports no torch."""

from __future__ import annotations

from contrastive.recipe.grid import Cell, load_cells
from contrastive.recipe.model import (
    NOT_TRAINING,
    Evaluate,
    PartSpec,
    ProtocolSpec,
    Recipe,
    Train,
    Views,
    WeightedLoss,
    deciding,
    dump_yaml,
    training_fingerprint,
)
from contrastive.recipe.nodes import Node, Tree
from contrastive.recipe.resolve import load_recipe, resolve
from contrastive.recipe.source import find_recipe, load_tree, parse_tree, shipped_recipes

__all__ = [
    "NOT_TRAINING",
    "Cell",
    "Evaluate",
    "Node",
    "PartSpec",
    "ProtocolSpec",
    "Recipe",
    "Train",
    "Tree",
    "Views",
    "WeightedLoss",
    "deciding",
    "dump_yaml",
    "find_recipe",
    "load_cells",
    "load_recipe",
    "load_tree",
    "parse_tree",
    "resolve",
    "shipped_recipes",
    "training_fingerprint",
]
