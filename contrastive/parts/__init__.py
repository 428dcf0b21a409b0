"""The base class of each kind of part: what a plugin author derives from."""

from contrastive.lazy import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
