"""``train.compile``: what is compiled, that names stay, and what a failure says."""

from __future__ import annotations

import copy

import pytest
import torch

import contrastive
from contrastive.build import build, trial_views
from contrastive.cli import main
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry
from contrastive.training import Checkpoints, compilation

OVERRIDES = ["train.epochs=1", "evaluate.linear=null", "target={name: ema, momentum: 0.9}"]


@pytest.fixture
def graphs(monkeypatch) -> list[int]:
    """Batch sizes of the graphs that a backend which compiles nothing was given."""
    seen: list[int] = []

    def backend(graph, inputs):
        seen.append(next(len(x) for x in inputs if isinstance(x, torch.Tensor) and x.ndim in (2, 4)))
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(compilation, "BACKEND", backend)
    return seen


def weights(folder):
    return Checkpoints(folder / "checkpoints", "", pytest.fail).newest()["method"]


def test_a_compiled_run_has_the_checkpoint_and_export_of_a_plain_one(tiny_recipe, tmp_path, graphs):
    plain = contrastive.run(tiny_recipe, OVERRIDES, out=tmp_path / "plain")
    assert not graphs, "nothing is compiled unasked"
    compiled = contrastive.run(tiny_recipe, [*OVERRIDES, "train.compile=true"], out=tmp_path / "compiled")
    assert len(graphs) >= 4, "online backbone and head, and the average's"
    ours, theirs = weights(compiled.folder), weights(plain.folder)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-4)
    x = torch.rand(2, 3, 16, 16)
    nets = [contrastive.load_backbone(run.folder / "backbone") for run in (plain, compiled)]
    torch.testing.assert_close(nets[0](x), nets[1](x), rtol=1e-2, atol=1e-3)
    assert plain.summary["fingerprint"] != compiled.summary["fingerprint"]


@pytest.mark.parametrize(
    ("name", "encoders"),
    [
        ("ijepa", 2),
        pytest.param("mae", 1, marks=pytest.mark.slow),
        pytest.param("ibot", 2, marks=pytest.mark.slow),
    ],
)
def test_tokens_are_compiled_as_images_are(name, encoders, monkeypatch):
    """Each block's attention is in a graph: of the online encoder, and of the average if there is one."""
    attentions = []

    def backend(graph, inputs):
        operators = [str(node.target) for node in graph.graph.nodes]
        attentions.append(sum("scaled_dot_product_attention" in operator for operator in operators))
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(compilation, "BACKEND", backend)
    data, parts = build(load_recipe(name, ["train.batch_size=8"], load_registry()))
    views = trial_views(parts.pipelines, parts.view_sizes, data.train.channels, parts.method.grids)
    compilation.compile_encoders(parts.method)
    twin = copy.deepcopy(parts.method)
    loss = parts.method(views, torch.arange(2)).loss
    assert sum(attentions) >= 4 * encoders  # four blocks each
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.fill_(0.01)
    assert twin(views, torch.arange(2)).loss != loss, "a copy computes with its own weights"


def test_a_failure_to_compile_is_one_sentence(tiny_recipe, tmp_path, monkeypatch, capsys):
    def backend(graph, inputs):
        raise RuntimeError("no compiler here")

    torch._dynamo.reset()
    monkeypatch.setattr(compilation, "BACKEND", backend)
    command = ["run", str(tiny_recipe), "--set", "train.compile=true", "--out", str(tmp_path / "run")]
    assert main(command) == 1
    told = capsys.readouterr().err
    assert "no compiler here" in told
    assert "set train.compile: false" in told
    assert "Traceback" not in told


@pytest.mark.slow
def test_the_real_compiler_trains(tiny_recipe, tmp_path):
    torch._dynamo.reset()
    overrides = ["train.max_steps=2", "evaluate.linear=null", "evaluate.every=0"]
    plain = contrastive.run(tiny_recipe, overrides, out=tmp_path / "plain")
    compiled = contrastive.run(tiny_recipe, [*overrides, "train.compile=true"], out=tmp_path / "compiled")
    losses = [[m["loss"] for m in run.metrics if "loss" in m] for run in (plain, compiled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
