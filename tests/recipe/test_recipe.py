"""Recipes: YAML 1.2, places, extends, --set, defaults, dumping, building."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrastive.errors import PluginError, RecipeError, UsageError, Where
from contrastive.recipe import (
    dump_yaml,
    find_recipe,
    load_cells,
    load_recipe,
    load_tree,
    parse_tree,
    resolve,
    shipped_recipes,
    signature_of,
    training_fingerprint,
    type_text,
    write_yaml,
)
from contrastive.recipe.reader import read_yaml
from contrastive.recipe.signature import argument_docs
from contrastive.registry import Registry, load_registry
from tests.support import fake_parts
from tests.support.fake_parts import fake_registry

REGISTRY = fake_registry()

CONTRACT = """\
name: simclr
dataset:      {name: fashion_mnist_sample}
augmentation: {name: simclr, size: 28, strength: 0.5}
backbone:     {name: timm, model: resnet18, stem: small}
head:         {name: mlp, dims: [512, 128]}
predictor:    none
views:        {online: all, target: all, batch_norm: joint}
positives:    image
target:       shared
negatives:    in_batch
loss:         {name: nt_xent, temperature: 0.5}
optimizer:    {name: lars, lr: {per_256: 0.3}, weight_decay: 1e-6, warmup_epochs: 1, schedule: cosine}
train:        {epochs: 10, max_steps: null, batch_size: 256, accumulate: 1, chunk_size: null, precision: auto,
               seed: 0, nonfinite: stop, checkpoint_every: 1}
evaluate:     {every: 1, knn: {k: 200, temperature: 0.1}, linear: {at: end}}
callbacks:    []
allow:        []
"""


def recipe(text: str, registry=REGISTRY):
    return resolve(parse_tree(text), registry)


def read(text: str):
    return read_yaml(text, "f.yaml")[0].plain()


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Writes recipe files into the current, temporary folder."""
    monkeypatch.chdir(tmp_path)

    def write(**texts: str) -> None:
        for name, text in texts.items():
            (tmp_path / f"{name}.yaml").write_text(text)

    return write


# -- YAML -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-1.5E+2", -150.0),
        ("010", 10),
        ("0o17", 15),
        ("0x1f", 31),
        ("+3", 3),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("on", "on"),
        ("no", "no"),
        ("Yes", "Yes"),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("none", "none"),
        ("'1e-3'", "1e-3"),
        ('"true"', "true"),
        (".inf", math.inf),
        ("=", "="),
    ],
)
def test_scalars_are_yaml_1_2(text, value):
    found = read(f"a: {text}\n")["a"]
    assert found == value
    assert type(found) is type(value)


def test_nodes_know_their_line_and_column():
    root, _ = read_yaml("a: 1\nb:\n  c: [10, {d: x}]\n", "f.yaml")
    assert root.at(["b", "c", 1, "d"])[0].where == Where("f.yaml", 3, 15)
    assert root.at(["b"])[0].key("c") == Where("f.yaml", 3, 3)
    assert root.at(["b", "absent", "x"]) == (root.value["b"], 1)


def test_an_alias_is_the_value_it_names():
    assert read("a: &x {b: [1, 2]}\nc: *x\n") == {"a": {"b": [1, 2]}, "c": {"b": [1, 2]}}


SCALARS = st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(SCALARS, lambda of: st.lists(of) | st.dictionaries(st.text(), of), max_leaves=12)


@given(VALUES)
def test_what_is_written_is_read_back(value):
    try:
        found = read(write_yaml({"value": value}))["value"]
    except RecipeError as error:  # '<<' as a key, which YAML 1.1 gave a meaning, is refused on purpose
        refusal = str(error)
    else:
        assert found == value
        assert repr(found) == repr(value)  # 1 is not 1.0, and not true
        return
    assert "merge key" in refusal or "character" in refusal


# -- resolving ------------------------------------------------------------------------------------------


def test_the_recipe_of_the_contract_is_valid_with_the_real_parts():
    registry = load_registry(plugins=False)
    found = recipe(CONTRACT, registry)
    assert found.losses[0].part.build().temperature == 0.5
    assert found.optimizer.build().weight_decay == 1e-6
    assert found.evaluate.protocols["linear"].at == "end"
    assert found.predictor is None
    assert recipe(dump_yaml(found), registry).dump() == found.dump()


