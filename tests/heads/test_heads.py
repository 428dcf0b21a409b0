import pytest
import torch
from torch import nn

from contrastive.errors import UsageError
from contrastive.heads import MLP, Linear, NoHead


def layers(head):
    return [type(layer).__name__ for layer in head.layers]


def test_official_simclr_has_batch_norm_after_every_layer_and_no_last_shift():
    head = MLP(64, dims=[32, 16], batch_norm="all")
    assert layers(head) == ["Linear", "BatchNorm1d", "ReLU", "Linear", "ScaleBatchNorm"]
    assert {name for name, _ in head.named_parameters()} == {
        "layers.0.weight",
        "layers.1.weight",
        "layers.1.bias",
        "layers.3.weight",
        "layers.4.weight",
    }


def test_paper_head_is_linear_relu_linear_with_biases():
    head = MLP(64, dims=[32, 16], batch_norm="none")
    assert layers(head) == ["Linear", "ReLU", "Linear"]
    assert head.layers[0].bias is not None
    assert head.layers[2].bias is not None


def test_hidden_batch_norm_leaves_the_output_bare():
    head = MLP(64, dims=[32, 24, 16], batch_norm="hidden")
    assert layers(head) == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert [layer.bias is None for layer in head.layers if isinstance(layer, nn.Linear)] == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("batch_norm", ["none", "hidden", "all"])
@pytest.mark.parametrize("dims", [[16], [32, 16], [32, 24, 16]])
def test_every_depth_gives_the_last_width(dims, batch_norm):
    head = MLP(64, dims=dims, batch_norm=batch_norm)
    z = head(torch.randn(8, 64))
    assert head.out_features == 16
    assert z.shape == (8, 16)
    z.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_last_batch_norm_scales_standardised_columns():
    torch.manual_seed(0)
    head = MLP(8, dims=[4], batch_norm="all")
    with torch.no_grad():
        head.layers[1].weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    h = torch.randn(64, 8)
    y = h.double() @ head.layers[0].weight.double().T
    want = (y - y.mean(0)) / (y.var(0, unbiased=False) + 1e-5).sqrt() * torch.tensor([1.0, 2.0, 3.0, 4.0])
    torch.testing.assert_close(head(h).double(), want, atol=1e-5, rtol=1e-5)
    head.eval()
    mean, var = head.layers[1].running_mean.double(), head.layers[1].running_var.double()
    torch.testing.assert_close(
        head(h).double(),
        (y - mean) / (var + 1e-5).sqrt() * head.layers[1].weight.double(),
        atol=1e-5,
        rtol=1e-5,
    )
    torch.nn.SyncBatchNorm.convert_sync_batchnorm(head)  # as the engine does before it wraps


def independent(*steps):
    """A head written out: widths and names of what stands between them, in float64."""
    made = {
        "bn": lambda width: nn.BatchNorm1d(width),
        "plain_bn": lambda width: nn.BatchNorm1d(width, affine=False),
        "relu": lambda width: nn.ReLU(),
    }
    layers, width = [], 6
    for step in steps:
        if isinstance(step, tuple):
            layers.append(nn.Linear(width, step[0], bias=step[1] == "bias"))
            width = step[0]
        else:
            layers.append(made[step](width))
    return nn.Sequential(*layers).double()


