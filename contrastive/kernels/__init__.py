"""Numerical kernels that the parts share."""
