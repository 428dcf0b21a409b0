"""``contrastive plugin new``."""
