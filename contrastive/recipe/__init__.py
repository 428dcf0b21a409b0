"""Recipes: YAML -> nodes with line and column -> a resolved recipe. Imports no torch."""

from contrastive.lazy import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
