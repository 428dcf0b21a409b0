"""The shipped recipes that compare whole images against plain scripts: loss and weights of three steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import equality_table
import pytest
import torch

from contrastive.recipe import shipped_recipes
from tests.papers import decorrelation_scripts as decorrelation
from tests.papers import method_scripts, statistics_scripts, support_scripts
from tests.papers import neighbours_scripts as neighbours
from tests.papers import swav_scripts as clusters
from tests.papers.proofs import PROOFS

#: Recipes on the sample or on a folder that are no methods of their own.
OTHERS = {
    "photos": "SimCLR on photographs",
    "photos_progressive": "SimCLR on photographs",
    "adapt": "SimCLR with an anchor to pretrained weights, which are downloaded",
}


@pytest.mark.parametrize("name", PROOFS)
def test_three_steps_equal_the_script(name: str):
    PROOFS[name].run(name)


def test_every_shipped_method_has_a_proof(tmp_path: Path):
    methods = {name for name in shipped_recipes() if "/" not in name} - OTHERS.keys()
    assert {row.recipe for row in equality_table.rows(tmp_path)} == methods


def test_the_page_has_the_rows_of_the_table(tmp_path: Path):
    """Its figures are of the machine that wrote it with ``scripts/equality_table.py --page``."""
    page = equality_table.PAGE.read_text(encoding="utf-8")
    table = page.partition("<!-- proofs -->")[2].partition("<!-- /proofs -->")[0]
    lines = [line.rsplit("|", 3)[0] for line in table.splitlines() if line.startswith("| `")]
    assert lines == [f"| `{row.recipe}` | {row.paper} | {row.link} " for row in equality_table.rows(tmp_path)]


# -- known faults, planted into a script, are seen ----------------------------------------------------


def barlow_without_centring(a, b, weight):
    table = (a / a.norm(dim=0)).T @ (b / b.norm(dim=0))
    error = (table - torch.eye(len(table), dtype=table.dtype)).square()
    return error.diagonal().sum() + weight * decorrelation.off_diagonal(error).sum()


def lejepa_of_all_views_together(views, count, directions, weight, limit, points):
    centre = sum(views[:count]) / count
    prediction = torch.stack([(view - centre).square().mean() for view in views]).mean()
    flat = decorrelation.sigreg(torch.cat(list(views)), directions, limit, points)
    return (1 - weight) * prediction + weight * flat


def lejepa_towards_all_views(views, count, *settings):
    return LEJEPA(views, len(views), *settings)


def codes_with_a_gradient(scores, epsilon, iterations):
    q = (scores / epsilon).exp()
    for _ in range(iterations):
        q = q / q.sum(0)
        q = q / q.sum(1, keepdim=True)
    return q


def tico_without_the_slope_of_its_table(query, key, table, beta, rho):
    _, moved = TICO(query, key, table, beta, rho)
    z = decorrelation.unit(query)
    cosines = (z * decorrelation.unit(key).detach()).sum(1)
    return -cosines.mean() + rho * ((z @ moved) * z).sum(1).mean(), moved


def search_before_the_key_is_there(k, p, queue, count):
    own = {tuple(row) for row in neighbours.unit(k).tolist()}
    return MSF(k, p, torch.stack([row for row in queue if tuple(row.tolist()) not in own]), count)


def the_batch_finds_itself(z, p, queue, t):
    return NNCLR(z, p, torch.cat([queue, neighbours.unit(z[0]).detach()]), t)


def average_before_the_loss(self, s, x, step):
    self.move_average(s, step)
    return BYOL(self, s, x, step)


LEJEPA, TICO, MSF, NNCLR = decorrelation.lejepa, decorrelation.tico, neighbours.msf, neighbours.nnclr
BYOL = method_scripts.BYOL.loss
#: Recipe, where the fault is planted, and the fault.
FAULTS: list[tuple[str, Any, str, Callable[..., Any]]] = [
    ("barlow_twins", decorrelation, "barlow_twins", barlow_without_centring),
    ("lejepa", decorrelation, "lejepa", lejepa_of_all_views_together),
    ("lejepa", decorrelation, "lejepa", lejepa_towards_all_views),
    ("swav", clusters, "sinkhorn", codes_with_a_gradient),
    ("swav", statistics_scripts.SwAV, "frozen", lambda self, key, step: False),
    ("vibcreg", decorrelation, "vibcreg", decorrelation.vicreg),
    ("tico", decorrelation, "tico", tico_without_the_slope_of_its_table),
    ("w_mse", decorrelation, "w_mse", lambda views, cuts, epsilon: W_MSE(views, cuts[:1], epsilon)),
    ("nnclr", neighbours, "nnclr", the_batch_finds_itself),
    ("msf", neighbours, "msf", search_before_the_key_is_there),
    ("nnbyol", support_scripts.NNBYOL, "move_average", lambda self, s, step: None),
    ("byol", method_scripts.BYOL, "loss", average_before_the_loss),
]
W_MSE = decorrelation.w_mse


@pytest.mark.parametrize(
    ("name", "owner", "attribute", "fault"),
    [pytest.param(*fault, id=f"{fault[0]}-{number}") for number, fault in enumerate(FAULTS)],
)
def test_a_fault_in_a_script_is_seen(name: str, owner: Any, attribute: str, fault: Callable[..., Any]):
    with mock.patch.object(owner, attribute, fault), pytest.raises(AssertionError):
        PROOFS[name].run(name)
