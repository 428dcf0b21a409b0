"""What is told where numbers stop being finite, and where memory runs out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import contrastive
from contrastive.cli import main
from contrastive.errors import ContrastiveError, Interrupted, UsageError
from contrastive.losses import NTXent
from contrastive.training import Engine, Method, chunk_advice
from contrastive.training import health as diagnosis
from contrastive.training.health import out_of_memory
from tests.support.same import assert_same_run, final_state, metrics
from tests.support.tiny import UNEVALUATED, interrupted_after

PARTS = {
    "the weights of backbone": "backbone",
    "the weights of head": "head",
    "the weights of predictor": "predictor",
}
BYOL = {
    "predictor": {"name": "mlp", "dims": [16, 8]},
    "target": {"name": "ema", "momentum": 0.9},
    "negatives": "none",
    "loss": "regression",
}
#: Two epochs of four steps.
FEW = {**UNEVALUATED, "train.epochs": 2, "train.batch_size": 30}


@pytest.fixture
def before_step(monkeypatch: pytest.MonkeyPatch):
    """Do something to the method before a step, counted from 1."""

    def arm(number: int, act: Any) -> None:
        step = Engine._step

        def acted(self: Engine, micro: Any) -> None:
            if self.state.step == number - 1:
                act(self.method)
            step(self, micro)

        monkeypatch.setattr(Engine, "_step", acted)

    return arm


def spoil(method: Method, part: str) -> None:
    with torch.no_grad():
        next(getattr(method, part).parameters())[0] = float("nan")


@pytest.mark.ci
@pytest.mark.parametrize("policy", ["stop", "skip"])
@pytest.mark.parametrize("told", PARTS)
def test_weights_that_are_no_numbers_are_told_by_part(
    told: str, policy: str, tiny_recipe: Path, tmp_path: Path, before_step
):
    before_step(6, lambda method: spoil(method, PARTS[told]))
    sets = BYOL | FEW | {"train.nonfinite": policy}
    with pytest.raises(ContrastiveError, match=r"not finite|non-finite weights") as failure:
        contrastive.run(tiny_recipe, sets, out=tmp_path / "run")
    what = {
        "stop": "the loss is not finite, ",
        "skip": "skipping steps cannot recover from non-finite weights; ",
    }
    assert str(failure.value).startswith(f"step 6: {what[policy]}first in {told}.")
    assert "Last finite at step 5: loss " in str(failure.value)
    assert str(tmp_path / "run" / "checkpoints" / "step_00000004") in str(failure.value)
    state = final_state(tmp_path / "run")
    assert state["progress"]["step"] == 4
    assert all(torch.isfinite(tensor).all() for tensor in state["method"].values())


@pytest.mark.parametrize("sets", [{}, {"train.accumulate": 2}, {"train.chunk_size": 8}])
def test_a_loss_that_is_no_number_is_told_as_the_loss(
    sets: dict[str, Any], tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(NTXent, "compare", lambda self, c: c.queries.z.sum(1) * float("nan"))
    with pytest.raises(ContrastiveError, match=r"step 1: .*first in the value of loss\.0\. There is no"):
        contrastive.run(tiny_recipe, FEW | sets, out=tmp_path / "run")
    assert metrics(tmp_path / "run") == []


@pytest.mark.parametrize("part", ["backbone", "head"])
@pytest.mark.parametrize("sets", [{}, {"train.accumulate": 2}, {"train.chunk_size": 8}])
def test_a_gradient_alone_is_told_by_part_at_its_step(
    part: str, sets: dict[str, Any], tiny_recipe: Path, tmp_path: Path, before_step
):
    def spoil_gradient(method: Method) -> None:
        parameter = next(getattr(method, part).parameters())
        parameter.register_hook(lambda gradient: gradient * float("nan"))

    before_step(2, spoil_gradient)
    told = f"step 2: the gradient is not finite, first in the gradient of {part}. Last finite at step 1: loss"
    with pytest.raises(ContrastiveError, match=told):
        contrastive.run(tiny_recipe, FEW | sets, out=tmp_path / "run")


def test_a_run_of_skipped_steps_alone_ends_with_a_sentence(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(NTXent, "compare", lambda self, c: c.queries.z.sum(1) * float("nan"))
    sets = FEW | {"train.nonfinite": "skip", "train.max_steps": 4}
    with pytest.raises(ContrastiveError, match=r"step 4: 4 steps in a row .* first in the value of loss\.0"):
        contrastive.run(tiny_recipe, sets, out=tmp_path / "run")
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize("sets", [{}, {"train.chunk_size": 8}])
def test_a_skipped_step_leaves_no_trace(sets: dict[str, Any], tiny_recipe: Path, tmp_path: Path, before_step):
    """A forward pass on numbers that are not finite has spoilt the statistics of batch norm by then."""
    kept: list[dict[str, torch.Tensor]] = []

    def spoil_once(method: Method) -> None:
        kept.append({name: value.clone() for name, value in method.state_dict().items()})
        hooks.append(method.backbone.register_forward_pre_hook(lambda _, given: (given[0] * float("inf"),)))

    def compare(method: Method) -> None:
        hooks[0].remove()
        for name, value in method.state_dict().items():
            assert torch.equal(value, kept[0][name]), name
        kept.append({})

    hooks: list[Any] = []
    before_step(3, spoil_once)
    before_step(4, compare)
    sets = BYOL | FEW | sets | {"train.nonfinite": "skip"}
    run = contrastive.run(tiny_recipe, sets, out=tmp_path / "run")
    steps = [line for line in run.metrics if "lr" in line]
    assert [line["step"] for line in steps if line.get("skipped")] == [3]
    assert (len(kept), len(steps), run.summary["steps"]) == (2, 8, 8)


def test_a_run_that_met_what_is_not_finite_goes_on_without_such_steps(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What the message advises; it ends as a run that skipped them from the beginning."""
    value = NTXent.compare
    monkeypatch.setattr(
        NTXent, "compare", lambda self, c: value(self, c) * (float("nan") if c.progress.step == 5 else 1)
    )
    skip = FEW | {"train.nonfinite": "skip"}
    whole = contrastive.run(tiny_recipe, skip, out=tmp_path / "whole")
    with pytest.raises(ContrastiveError) as failure:
        contrastive.run(tiny_recipe, FEW, out=tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "step_00000004"
    assert f"{path}; set train.nonfinite=skip, which continues from there," in str(failure.value)
    contrastive.run(tiny_recipe, skip, out=tmp_path / "run", resume="must")
    assert_same_run(whole.folder, tmp_path / "run")
    with pytest.raises(UsageError, match=r"train\.nonfinite \(skip, now stop\)"):
        contrastive.run(tiny_recipe, FEW, out=tmp_path / "run")


def test_skipped_steps_in_a_row_are_counted_over_an_interruption(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(NTXent, "compare", lambda self, c: c.queries.z.sum(1) * float("nan"))
    monkeypatch.setattr(diagnosis, "MAX_SKIPPED", 5)
    sets = FEW | {"train.nonfinite": "skip"}
    with interrupted_after(3), pytest.raises(Interrupted):
        contrastive.run(tiny_recipe, sets, out=tmp_path / "run")
    with pytest.raises(ContrastiveError, match=r"step 5: 5 steps in a row"):
        contrastive.run(tiny_recipe, sets, out=tmp_path / "run")


WANTS = [
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    MemoryError(),
]


@pytest.mark.parametrize("error", WANTS, ids=lambda error: type(error).__name__)
def test_out_of_memory_names_batch_chunk_and_checkpoint(
    error: Exception, tiny_recipe: Path, tmp_path: Path, before_step, capsys: pytest.CaptureFixture[str]
):
    def fail(method: Method) -> None:
        raise error

    before_step(9, fail)
    assert main(["run", str(tiny_recipe), "--out", str(tmp_path / "run")]) == 1
    told = capsys.readouterr().err
    assert "error: out of memory training on 16 images at a time: try train.chunk_size: 4" in told
    assert "step_00000007; the same command continues" in told
    assert "Traceback" not in told
    assert final_state(tmp_path / "run")["progress"]["step"] == 7


def test_out_of_memory_while_evaluating_says_so(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from contrastive.evaluation import Evaluation

    def fail(self: Evaluation, method: Method) -> None:
        raise MemoryError

    monkeypatch.setattr(Evaluation, "during", fail)
    with pytest.raises(ContrastiveError, match="out of memory while evaluating"):
        contrastive.run(tiny_recipe, out=tmp_path / "run")


def test_out_of_memory_while_decoding_names_the_limit(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from contrastive.data import tables as memory

    class Full:
        uint8 = torch.uint8

        @staticmethod
        def empty(*_: Any, **__: Any) -> None:
            raise WANTS[1]

    monkeypatch.setattr(memory, "torch", Full)
    with pytest.raises(ContrastiveError, match=r"decoding .* images into memory .* train\.memory_limit"):
        contrastive.run(tiny_recipe, out=tmp_path / "run")


def test_other_errors_are_not_taken_for_want_of_memory():
    assert not out_of_memory(RuntimeError("shapes do not match"))
    assert not out_of_memory(ValueError("can't allocate memory"))


def test_the_advice_is_smaller_than_what_did_not_fit():
    assert "train.chunk_size: 64" in chunk_advice(256, None)
    assert "train.chunk_size: 32" in chunk_advice(256, 64)
    assert "smaller backbone" in chunk_advice(1, None)