#: Papers' heads with narrow layers: parameters of ours, and the head as the paper or its code writes it.
HEADS = {
    "byol": (
        {"dims": [8, 5], "batch_norm": "hidden", "last_bias": False},
        [(8, "bias"), "bn", "relu", (5, "bare")],
    ),
    "simsiam_projector": (
        {"dims": [8, 7, 5], "batch_norm": "all", "last_affine": "none"},
        [(8, "bare"), "bn", "relu", (7, "bare"), "bn", "relu", (5, "bare"), "plain_bn"],
    ),
    "simsiam_predictor": (
        {"dims": [3, 5], "batch_norm": "hidden"},
        [(3, "bare"), "bn", "relu", (5, "bias")],
    ),
    "moco_v3_resnet_projector": (
        {"dims": [8, 5], "batch_norm": "all", "last_affine": "none"},
        [(8, "bare"), "bn", "relu", (5, "bare"), "plain_bn"],
    ),
    "moco_v3_resnet_predictor": (
        {"dims": [8, 5], "batch_norm": "hidden", "last_bias": False},
        [(8, "bare"), "bn", "relu", (5, "bare")],
    ),
    "moco_v2": ({"dims": [8, 5], "batch_norm": "none"}, [(8, "bias"), "relu", (5, "bias")]),
    "swav": ({"dims": [8, 5], "batch_norm": "hidden"}, [(8, "bias"), "bn", "relu", (5, "bias")]),
    "nnclr_projector": (
        {"dims": [8, 7, 5], "batch_norm": "all", "last_affine": "full"},
        [(8, "bias"), "bn", "relu", (7, "bias"), "bn", "relu", (5, "bias"), "bn"],
    ),
    "nnclr_predictor": ({"dims": [8, 5], "batch_norm": "hidden"}, [(8, "bias"), "bn", "relu", (5, "bias")]),
    "barlow_twins": (
        {"dims": [8, 8, 5], "batch_norm": "hidden", "last_bias": False},
        [(8, "bare"), "bn", "relu", (8, "bare"), "bn", "relu", (5, "bare")],
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_of_the_papers(name):
    torch.manual_seed(0)
    parameters, steps = HEADS[name]
    head, reference = MLP(6, **parameters).double(), independent(*steps)
    ours = [layer for layer in head.layers if not isinstance(layer, nn.ReLU)]
    theirs = [layer for layer in reference if not isinstance(layer, nn.ReLU)]
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
    for mine, its in zip(ours, theirs, strict=True):
        own = dict(mine.named_parameters())
        cancelled = set(dict(its.named_parameters())) - set(own)  # a bias that a batch norm takes off again
        assert set(own) <= set(dict(its.named_parameters()))
        assert cancelled <= {"bias"}
        with torch.no_grad():
            for key, parameter in own.items():
                getattr(its, key).copy_(parameter)
    if name not in ("byol", "swav", "nnclr_projector", "nnclr_predictor"):
        assert [p.shape for p in head.parameters()] == [p.shape for p in reference.parameters()]
    h, weights = torch.randn(16, 6, dtype=torch.float64), torch.randn(16, 5, dtype=torch.float64)
    inputs = [h.clone().requires_grad_() for _ in range(2)]
    outputs = [head(inputs[0]), reference(inputs[1])]
    torch.testing.assert_close(*outputs)
    for output in outputs:
        (output * weights).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    for mine, its in zip(ours, theirs, strict=True):
        for key, parameter in mine.named_parameters():
            torch.testing.assert_close(parameter.grad, getattr(its, key).grad)


@pytest.mark.parametrize("batch_norm", ["none", "hidden"])
@pytest.mark.parametrize("affine", ["none", "full"])
def test_what_the_last_norm_learns_needs_a_last_norm(batch_norm, affine):
    with pytest.raises(
        UsageError, match=f"last_affine: {affine} needs a last batch norm; set batch_norm: all"
    ):
        MLP(8, dims=[4], batch_norm=batch_norm, last_affine=affine)


def test_state_survives_a_round_trip():
    head, other = MLP(8, dims=[4, 4]), MLP(8, dims=[4, 4])
    head(torch.randn(16, 8))
    other.load_state_dict(head.state_dict())
    h = torch.randn(4, 8)
    assert torch.equal(head.eval()(h), other.eval()(h))


def test_a_linear_predictor_is_as_wide_as_the_keys():
    assert Linear(64).out_features == 128
    assert Linear(64, out_features=16).out_features == 16
    assert Linear(64, dim=8, out_features=16).out_features == 8


def test_linear_and_no_head():
    linear, none = Linear(64, dim=16), NoHead(64)
    h = torch.randn(8, 64)
    assert (linear.out_features, none.out_features) == (16, 64)
    torch.testing.assert_close(linear(h), h @ linear.layer.weight.T + linear.layer.bias)
    assert none(h) is h
    assert not list(none.parameters())


def test_no_width_is_refused():
    with pytest.raises(UsageError, match="dims is empty"):
        MLP(8, dims=[])
