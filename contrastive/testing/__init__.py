"""The conformance kit: checks that a plugin keeps the contract of its kind."""

from contrastive.lazy import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
