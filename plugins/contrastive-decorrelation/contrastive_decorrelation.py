"""Losses on the statistics of embeddings: VICReg, and what DINOv2 takes from it."""

from __future__ import annotations

contrastive_api = 2
