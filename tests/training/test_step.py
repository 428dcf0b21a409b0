"""What a step is computed with: statistics of processes, the optimizer's kernels."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from contrastive.augmentations import Pipeline, RandomResizedCrop
from contrastive.augmentations.flip import Flip
from contrastive.heads import NoHead
from contrastive.losses import NTXent
from contrastive.negatives import InBatch
from contrastive.optimizers import AdamWPart, SGDPart, scheduled
from contrastive.parts import Target, TargetWrapper
from contrastive.targets import EMA
from contrastive.training import Method, shares_statistics
from contrastive.training import accelerator as device
from contrastive.training.health import StepNorms
from tests.support.encoders import Flat

CPU = torch.device("cpu")
META = torch.device("meta")  # stands for any device that is not a CPU
PARTS = [SGDPart(lr=0.1), AdamWPart(lr=0.1)]


def two_encoders(target: Target) -> Method:
    method = Method(Flat(batch_norm=True), NoHead(6), None, target, [InBatch()], [(1.0, NTXent())])
    return method.train()


class OwnImages(TargetWrapper):
    own_statistics = True


@pytest.mark.parametrize(
    ("target", "processes", "place", "synchronised"),
    [
        (lambda: EMA(), 2, META, 2),
        (lambda: EMA(), 1, META, 0),
        (lambda: EMA(), 2, CPU, 0),
        (lambda: OwnImages(EMA()), 2, META, 0),
        (lambda: TargetWrapper(OwnImages(EMA())), 2, META, 0),
    ],
)
def test_batch_norm_of_both_encoders_sees_all_processes_unless_the_target_rules_it_out(
    monkeypatch, target, processes: int, place: torch.device, synchronised: int
):
    monkeypatch.setattr(device, "world_size", lambda: processes)
    method = device.move_to_device(two_encoders(target()), place)
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in method.modules()) == synchronised
    assert sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in method.modules()) == 2
    assert shares_statistics(method.target, place) == (synchronised > 0)


def test_norms_without_gradients_copy_nothing_from_the_host():
    """Those of a moving average, at every step."""

    class Devices(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            devices.update(leaf.device for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor))
            return out

    method = two_encoders(EMA()).to(META)
    side = SimpleNamespace(z=torch.ones(2, 6, device=META))
    devices: set[torch.device] = set()
    with Devices():
        norms = StepNorms(method).read([[SimpleNamespace(queries=side, own_keys=side)]])
    assert devices == {META}
    assert norms.dtype == torch.float32
    on_cpu = StepNorms(two_encoders(EMA()))
    side = SimpleNamespace(z=torch.ones(2, 6))
    values = on_cpu.read([[SimpleNamespace(queries=side, own_keys=side)]]).tolist()
    assert dict(zip(on_cpu.names, values, strict=True))["the gradient of target"] == 0


@pytest.mark.parametrize(("image_size", "fixed"), [((32, 32), True), (None, False)])
def test_convolutions_are_timed_if_sizes_never_change(monkeypatch, image_size, fixed: bool):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", not fixed)
    device.choose_kernels([Pipeline([RandomResizedCrop(24)]), Pipeline([Flip()])], image_size)
    assert torch.backends.cudnn.benchmark is fixed


def test_gradients_are_views_of_what_processes_exchange(tmp_path):
    handler = device.make_accelerator("fp32", str(tmp_path), []).ddp_handler
    assert (handler.gradient_as_bucket_view, handler.broadcast_buffers) == (True, False)


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