@pytest.fixture(scope="module")
def installed() -> Registry:
    """With plugins: some shipped recipes name parts of those kept beside the framework."""
    return load_registry()


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_is_valid_and_has_a_summary(name, installed):
    for cell in load_cells(name):
        found = resolve(cell.tree, installed)
        assert recipe(dump_yaml(found), installed).dump() == found.dump()
    assert shipped_recipes()[name]


def test_one_line_is_a_complete_recipe():
    found = recipe("dataset: fashion_mnist_sample\n")
    assert found.name == "recipe"
    assert found.augmentation.name == "simclr"
    assert found.backbone.params == {"model": "resnet18", "stem": "small"}
    assert [loss.part.name for loss in found.losses] == ["nt_xent"]
    assert [part.name for part in found.negatives] == ["in_batch"]
    assert found.train.batch_size == 256
    assert found.train.workers == "auto"
    assert {name: spec.at for name, spec in found.evaluate.protocols.items()} == {
        "knn": "every",
        "linear": "end",
    }


def test_a_map_without_a_name_changes_the_default_part():
    found = recipe("dataset: fashion_mnist_sample\nloss: {temperature: 1}\nbackbone: {model: resnet50}\n")
    assert found.losses[0].part.params == {"temperature": 1.0}
    assert found.backbone.params == {"model": "resnet50", "stem": "small"}
    named = recipe("dataset: fashion_mnist_sample\nbackbone: {name: timm, model: resnet50}\n")
    assert named.backbone.params == {"model": "resnet50", "stem": "standard"}  # the part's own defaults


def test_lists_add_up_and_losses_are_weighted():
    found = recipe(
        "dataset: fashion_mnist_sample\n"
        "loss: [{name: margin, weight: 2}, nt_xent]\n"
        "negatives: [in_batch, in_batch]\ncallbacks: [{name: stop, patience: 5}]\n"
    )
    assert [(weight, part.name) for weight, part in found.losses] == [(2.0, "margin"), (1.0, "nt_xent")]
    assert len(found.negatives) == 2
    assert found.callbacks[0].build().patience == 5
    assert recipe(dump_yaml(found)).dump() == found.dump()


def test_parts_take_parts_and_lists_are_pipelines():
    found = recipe(
        "dataset: fashion_mnist_sample\n"
        "augmentation: {name: views, of: [[{name: crop, size: 32}, flip], {times: 2, pipeline: [flip]}]}\n"
        "target: {name: shuffle_bn, of: {name: ema, momentum: 0.9}}\n"
    )
    views = found.augmentation.build()
    assert [type(view) for view in views.of] == [fake_parts.Sequence] * 3
    assert [type(step) for step in views.of[0].operations] == [fake_parts.Crop, fake_parts.Flip]
    assert views.of[0].operations[0].scale == (0.08, 1.0)
    target = found.target.build()
    assert isinstance(target.of, fake_parts.EMA)
    assert target.of.momentum == 0.9
    assert [part.name for part in found.target.walk()] == ["shuffle_bn", "ema"]
    again = recipe(dump_yaml(found))
    assert again.dump() == found.dump()


def test_built_parts_get_typed_values_and_what_the_builder_offers():
    found = recipe("dataset: {name: image_folder, root: a/b}\noptimizer: {name: lars, lr: {per_256: 1}}\n")
    assert found.dataset.build(in_features=3).root == Path("a/b")
    assert found.optimizer.build().lr == fake_parts.Rate(per_256=1.0)
    assert found.head.build(in_features=7, image_size=1).in_features == 7


@pytest.mark.parametrize("text", ["none", "null", "{name: none}", ""])
def test_a_predictor_can_be_left_out(text):
    assert recipe(f"dataset: fashion_mnist_sample\npredictor: {text}\n").predictor is None
    assert recipe("dataset: fashion_mnist_sample\npredictor: mlp\n").predictor.name == "mlp"


