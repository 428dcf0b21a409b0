"""Curation by the features of an encoder: duplicates, suspicious labels, diverse subsets, searches."""

from contrastive.lazy import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
