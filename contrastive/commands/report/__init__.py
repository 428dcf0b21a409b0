"""``contrastive report``: one page about a run, another encoder, or a file of features."""
