"""Losses: what is made small. Each takes embeddings in anyone's loop: ``NTXent()(z_a, z_b)``."""

from contrastive.losses.margin import Margin
from contrastive.losses.nt_logistic import NTLogistic
from contrastive.losses.nt_xent import NTXent

__all__ = ["Margin", "NTLogistic", "NTXent"]