def test_protocols_can_be_chosen_timed_and_left_out():
    def protocols(text: str) -> dict[str, str]:
        found = recipe(f"dataset: fashion_mnist_sample\nevaluate: {text}\n")
        assert recipe(dump_yaml(found)).dump() == found.dump()
        return {name: spec.at for name, spec in found.evaluate.protocols.items()}

    assert protocols("{every: 0}") == {"knn": "every", "linear": "end"}
    assert protocols("{knn: {k: 5, at: end}}") == {"knn": "end"}
    assert protocols("{knn: {}, linear: none}") == {"knn": "every"}
    assert protocols("{knn: null}") == {}
    assert protocols("{knn: {}, knn_z: {protocol: knn, k: 3}}") == {"knn": "every", "knn_z": "every"}
    assert protocols("{knn: {protocol: knn}, probe_2: {protocol: linear, at: every}}") == {
        "knn": "every", "probe_2": "every",
    }  # fmt: skip
    assert protocols("{knn: {}, knn_z: {protocol: none, k: 3}}") == {"knn": "every"}


def test_one_protocol_may_stand_under_several_keys():
    text = "dataset: fashion_mnist_sample\nevaluate: {knn: {}, few: {protocol: knn, k: 3}}\n"
    found = recipe(text).evaluate.protocols
    assert {key: (spec.part.name, dict(spec.part.params)) for key, spec in found.items()} == {
        "knn": ("knn", {"k": 200}),
        "few": ("knn", {"k": 3}),
    }
    assert recipe(text).dump()["evaluate"]["few"] == {"protocol": "knn", "k": 3, "at": "every"}


def test_later_mistakes_have_a_place():
    found = recipe("dataset: fashion_mnist_sample\ntrain:\n  batch_size: 512\n")
    assert found.mistake("train.batch_size", "").where == Where("recipe.yaml", 3, 15)
    assert found.mistake("train.epochs", "").where == Where("recipe.yaml", 3, 3)  # left out: its section
    assert (
        str(found.mistake("train.batch_size", "too many")) == "recipe.yaml:3:15  train.batch_size: too many"
    )
    assert isinstance(found.refuse("loss", "no"), RecipeError)


def test_a_part_of_an_absent_plugin_is_a_plugin_error_with_its_place():
    with pytest.raises(PluginError, match=r"recipe.yaml:2:12  negatives: .* pip install contrastive-moco"):
        recipe("dataset: fashion_mnist_sample\nnegatives: queue\n")
    with pytest.raises(RecipeError) as error:  # a mistake goes first, and both are told
        recipe("dataset: fashion_mnist_sample\nnegatives: queue\ntrain: {epochs: -1}\n")
    assert len(error.value.mistakes) == 2


# -- extends and --set ----------------------------------------------------------------------------------


def test_extends_merges_maps_replaces_lists_and_parts_with_another_name(files):
    files(
        base="""\
dataset: {name: image_folder, root: here, limit: 5}
head: {name: mlp, dims: [1, 2, 3]}
loss: {name: nt_xent, temperature: 0.2}
target: {name: shuffle_bn, of: {name: ema, momentum: 0.5}}
negatives: in_batch
train: {epochs: 3, seed: 7}
""",
        middle="extends: base\nhead: {dims: [4]}\ntrain: {seed: 8}\n",
        top="extends: middle.yaml\nname: top\ndataset: {limit: 6}\nloss: {name: margin}\n"
        "target: {of: {name: shared}}\n",
    )
    Path("middle.yaml").write_text(Path("middle.yaml").read_text().replace("base", "base.yaml"))
    found = load_recipe("top.yaml", (), REGISTRY)
    assert found.dataset.params == {"root": "here", "limit": 6}
    assert found.head.params == {"dims": [4]}
    assert found.losses[0].part.name == "margin"
    assert "temperature" not in found.losses[0].part.params
    assert found.target.params["of"].name == "shared"
    assert (found.train.epochs, found.train.seed, found.name) == (3, 8, "top")
    assert found.mistake("train.epochs", "").where.file == "base.yaml"
    assert found.mistake("train.seed", "").where.file == "middle.yaml"


def test_extends_looks_beside_the_file_first_and_then_among_shipped_recipes(tmp_path):
    folder = tmp_path / "deep"
    folder.mkdir()
    (folder / "mine.yaml").write_text("extends: simclr\ntrain: {epochs: 77}\n")
    registry = load_registry(plugins=False)
    found = load_recipe(folder / "mine.yaml", (), registry)
    shipped = load_recipe("simclr", (), registry)
    assert found.train.epochs == 77
    assert found.backbone.dump() == shipped.backbone.dump()


