"""One module composes every method: what it feeds the losses, and where gradients go."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from contrastive.comparison import Comparison
from contrastive.evaluation import frozen
from contrastive.heads import MLP, NoHead
from contrastive.losses import NTXent
from contrastive.negatives import InBatch, NoNegatives
from contrastive.parts import Backbone, Loss, TargetWrapper
from contrastive.targets import SharedEncoder, StopGrad
from contrastive.training import Method
from contrastive.training.method import by_number
from tests.support.encoders import Flat


def method(backbone: Backbone | None = None, **changes) -> Method:
    parts = {
        "backbone": backbone or Flat(),
        "head": NoHead(6),
        "predictor": None,
        "target": SharedEncoder(),
        "negatives": [InBatch()],
        "losses": [(1.0, NTXent(0.5))],
    }
    return Method(**(parts | changes))


@pytest.fixture
def views() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(5, 2, 4, 4) for _ in range(2)]


def test_simclr_is_nt_xent_of_the_two_embeddings(views: list[Tensor]):
    simclr = method()
    z = [simclr.backbone(view) for view in views]
    torch.testing.assert_close(simclr(views, torch.arange(5)).loss, NTXent(0.5)(*z), rtol=1e-6, atol=1e-6)


def test_joint_views_share_their_batch_statistics_and_separate_ones_do_not(views: list[Tensor]):
    torch.manual_seed(1)
    net = Flat(batch_norm=True)
    [joint] = method(net, joint=True).encode(by_number(views))
    [separate] = method(net, joint=False).encode(by_number(views))
    together = torch.cat([joint[0].z, joint[1].z])
    torch.testing.assert_close(together.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    assert joint[0].z.mean(0).abs().max() > 1e-2
    for z in (online.z for online in separate.values()):
        torch.testing.assert_close(z.mean(0), torch.zeros(6), atol=1e-5, rtol=0)


def test_views_of_different_sizes_pass_one_by_one():
    class Pooled(Flat):
        def forward(self, x: Tensor) -> Tensor:
            return self.layers(nn.functional.adaptive_avg_pool2d(x, 4))

    views = [torch.randn(5, 2, 4, 4), torch.randn(5, 2, 8, 8)]
    assert torch.isfinite(method(Pooled())(views, torch.arange(5)).loss)


class Opposite(TargetWrapper):
    """Queries are compared with the opposite of each key."""

    def substitute(self, keys):
        return {view: -key for view, key in self.of.substitute(keys).items()}


@pytest.mark.parametrize(
    ("make", "sign"),
    [
        (SharedEncoder, 1),
        (StopGrad, 1),
        (lambda: Opposite(StopGrad()), -1),
        (lambda: Opposite(Opposite(SharedEncoder())), 1),
    ],
)
def test_the_comparison_carries_the_keys_as_the_target_made_them(views: list[Tensor], make, sign: int):
    composed = method(target=make(), predictor=MLP(6, [6], "none"), online_views=(0,), target_views=(1,))
    key = composed.embed(views[1]).detach()
    comparison = composed(views, torch.arange(5)).comparison
    assert list(comparison.target_keys) == [1]
    assert not comparison.target_keys[1].requires_grad
    torch.testing.assert_close(comparison.target_keys[1], key)
    direction = sign * nn.functional.normalize(key, dim=1)
    torch.testing.assert_close(comparison.own_keys.z.float(), direction, rtol=1e-5, atol=1e-6)


def test_moco_style_views_give_queries_of_one_and_keys_of_the_other(views: list[Tensor]):
    moco = method(online_views=(0,), target_views=(1,), target=StopGrad())
    assert list(moco.encode(by_number(views))[0]) == [0]
    comparison = moco(views, torch.arange(5)).comparison
    assert comparison.queries.view.tolist() == [0] * 5
    assert comparison.keys.view.tolist() == [1] * 5
    moco(views, torch.arange(5)).loss.backward()
    seen = views[0].flatten(1)
    gradient = moco.backbone.layers[1].weight.grad
    assert gradient is not None
    # a linear layer's gradient lies in the span of the inputs it saw: view 0 alone
    outside = torch.linalg.qr(seen.T)[0]
    residual = gradient - gradient @ outside @ outside.T
    assert residual.norm() < 1e-5 * gradient.norm()


def test_stopped_keys_change_the_gradient_but_not_the_value(views: list[Tensor]):
    net = Flat()
    values, gradients = [], []
    for target in (SharedEncoder(), StopGrad()):
        net.zero_grad()
        loss = method(net, target=target)(views, torch.arange(5)).loss
        loss.backward()
        values.append(loss.detach())
        gradients.append(net.layers[1].weight.grad.clone())
    torch.testing.assert_close(*values)
    assert (gradients[0] - gradients[1]).norm() > 1e-3 * gradients[0].norm()


def test_the_predictor_makes_the_queries_and_not_the_keys(views: list[Tensor]):
    predictor = MLP(6, [8, 6], "none")
    byol = method(predictor=predictor, target=StopGrad())
    encodings = byol.encode(by_number(views))
    [encoding] = encodings
    torch.testing.assert_close(encoding[0].p, predictor(encoding[0].z))
    [keys] = byol.keys(by_number(views), encodings)
    torch.testing.assert_close(keys.keys[1], encoding[1].z)


def test_losses_add_up_with_their_weights(views: list[Tensor]):
    net = Flat()
    one = method(net)(views, torch.arange(5)).loss
    both = method(net, losses=[(0.25, NTXent(0.5)), (0.5, NTXent(0.5))])(views, torch.arange(5)).loss
    torch.testing.assert_close(both, 0.75 * one)


def test_labels_make_positives(views: list[Tensor]):
    net = Flat()
    labels = torch.tensor([0, 0, 1, 1, -1])
    value = method(net)(views, torch.arange(5), labels).loss
    z = [net(view) for view in views]
    expected = NTXent(0.5)(Comparison.of(z, labels=labels))
    torch.testing.assert_close(value, expected)
    assert value != method(net)(views, torch.arange(5)).loss


def test_without_offers_there_are_no_negatives(views: list[Tensor]):
    counts: list[Tensor] = []

    class Spy(Loss):
        def compare(self, comparison: Comparison) -> Tensor:
            counts.append(comparison.rows(1.0).negatives.count)
            return comparison.queries.z.sum()

    method(negatives=[NoNegatives()], losses=[(1.0, Spy())])(views, torch.arange(5))
    method(negatives=[InBatch()], losses=[(1.0, Spy())])(views, torch.arange(5))
    method(negatives=[InBatch("other")], losses=[(1.0, Spy())])(views, torch.arange(5))
    assert [count.unique().tolist() for count in counts] == [[0], [8], [4]]


def test_the_loss_is_at_least_float32_under_autocast(views: list[Tensor]):
    simclr = method()
    with torch.autocast("cpu", torch.bfloat16):
        loss = simclr(views, torch.arange(5)).loss
    assert loss.dtype == torch.float32


def test_frozen_leaves_modes_and_buffers_as_they_were(views: list[Tensor]):
    net = Flat(batch_norm=True)
    net.layers[2].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with frozen(net):
        assert not net.training
        assert not net(views[0]).requires_grad
    assert net.training
    assert not net.layers[2].training
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name
