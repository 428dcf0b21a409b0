"""``contrastive report``: one page about a run or another encoder."""
