"""A training step of every shipped recipe on a fake GPU: devices, waits, calls (scripts/step_calls.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from python_engine import PythonEngine
from torch import nn

from contrastive.recipe import load_recipe
from contrastive.registry import load_registry

step_calls = pytest.importorskip("step_calls", exc_type=ImportError)  # an older torch cannot fake a GPU

ROOT = Path(__file__).parents[2]

#: The body of a function -> the beginning of what the ledger says of it, or None if it says nothing.
CASES: dict[str, str | None] = {
    "return gpu.sum().item()": "aten._local_scalar_dense",
    "return bool((gpu > 0).any())": "aten._local_scalar_dense",
    "return float(gpu[0])": "aten._local_scalar_dense",
    "return gpu.tolist()": "aten._local_scalar_dense",
    "return gpu.cpu()": "aten._to_copy.default to the host",
    "return host.to(gpu.device)": "aten._to_copy.default to the device",
    "return host.to(gpu.device, non_blocking=True)": "aten._to_copy.default to the device",
    "return gpu.copy_(host)": "aten.copy_.default to the device",
    "return torch.tensor([1.0, 2.0], device=gpu.device)": "aten._to_copy.default to the device",
    "return torch.nn.utils.get_total_norm([]).to(gpu.device)": "aten._to_copy.default to the device",
    "return gpu[torch.arange(2)]": "aten.index.Tensor with a tensor of the host",
    "return gpu + host": "DeviceError: aten.add.Tensor mixes",
    "return torch.cat([gpu, host])": "DeviceError: aten.cat.default mixes",
    "return gpu[gpu > 0]": "DeviceError: aten.index.Tensor with a mask",
    "return gpu.nonzero()": "DeviceError: aten.nonzero.default returns",
    "return gpu.unique()": "DeviceError: aten._unique2.default returns",
    "return torch.cuda.synchronize()": "torch.cuda.synchronize",
    "return gpu + 1, torch.where(gpu > 0, gpu, 0), gpu * torch.tensor(2.0)": None,
    "return host.pin_memory().to(gpu.device, non_blocking=True)": None,
    "return gpu.to('cpu', non_blocking=True)": None,
    "gpu[gpu > 0] = 0.0": None,
    "return torch.zeros(3, device=gpu.device), torch.arange(3, device=gpu.device)": None,
    "assert host.sum().item() == 3 and host.tolist() == [1.0, 1.0, 1.0]": None,
}
NOTICE = """
import json, sys
import torch
from fake_device import DeviceError, fake_gpu

answers = []
for body in json.loads(sys.stdin.read()):
    scope = {"torch": torch}
    exec(f"def case(gpu, host): {body}", scope)
    with fake_gpu() as ledger:
        host = torch.ones(3)
        with ledger.fake:
            gpu = torch.zeros(3, device="cuda")
        with ledger.fake, ledger:
            try:
                scope["case"](gpu, host)
                answers.append([wait.operator for wait in ledger.waits])
            except DeviceError as error:
                answers.append([f"DeviceError: {error}"])
print(json.dumps(answers))
"""


def python(*command: str, stdin: str = "") -> Any:
    """The JSON that a Python process of its own prints: the fake GPU changes its process for good."""
    process = subprocess.run(
        [sys.executable, "-W", "ignore", *command], cwd=ROOT, input=stdin, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


class Weighted(torch.autograd.Function):
    """The sum of w (x + y), and twice x, with inputs that are no tensors between the tensors."""

    @staticmethod
    def forward(ctx: Any, w: float, x: torch.Tensor, name: str, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.w = w
        return w * (x + y), 2 * x

    @staticmethod
    def backward(ctx: Any, of_sum: torch.Tensor, of_double: torch.Tensor) -> tuple[Any, ...]:
        return None, ctx.w * of_sum + 2 * of_double, None, ctx.w * of_sum


def gradients_of_a_network(run: Any) -> list[torch.Tensor]:
    """Of a network with branches, broadcasting, a function in Python and a step in bfloat16."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    scale = nn.Parameter(torch.tensor(2.0))
    with mock.patch("torch.autograd._engine_run_backward", run):
        z = network(torch.randn(6, 3, 8, 8))
        both = Weighted.apply(0.5, z, "name", z.detach())[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            product = network[-1](torch.randn(6, 144))
        loss = (both * scale).exp().sum() + z.softmax(1)[:, 0].mean() + product.float().square().mean()
        parameters = [*network.parameters(), scale]
        partial = torch.autograd.grad(loss, parameters[:2], retain_graph=True)
        loss.backward()
    return [*partial, *(parameter.grad for parameter in parameters if parameter.grad is not None)]


def test_the_engine_in_python_gives_the_gradients_of_torchs():
    expected = gradients_of_a_network(torch.autograd._engine_run_backward)
    gradients = gradients_of_a_network(PythonEngine().run)
    assert len(gradients) == len(expected) == 9
    for gradient, value in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, value, rtol=0, atol=0)


