"""From a resolved recipe to objects."""

from contrastive.lazy import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
