"""Evaluation of an encoder."""

from contrastive.lazy import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
