"""contrastive: contrastive and self-supervised image representation learning, composed from plugins."""

from contrastive.lazy import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
