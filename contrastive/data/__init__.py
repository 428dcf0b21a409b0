"""A table of images -> batches for training, and images for evaluation."""

from contrastive.lazy import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