def test_bare_names_and_maps_mean_the_same_in_a_merge(files):
    files(
        base="dataset: fashion_mnist_sample\nloss: nt_xent\ntarget: {name: ema, momentum: 0.3}\n",
        top="extends: base.yaml\nloss: {temperature: 0.1}\ntarget: ema\n",
    )
    found = load_recipe("top.yaml", (), REGISTRY)
    assert found.losses[0].part.params == {"temperature": 0.1}
    assert found.target.params == {"momentum": 0.3}


@pytest.mark.parametrize(
    ("sets", "path", "value"),
    [
        (["train.epochs=2"], "train.epochs", 2),
        (["loss.temperature=1e-1"], "loss.temperature", 0.1),
        (["loss=margin"], "loss.name", "margin"),
        (["loss.name=margin", "loss.margin=3"], "loss.margin", 3.0),
        (["loss={name: margin, margin: 2}"], "loss.margin", 2.0),
        (["head.dims.1=64"], "head.dims", [512, 64]),
        (["head.dims=[8]"], "head.dims", [8]),
        (["target.of.momentum=0.5"], "target.of.momentum", 0.5),
        (["target.of=shared"], "target.of.name", "shared"),
        (["optimizer.lr.per_256=1"], "optimizer.lr.per_256", 1.0),
        (["name=other"], "name", "other"),
        (["optimizer.options.a.b.c=on"], "optimizer.options.a.b.c", "on"),
        ({"train.epochs": 5}, "train.epochs", 5),
        ({"head.dims": (3, 4)}, "head.dims", [3, 4]),
        ({"dataset": {"name": "image_folder", "root": Path("x")}}, "dataset.root", "x"),
        (["train.clip_grad_norm=null"], "train.clip_grad_norm", None),
    ],
)
def test_set(files, sets, path, value):
    files(r="dataset: fashion_mnist_sample\nhead: {dims: [512, 128]}\ntarget: {name: shuffle_bn, of: ema}\n"
            "train: {clip_grad_norm: 1.0}\n")  # fmt: skip
    found = load_recipe("r.yaml", sets, REGISTRY).dump()
    for step in path.split("."):
        found = found[step]
    assert found == value


def test_set_reaches_into_lists_of_parts(files):
    files(r="dataset: fashion_mnist_sample\nloss: [nt_xent, {name: margin, margin: 2}]\n")
    found = load_recipe("r.yaml", ["loss.0.weight=0.5", "loss.1.name=nt_xent"], REGISTRY)
    assert [(weight, part.name) for weight, part in found.losses] == [(0.5, "nt_xent"), (1.0, "nt_xent")]


def test_recipes_are_found_by_path_and_by_shipped_name(tmp_path, monkeypatch):
    assert find_recipe("simclr").name == "simclr.yaml"
    assert find_recipe("cifar10/simclr-cpu.yaml").parent.name == "cifar10"
    with pytest.raises(UsageError, match=r"Did you mean 'simclr'\?"):
        find_recipe("simclrr")
    with pytest.raises(UsageError, match="is a folder"):
        find_recipe(tmp_path)
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_recipe("photos").name == "photos.yaml"
    for path in ("photos/", "./photos"):
        with pytest.raises(UsageError, match="is a folder, not a recipe file"):
            find_recipe(path)
    (tmp_path / "photos/deep").mkdir()
    (tmp_path / "photos/deep/a.JPG").touch()
    with pytest.raises(UsageError, match=r"`contrastive run photos --set \"dataset.root='photos'\"`"):
        find_recipe("photos/")
    for hopeless in ("\0", "x" * 5000, "../recipes"):
        with pytest.raises(UsageError):
            find_recipe(hopeless)


# -- fingerprint ----------------------------------------------------------------------------------------


