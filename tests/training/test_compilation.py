"""``train.compile``: what is compiled, that names stay, what a failure says, and what CUDA graphs may not
overwrite."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import contrastive
from contrastive.build import build, trial_views
from contrastive.cli import main
from contrastive.errors import RecipeError
from contrastive.recipe import load_recipe, training_fingerprint
from contrastive.recipe.schema import recipe_schema
from contrastive.registry import load_registry
from contrastive.training import Checkpoints, compilation
from contrastive.views import View
from tests.support.encoders import Flat
from tests.support.tiny import UNEVALUATED

OVERRIDES = [
    "train.epochs=1",
    "train.max_steps=2",  # compiled code rounds differently, and training magnifies that
    "evaluate.linear=null",
    "target={name: ema, momentum: 0.9}",
]


@pytest.fixture
def graphs(monkeypatch) -> list[int]:
    """Batch sizes of the graphs of encoders that a backend which compiles nothing was given."""
    seen: list[int] = []

    def backend(graph, inputs):
        if any(isinstance(x, nn.Parameter) for x in inputs):
            seen.append(next(len(x) for x in inputs if isinstance(x, Tensor) and x.ndim in (2, 4)))
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(compilation, "BACKEND", backend)
    return seen


def weights(folder):
    return Checkpoints(folder / "checkpoints", "", pytest.fail).newest()["method"]


@pytest.mark.ci
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


def test_every_batch_size_has_a_graph(graphs):
    method = nn.ModuleList([Flat()])
    compilation.compile_encoders(method)
    sizes = list(range(2, 14))  # torch compiles 8 by default
    for size in sizes:
        method[0](torch.rand(size, 2, 4, 4))
    assert graphs == sizes


@pytest.mark.parametrize(
    ("name", "encoders"),
    [
        pytest.param("ijepa", 2, marks=pytest.mark.ci),
        pytest.param("mae", 1, marks=pytest.mark.ci),
        pytest.param("ibot", 2, marks=pytest.mark.ci),
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


class Pool:
    """A backend that compiles nothing, and whose graphs use memory as CUDA graphs do: what the graphs of a
    mode return is overwritten as soon as the next step begins."""

    def __init__(self) -> None:
        self.modes: set[str | None] = set()
        self.outputs: list[Tensor] = []
        self.steps = 0

    def __call__(self, graph, inputs, mode=None):
        self.modes.add(mode)

        def call(*arguments):
            outputs = graph.forward(*arguments)
            own = {x.untyped_storage().data_ptr() for x in arguments if isinstance(x, Tensor)}
            for x in outputs if mode else ():
                if isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in own:
                    self.outputs.append(x.data)
            return outputs

        return call

    def begin_step(self) -> None:
        """What torch does at the mark, at once."""
        for x in self.outputs:
            x.fill_(torch.nan if x.is_floating_point() else 0)
        self.outputs.clear()
        self.steps += 1


@pytest.fixture
def pool(monkeypatch) -> Pool:
    pool = Pool()
    torch._dynamo.reset()
    monkeypatch.setattr(compilation, "BACKEND", pool)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", pool.begin_step)
    return pool


@pytest.mark.ci
@pytest.mark.parametrize(
    "variant",
    [
        {"target": {"name": "ema", "momentum": 0.9}, "views": {"batch_norm": "separate"}},
        {"train.accumulate": 2, "train.chunk_size": 8},
    ],
    ids=["average", "chunks"],
)
def test_a_step_reads_nothing_that_cuda_graphs_have_overwritten(tiny_recipe, tmp_path, pool, variant):
    """VICReg compares the embeddings themselves, which collapse_watch reads a step later."""
    overrides = {"train.epochs": 1, "loss": {"name": "vicreg"}, "callbacks": ["collapse_watch"]}
    overrides |= {**UNEVALUATED, **variant}
    plain = contrastive.run(tiny_recipe, overrides, out=tmp_path / "plain")
    assert not pool.steps, "steps are marked for graphs only"
    overrides["train.compile"] = "reduce-overhead"
    compiled = contrastive.run(tiny_recipe, overrides, out=tmp_path / "compiled")
    assert pool.modes == {"reduce-overhead", None}, "of the encoders, and of the colours"
    steps = [metrics for metrics in compiled.metrics if "loss" in metrics]
    assert pool.steps == len(steps) > 1, "one mark per optimizer step"
    assert pool.outputs, "the last step's memory is in use until another one begins"
    for ours, expected in zip(compiled.metrics, plain.metrics, strict=True):
        for name in expected.keys() - {"images_per_second", "seconds"}:
            value = expected[name]
            assert ours[name] == (
                value if isinstance(value, str) else pytest.approx(value, rel=1e-3, abs=1e-4)
            ), name


def test_tokens_are_copies_outside_the_memory_of_cuda_graphs(pool):
    data, parts = build(load_recipe("ijepa", ["train.batch_size=8"], load_registry()))
    [view, *_] = trial_views(parts.pipelines, parts.view_sizes, data.train.channels, parts.method.grids)
    compilation.compile_encoders(parts.method, "max-autotune")
    tokens = parts.method.backbone.tokens(View(view.data))
    whole = parts.method.backbone(view.data)
    tokens.patches.sum().backward()
    assert next(parts.method.backbone.parameters()).grad is not None
    pool.begin_step()
    assert pool.modes == {"max-autotune"}
    assert all(x.isfinite().all() for x in (whole, tokens.h, tokens.prefix, tokens.patches))


def test_a_mode_is_another_value_of_the_key():
    registry = load_registry()

    def recipe(value: str):
        return load_recipe("simclr", [f"train.compile={value}"], registry)

    values = {value: recipe(value) for value in ("true", "false", "reduce-overhead", "max-autotune")}
    assert [each.train.compile for each in values.values()] == [True, False, *list(values)[2:]]
    assert len({training_fingerprint(each, "") for each in values.values()}) == 4
    assert [values[name].dump()["train"]["compile"] for name in ("true", "false")] == [True, False]
    with pytest.raises(RecipeError) as error:
        recipe("reduce_overhead")
    sentence = "must be true or false or 'reduce-overhead' or 'max-autotune', not 'reduce_overhead'"
    assert sentence in str(error.value)
    train = recipe_schema(registry)["properties"]["train"]["properties"]
    assert [
        option.get("enum") or option["type"] for option in train["compile"]["anyOf"]
    ] == ["boolean", ["reduce-overhead", "max-autotune"]]  # fmt: skip


@pytest.mark.slow
def test_the_real_compiler_trains(tiny_recipe, tmp_path):
    torch._dynamo.reset()
    overrides = ["train.max_steps=2", "evaluate.linear=null", "evaluate.every=0"]
    plain = contrastive.run(tiny_recipe, overrides, out=tmp_path / "plain")
    compiled = contrastive.run(tiny_recipe, [*overrides, "train.compile=true"], out=tmp_path / "compiled")
    losses = [[m["loss"] for m in run.metrics if "loss" in m] for run in (plain, compiled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
