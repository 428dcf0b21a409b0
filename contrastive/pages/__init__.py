"""Pages of HTML that open without a network: their frame, tables, charts, thumbnails, galleries and maps."""

from contrastive.lazy import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
