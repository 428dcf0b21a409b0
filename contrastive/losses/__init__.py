"""Losses, for recipes and for any training loop: ``NTXent()(z_a, z_b)``."""

from contrastive.lazy import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
