"""The conformance kit: checks whether a plugin keeps the contract of its kind."""

from contrastive.lazy import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
