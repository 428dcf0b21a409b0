"""Losses on the statistics of embeddings, and the heads that go with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from contrastive import hookimpl
from contrastive_decorrelation.gram import Gram
from contrastive_decorrelation.heads import IterNormMLP, Subvector
from contrastive_decorrelation.koleo import KoLeo
from contrastive_decorrelation.redundancy import BarlowTwins, TiCo
from contrastive_decorrelation.sketches import LeJEPA, VISReg
from contrastive_decorrelation.spectra import EMPSSL, MMCR, FroSSL
from contrastive_decorrelation.vicreg import VIbCReg, VICReg
from contrastive_decorrelation.whitening import WMSE

contrastive_api = 2

Register = Callable[[str, Any], None]


@hookimpl
def register_head(register: Register) -> None:
    register("subvector", Subvector)
    register("iter_norm", IterNormMLP)


@hookimpl
def register_loss(register: Register) -> None:
    register("vicreg", VICReg)
    register("vibcreg", VIbCReg)
    register("barlow_twins", BarlowTwins)
    register("tico", TiCo)
    register("w_mse", WMSE)
    register("frossl", FroSSL)
    register("mmcr", MMCR)
    register("emp_ssl", EMPSSL)
    register("lejepa", LeJEPA)
    register("visreg", VISReg)
    register("koleo", KoLeo)
    register("gram", Gram)
