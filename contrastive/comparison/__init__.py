"""What a loss sees: queries, keys, and statistics of their similarities."""

from contrastive.lazy import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
