"""Numerical kernels of the augmentations."""
