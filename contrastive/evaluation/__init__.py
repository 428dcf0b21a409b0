"""Evaluation of an encoder."""
