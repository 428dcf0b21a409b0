"""Two processes give what one with twice the batch gives: value, gradient and state of every loss."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from contrastive_decorrelation import (
    EMPSSL,
    MMCR,
    WMSE,
    BarlowTwins,
    FroSSL,
    LeJEPA,
    TiCo,
    VIbCReg,
    VISReg,
)
from decorrelation_scripts import embeddings

from contrastive import distributed
from contrastive.comparison import Comparison
from contrastive.parts import Loss
from contrastive.testing.processes import two_processes
from contrastive.values import Progress

LOSSES: dict[str, Callable[[], Loss]] = {
    "barlow_twins": BarlowTwins,
    "vibcreg": VIbCReg,
    "w_mse": lambda: WMSE(5, iterations=2),
    "tico": lambda: TiCo(3).double(),
    "frossl": FroSSL,
    "mmcr": lambda: MMCR(0.2),
    "emp_ssl": EMPSSL,
    "lejepa": lambda: LeJEPA(slices=8),
    "visreg": lambda: VISReg(slices=8),
}


def results(images: slice, together: bool) -> dict[str, dict[str, torch.Tensor]]:
    """Of each loss: the value, the gradient of the embeddings [V, b, D], and the state after the step."""
    of_loss = {}
    for name, make in LOSSES.items():
        views = [view.detach()[images].requires_grad_() for view in embeddings(5, 12, 3, count=3)]
        loss = make()
        comparison = Comparison.of(
            dict(enumerate(views)),
            {view: views[view] for view in (0, 1)},
            pairs=[(o, t) for o in range(3) for t in range(2) if o != t],
            images=torch.arange(50, 62)[images],
            normalise=loss.normalised,
            progress=Progress(3, 9, seed=1),
            across_processes=together,
        )
        value = loss(comparison)
        value.backward()
        with torch.no_grad():
            loss.after_batch(comparison)
        gradient = torch.stack([view.grad for view in views])
        of_loss[name] = {"value": value.detach(), "gradient": gradient, **loss.state_dict()}
    return of_loss


def process() -> dict[str, dict[str, torch.Tensor]]:
    half = 6 * distributed.rank()
    return results(slice(half, half + 6), together=True)


@functools.cache
def of_two() -> list[dict[str, dict[str, torch.Tensor]]]:
    return two_processes(process)


@pytest.mark.parametrize("name", LOSSES)
def test_two_processes_give_what_one_gives(name: str):
    expected = results(slice(None), together=False)[name]
    ranks = [rank[name] for rank in of_two()]
    torch.testing.assert_close(torch.stack([rank["value"] for rank in ranks]).mean(), expected["value"])
    gradient = torch.cat([rank["gradient"] for rank in ranks], 1) / 2  # averaged, as data parallelism does
    torch.testing.assert_close(gradient, expected["gradient"])
    for key in expected.keys() - {"value", "gradient"}:
        for rank in ranks:
            torch.testing.assert_close(rank[key], expected[key])