@pytest.mark.ci
def test_what_a_gpu_would_wait_for_or_refuse_is_noticed():
    answers = python(
        "-c", f"import sys; sys.path.insert(0, 'scripts')\n{NOTICE}", stdin=json.dumps(list(CASES))
    )
    for (body, expected), notes in zip(CASES.items(), answers, strict=True):
        if expected is None:
            assert notes == [], body
        else:
            assert notes, body
            assert all(note.startswith(expected) for note in notes), (body, notes)


def excess(recipe: str, steps: dict[str, Any], ceilings: dict[str, int] | None) -> list[str]:
    """What is wrong with the steps of a recipe."""
    problems = [f"{recipe}: {steps['error']}"] if steps["error"] else []
    problems += [
        f"{recipe}: in the stage {wait['stage']} the host waits for the device: {wait['operator']} in "
        f"{wait['function']}, line {wait['line']}"
        for wait in steps["waits"]
        if wait["count"] > step_calls.ALLOWED_WAITS.get(wait["function"], (0, ""))[0]
    ]
    if ceilings is None:
        return [*problems, f"{recipe}: {step_calls.TABLE.name} has no line for it"]
    return problems + [
        f"{recipe}: {count} calls in the stage {stage}, more than {ceilings.get(stage, 0)}"
        for stage, count in steps["calls"].items()
        if count > ceilings.get(stage, 0)
    ]


def measure(*arguments: str) -> dict[str, Any]:
    """Recipe -> its steps, as the script prints them."""
    return python("scripts/step_calls.py", "--json", *arguments)


def report(problems: list[str]) -> str:
    return "\n".join(["", *problems, "CONTRIBUTING.md explains these messages."])


def problems_of(*recipes: str) -> list[str]:
    """What is wrong with the steps of these recipes, or of all."""
    table = step_calls.read_table()
    is_same_torch = table.torch == torch.__version__.partition("+")[0]
    problems = []
    for recipe, steps in measure(*recipes).items():
        ceilings = table.ceilings.get(recipe) if is_same_torch else steps["calls"]
        problems += excess(recipe, steps, ceilings)
    return problems


@pytest.mark.ci
def test_a_step_of_a_recipe_with_predictor_and_average():
    problems = problems_of("byol")
    assert not problems, report(problems)


@pytest.mark.slow
def test_a_step_of_every_recipe():
    problems = problems_of()
    assert not problems, report(problems)


@pytest.mark.slow
def test_a_step_of_every_cell_of_the_studies():
    """Without ceilings: a study changes one thing of a recipe that has them."""
    steps_by_cell = measure("--studies")
    problems = [line for cell, steps in steps_by_cell.items() for line in excess(cell, steps, steps["calls"])]
    assert steps_by_cell
    assert not problems, report(problems)


def test_every_augmentation_takes_at_most_200_calls_for_two_views_and_105_per_view_of_more():
    registry = load_registry()
    calls = {recipe: stages.get("augment", 0) for recipe, stages in step_calls.read_table().ceilings.items()}
    views = {
        recipe: len(load_recipe(recipe.partition(" with ")[0], (), registry).augmentation.build().pipelines())
        for recipe in calls
    }
    assert not {recipe: count for recipe, count in calls.items() if count > max(200, 105 * views[recipe])}


def test_batch_norm_in_groups_costs_little_more_than_the_average_alone():
    ceilings = step_calls.read_table().ceilings
    for recipe in ("imagenet/moco_v2", "cifar10/moco_v2"):
        alone = ceilings[f"{recipe} with ema alone"]["target"]
        assert ceilings[recipe]["target"] <= 1.3 * alone, recipe


def test_no_line_of_the_table_is_left_over():
    assert set(step_calls.read_table().ceilings) == set(step_calls.recipe_names())