def test_the_fingerprint_covers_what_decides_the_weights():
    text = "dataset: fashion_mnist_sample\ntrain: {epochs: 3}\n"

    def fingerprint(text: str, data: str = "d", registry=REGISTRY) -> str:
        return training_fingerprint(recipe(text, registry), data)

    same = fingerprint(text)
    for addition in ("name: other\n", "evaluate: {every: 3}\n", "loss: {temperature: 0.5}\n"):
        assert fingerprint(text + addition) == same
    assert (
        fingerprint("dataset: fashion_mnist_sample\ntrain: {epochs: 3, workers: 2, checkpoint_every: 4}\n")
        == same
    )
    assert fingerprint(dump_yaml(recipe(text))) == same
    for addition in ("loss: {temperature: 0.6}\n", "callbacks: [stop]\n", "positives: label\n"):
        assert fingerprint(text + addition) != same
    assert fingerprint(text, data="e") != same
    newer = fake_registry()
    newer.entries = dict(newer.entries)
    loss = newer.entries["loss", "nt_xent"]
    newer.entries["loss", "nt_xent"] = type(loss)(loss.kind, loss.name, loss.provider, "2.0", loss.reference)
    assert fingerprint(text, registry=newer) != same


# -- signatures -----------------------------------------------------------------------------------------


def test_a_signature_tells_types_defaults_and_docs():
    signature = signature_of(REGISTRY.entry("augmentation", "crop"))
    assert signature.summary == "A crop."
    assert signature.parameters["size"].doc == "side of the crop, in pixels."
    assert signature.parameters["size"].required
    assert type_text(signature.parameters["size"].annotation) == "integer > 0"
    head = signature_of(REGISTRY.entry("head", "mlp"))
    assert head.injected == {"in_features": "in_features"}
    assert list(head.parameters) == ["dims"]
    target = signature_of(REGISTRY.entry("target", "shuffle_bn"))
    assert target.parameters["of"].takes_part
    assert type_text(target.parameters["of"].annotation) == "target (a part)"


def test_argument_docs_end_with_their_section():
    docs = argument_docs(
        "One.\n\nArgs:\n    a: first\n        and more.\n    b (int): second.\n\nRaises:\n    X: no.\n"
    )
    assert docs == {"a": "first and more.", "b": "second."}


# -- anything at all ------------------------------------------------------------------------------------

KEYS = st.sampled_from(
    [
        "name",
        "dataset",
        "augmentation",
        "backbone",
        "head",
        "predictor",
        "views",
        "positives",
        "target",
        "negatives",
        "loss",
        "optimizer",
        "train",
        "evaluate",
        "callbacks",
        "allow",
        "extends",
        "every",
        "knn",
        "at",
        "weight",
        "epochs",
        "batch_size",
        "of",
        "size",
        "dims",
        "times",
        "pipeline",
    ]
)
WORDS = st.sampled_from(
    [
        "simclr",
        "crop",
        "flip",
        "views",
        "nt_xent",
        "margin",
        "ema",
        "shuffle_bn",
        "none",
        "all",
        "end",
        "queue",
        "mlp",
        "lars",
    ]
)
LEAVES = WORDS | SCALARS | st.floats()
TREES = st.recursive(LEAVES, lambda of: st.lists(of) | st.dictionaries(KEYS | st.text(), of), max_leaves=30)


@given(st.dictionaries(KEYS, TREES))
def test_any_tree_is_a_recipe_or_a_list_of_mistakes(value):
    try:
        found = resolve(parse_tree(write_yaml(value)), REGISTRY)
    except (RecipeError, PluginError):
        return
    assert resolve(parse_tree(dump_yaml(found)), REGISTRY).dump() == found.dump()


@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"%@#?, \n\t\0<~")) | st.binary())
@settings(max_examples=150, deadline=None)
def test_any_text_is_a_tree_or_a_mistake(content):
    with suppress(RecipeError):
        read_yaml(content, "f.yaml")


@given(
    st.lists(st.tuples(st.lists(KEYS | st.sampled_from(["0", "1", "-1"]), min_size=1, max_size=4), st.text()))
)
def test_any_set_is_applied_or_a_mistake(tmp_path_factory, pairs):
    file = tmp_path_factory.getbasetemp() / "set.yaml"
    file.write_text("dataset: fashion_mnist_sample\nloss: [nt_xent, margin]\n")
    with suppress(UsageError, PluginError):
        resolve(load_tree(file, [f"{'.'.join(path)}={value}" for path, value in pairs]), REGISTRY)
