"""A value that nobody wrote and a colon without its space are refused, with their place and the remedy."""

import shlex
from pathlib import Path

import pytest

from contrastive.errors import RecipeError
from contrastive.recipe import load_recipe, parse_tree, resolve
from contrastive.registry import load_registry

BASE = "dataset: fashion_mnist_sample\naugmentation: {name: simclr, size: 28}\n"


def mistakes(text: str = "", *sets: str) -> str:
    Path("r.yaml").write_text(BASE + text)
    with pytest.raises(RecipeError) as caught:
        load_recipe("r.yaml", sets, load_registry())
    return str(caught.value)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("override", "path", "remedy"),
    [
        ("backbone.options={width:0.5}", "width", "write 'width: 0.5'"),
        ("backbone={options: {width:0.5}}", "options.width", "write 'width: 0.5'"),
        ("optimizer={lr:0.1}", "lr", "write 'lr: 0.1'"),
        ("optimizer={lr:{per_256:0.3}}", "lr.per_256", "write 'per_256: 0.3'"),
        ('optimizer.groups=[{match:"head.*", freeze: true}]', "0.match", "write 'match: \"head.*\"'"),
        ("train={epochs:3,seed:1}", "seed", "write 'seed: 1'"),
        ("head={name: mlp, dims:[16,8]}", "", ""),
        ("backbone.options={width}", "width", "this key has no value; write 'width: VALUE'"),
        ("backbone.options={width: }", "width", "this key has no value"),
        ("train.max_steps=", "", "has no value; write a value after the '='"),
        (
            "backbone.options=width:0.5",
            "backbone.options",
            "A space is missing after the colon: write 'width: 0.5'",
        ),
        ("train=epochs:3", "train", "A space is missing after the colon: write 'epochs: 3'"),
        ("optimizer=lr:0.1", "optimizer", "A space is missing after the colon: write 'lr: 0.1'"),
    ],
)
def test_a_missing_space_in_set(override, path, remedy):
    if not remedy:  # a list after the colon ends the word: YAML reads what was meant
        Path("r.yaml").write_text(BASE)
        load_recipe("r.yaml", [override], load_registry())
        return
    text = mistakes("", override)
    assert f"--set {override.partition('=')[0]}" in text
    assert path in text
    assert remedy in text


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("text", "where", "remedy"),
    [
        ("backbone: {name: timm, options: {width:0.5}}\n", "r.yaml:3:34", "write 'width: 0.5'"),
        ("optimizer: {lr:0.1}\n", "r.yaml:3:13", "write 'lr: 0.1'"),
        ("optimizer:\n  name: sgd\n  groups:\n  - {match:x}\n", "r.yaml:6:6", "write 'match: x'"),
        ("backbone:\n  options:\n    width:0.5\n", "r.yaml:5:5", "write 'width: 0.5'"),
        ("train:\n  epochs:3\n", "r.yaml:4:3", "write 'epochs: 3'"),
    ],
)
def test_a_missing_space_in_a_file(text, where, remedy):
    message = mistakes(text)
    assert where in message
    assert remedy in message


def test_nulls_that_are_written_and_block_keys_without_a_value_stay():
    text = (
        BASE + "predictor:\ntrain: {max_steps: null, clip_grad_norm: ~}\nbackbone: {options: {'a:b': null}}\n"
    )
    recipe = resolve(parse_tree(text), load_registry())
    assert recipe.predictor is None
    assert recipe.backbone.params["options"] == {"a:b": None}


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    "sets",
    [
        ["backbone.weights={path: b.pth, prefix: encoder_q}"],
        ["backbone.weights.prefix=encoder_q", "backbone.weights.path=b.pth"],
        ["backbone.weights=b.pth", "backbone.weights.prefix=encoder_q"],
    ],
)
def test_keys_merge_into_the_short_form_of_a_map(sets):
    Path("r.yaml").write_text(BASE + "backbone: {weights: a.pth}\n")
    recipe = load_recipe("r.yaml", sets, load_registry())
    assert recipe.backbone.params["weights"] == {"path": "b.pth", "prefix": "encoder_q"}


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    "value",
    ["my photos #1", "#1", "photos   # the old ones", " it's #1", 'say "a" #1', "$HOME/`x`! #1", "a\\b #1"],
)
def test_a_comment_in_set_is_refused_and_the_quotation_is_read_as_text(value):
    message = mistakes("", "dataset=image_folder", f"dataset.root={value}")
    comment = value[value.index("#") :]
    assert f"YAML reads '{comment}' as a comment; quote the value if it is a part of it: --set " in message
    option, override = shlex.split(message[message.rindex("--set ") :])
    recipe = load_recipe("r.yaml", ["dataset=image_folder", override], load_registry())
    assert (option, recipe.dataset.params["root"]) == ("--set", value.strip())


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("value", ["{name: image_folder} # x", "[a] # x", "'photos' # x", "photos # x\n"])
def test_a_comment_after_a_value_that_is_whole_goes(value):
    assert "YAML reads '# x' as a comment; remove it." in mistakes("", f"dataset={value}")


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("value", ["'my photos #1'", "photos#1", '"#1"'])
def test_a_hash_that_is_no_comment_stays(value):
    Path("r.yaml").write_text(BASE)
    recipe = load_recipe("r.yaml", ["dataset=image_folder", f"dataset.root={value}"], load_registry())
    assert recipe.dataset.params["root"] == value.strip("'\"")


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("value", ["2019", "1e3", "007", "true", ".5"])
def test_a_number_where_text_is_expected_needs_quotes(value):
    folder = "dataset: {name: image_folder, root: VALUE}\n"
    hint = f"; quote it for YAML and for the shell: --set \"dataset.root='{value}'\""
    assert hint in mistakes("", "dataset=image_folder", f"dataset.root={value}")
    Path("s.yaml").write_text(folder.replace("VALUE", value))
    with pytest.raises(RecipeError, match=f"must be text, not .*; quote it: '{value}'"):
        load_recipe("s.yaml", (), load_registry())
