"""The heads of DirectCLR and VIbCReg."""

from __future__ import annotations

import pytest
import torch
from contrastive_decorrelation import IterNormMLP, Subvector
from contrastive_decorrelation.heads import IterNorm
from decorrelation_scripts import embeddings, iter_norm, same

from contrastive import distributed
from contrastive.errors import UsageError
from contrastive.losses import NTXent
from contrastive.testing.processes import two_processes


def test_the_first_dimensions_are_kept_and_the_others_have_no_gradient():
    h = embeddings(0, 6, 5)
    head = Subvector(5, dim=2)
    NTXent(0.1)(*map(head, h)).backward()
    assert torch.equal(head(h[0]), h[0][:, :2])
    assert (h[0].grad[:, :2] != 0).all()
    assert (h[0].grad[:, 2:] == 0).all()


def test_more_dimensions_than_features_are_refused():
    with pytest.raises(UsageError, match="set dim to 4 or less"):
        Subvector(4, dim=5)


@pytest.mark.parametrize("channels", [2, 3, 6])
def test_iter_norm_is_the_papers(channels: int):
    (x,) = embeddings(1, 40, 6, count=1)
    out, expected = IterNorm(6, channels).double()(x), iter_norm(x, channels)
    torch.testing.assert_close(out, expected)
    same((out**3).sum(), (expected**3).sum(), [x])


def test_iter_norm_whitens_nearly_in_training_and_by_averages_in_evaluation():
    (x,) = (z.detach() for z in embeddings(2, 500, 4, count=1))
    norm = IterNorm(4, 4, steps=12).double()
    whitened = norm(x)
    torch.testing.assert_close(whitened.T.cov(correction=0), torch.eye(4).double(), rtol=0, atol=1e-3)
    for _ in range(200):
        norm(x)
    torch.testing.assert_close(norm.eval()(x[:7]), whitened[:7], rtol=1e-6, atol=1e-6)


def test_iter_norm_does_not_change_with_evaluation():
    norm = IterNorm(4, 2).double().eval()
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    norm(embeddings(3, 8, 4)[0])
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_groups_that_do_not_divide_the_width_are_refused():
    with pytest.raises(UsageError, match="set channels to a divisor"):
        IterNormMLP(8, dims=[16, 10], channels=4)


def process() -> dict[str, torch.Tensor]:
    """On one of two processes: the output of its half of eight rows, the state, and the gradient."""
    (x,) = embeddings(4, 8, 4, count=1)
    own = distributed.local(x.detach()).clone().requires_grad_()
    norm = IterNorm(4, 2).double()
    out = norm(own)
    (out**3).sum().backward()
    return {"out": out.detach(), "gradient": own.grad, "mean": norm.mean, "whitening": norm.whitening}


def test_two_processes_whiten_as_one():
    (x,) = embeddings(4, 8, 4, count=1)
    norm = IterNorm(4, 2).double()
    out = norm(x)
    (gradient,) = torch.autograd.grad((out**3).sum(), x)
    ranks = two_processes(process)
    torch.testing.assert_close(torch.cat([rank["out"] for rank in ranks]), out.detach())
    torch.testing.assert_close(torch.cat([rank["gradient"] for rank in ranks]), gradient)
    for rank in ranks:
        torch.testing.assert_close(rank["mean"], norm.mean)
        torch.testing.assert_close(rank["whitening"], norm.whitening)
