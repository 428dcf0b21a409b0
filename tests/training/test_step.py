"""What a step is computed with: precision, the optimizer's kernels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from contrastive.optimizers import AdamWPart, SGDPart, scheduled
from contrastive.training import accelerator as device
from contrastive.training import resolve_precision

CPU = torch.device("cpu")
PARTS = [SGDPart(lr=0.1), AdamWPart(lr=0.1)]


@pytest.mark.parametrize(
    ("amx", "avx", "intel", "expected"),
    [
        (True, True, True, "bf16"),
        (False, True, True, "no"),  # AMX hidden by a virtual machine
        (False, True, False, "bf16"),
        (False, False, False, "no"),
    ],
)
def test_auto_is_bf16_only_where_that_is_faster(monkeypatch, amx, avx, intel, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx, raising=False)
    monkeypatch.setattr(device, "_is_intel", lambda: intel)
    assert resolve_precision("auto", CPU) == expected
    assert resolve_precision("bf16", CPU) == "bf16"
    assert resolve_precision("fp32", CPU) == "no"


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model.weight.grad = torch.ones(model.weight.shape)
    model.bias.grad = torch.ones(model.bias.shape)
    optimizer.step()


@pytest.mark.parametrize("part", PARTS, ids=["sgd", "adamw"])
def test_no_fused_kernel_runs_on_a_cpu(part):
    """There they are wrong, and say nothing, for gradients of other strides than their parameters'."""
    assert not any(group["fused"] for group in part.build(model(), 256).param_groups)


@pytest.mark.parametrize("part", PARTS, ids=["sgd", "adamw"])
@pytest.mark.parametrize("fused", [True, False])
def test_a_checkpoint_of_another_device_leaves_the_kernels_alone(monkeypatch, part, fused):
    monkeypatch.setattr(scheduled, "has_fused_kernels", lambda groups: not fused)
    theirs_model = model()
    theirs = part.build(theirs_model, 256)
    step(theirs_model, theirs)
    monkeypatch.setattr(scheduled, "has_fused_kernels", lambda groups: fused)
    ours = part.build(model(), 256)
    ours.load_state_dict(theirs.state_dict())
    assert [bool(group["fused"]) for group in ours.param_groups] == [fused] * len(ours.param_groups)
    assert ours.state_dict()["state"].keys() == theirs.state_dict()["state"].keys() != set()


@pytest.mark.parametrize("part", PARTS, ids=["sgd", "adamw"])
def test_a_step_left_out_by_the_scaler_is_seen_with_fused_kernels_too(monkeypatch, part):
    """Else averages would move and memories fill for a step that was not taken."""
    monkeypatch.setattr(scheduled, "has_fused_kernels", lambda groups: True)
    net = model()
    optimizer = part.build(net, 256)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append(1))
    scaler = torch.amp.GradScaler("cpu")
    for value, taken in ((float("inf"), 0), (1.0, 1)):
        optimizer.zero_grad()
        scaler.scale(net.weight.sum() * value).backward()
        scaler.step(optimizer)
        scaler.update()
        assert len(calls) == taken
