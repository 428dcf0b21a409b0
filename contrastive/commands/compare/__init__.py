"""``contrastive compare``."""
