"""Wrong recipes: one clear message each, at the right line and column, with the remedy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from contrastive.errors import RecipeError, UsageError
from contrastive.recipe import load_recipe
from contrastive.recipe.reader import MAX_BYTES
from tests.support.fake_parts import fake_registry

REGISTRY = fake_registry()
D = "dataset: fashion_mnist_sample\n"

#: what is wrong -> (text, the whole message)
WRONG = {
    "typo in a parameter": (
        D + "loss: {temperatur: 0.5}\n",
        "r.yaml:2:8  loss.temperatur: nt_xent has no parameter 'temperatur'. Did you mean 'temperature'?",
    ),
    "typo in a parameter of a named part": (
        D + "loss:\n  name: margin\n  minning: none\n",
        "r.yaml:4:3  loss.minning: margin has no parameter 'minning'. Did you mean 'mining'?",
    ),
    "parameter that nothing resembles": (
        D + "loss: {qqq: 1}\n",
        "r.yaml:2:8  loss.qqq: nt_xent has no parameter 'qqq'. It takes temperature.",
    ),
    "parameter of a part without any": (
        D + "target: {name: shared, x: 1}\n",
        "r.yaml:2:24  target.x: shared has no parameter 'x'. It takes none.",
    ),
    "unknown part": (
        D + "loss: nt_xnt\n",
        "r.yaml:2:7  loss: there is no loss 'nt_xnt'. Did you mean 'nt_xent'?",
    ),
    "unknown part in a map": (
        D + "loss: {name: qqq}\n",
        "r.yaml:2:14  loss: there is no loss 'qqq'. Known: nt_xent, margin.",
    ),
    "unknown nested part": (
        D + "target: {name: shuffle_bn, of: {name: emma}}\n",
        "r.yaml:2:39  target.of: there is no target 'emma'. Did you mean 'ema'?",
    ),
    "unknown key": (
        D + "los: nt_xent\n",
        "r.yaml:2:1  los: a recipe has no key 'los'. Did you mean 'loss'?",
    ),
    "no data set": (
        "name: x\n",
        "r.yaml:1:1  dataset: a recipe must name its data set; one of fashion_mnist_sample, image_folder",
    ),
    "missing parameter": (
        D + "augmentation: crop\n",
        "r.yaml:2:15  augmentation: crop needs 'size' (integer > 0)",
    ),
    "missing nested part": (
        D + "target: shuffle_bn\n",
        "r.yaml:2:9  target: shuffle_bn needs 'of' (target (a part))",
    ),
    "text where a number belongs": (
        D + "loss: {temperature: warm}\n",
        "r.yaml:2:21  loss.temperature: must be a number, not 'warm'",
    ),
    "true where a number belongs": (
        D + "loss: {temperature: true}\n",
        "r.yaml:2:21  loss.temperature: must be a number, not true",
    ),
    "negative temperature": (
        D + "loss: {temperature: -0.5}\n",
        "r.yaml:2:21  loss.temperature: must be greater than 0, not -0.5",
    ),
    "not a number": (
        D + "loss: {temperature: .nan}\n",
        "r.yaml:2:21  loss.temperature: must be a finite number, not nan",
    ),
    "fraction where an integer belongs": (
        D + "train:\n  epochs: 1.5\n",
        "r.yaml:3:11  train.epochs: must be an integer, not 1.5",
    ),
    "zero epochs": (
        D + "train: {epochs: 0}\n",
        "r.yaml:2:17  train.epochs: must be greater than 0, not 0",
    ),
    "batch of one": (
        D + "train: {batch_size: 1}\n",
        "r.yaml:2:21  train.batch_size: must be greater than or equal to 2, not 1",
    ),
    "word that is no choice": (
        D + "train: {precision: bf61}\n",
        "r.yaml:2:20  train.precision: must be 'auto', 'fp32', 'bf16' or "
        "'fp16', not 'bf61'. Did you mean 'bf16'?",
    ),
    "workers": (
        D + "train: {workers: many}\n",
        "r.yaml:2:18  train.workers: must be integer >= 0 or 'auto', not 'many'",
    ),
    "typo in a section": (
        D + "train: {epoch: 3}\n",
        "r.yaml:2:9  train.epoch: train has no key 'epoch'. Did you mean 'epochs'?",
    ),
    "chunks of no images": (
        D + "train: {chunk_size: 0}\n",
        "r.yaml:2:21  train.chunk_size: must be greater than 0, not 0",
    ),
    "list where a map belongs": (
        D + "train: [epochs, 3]\n",
        "r.yaml:2:8  train: must be a map of keys, not a list",
    ),
    "list where a part belongs": (
        D + "backbone: [timm]\n",
        "r.yaml:2:11  backbone: must be the name of a backbone, or a map with "
        "its name and parameters, not a list",
    ),
    "number where a part belongs": (
        D + "loss: 0.5\n",
        "r.yaml:2:7  loss: must be the name of a loss, or a map with its name and parameters, not 0.5",
    ),
    "name that is no name": (
        D + "loss: {name: [nt_xent]}\n",
        "r.yaml:2:14  loss.name: must be the name of a loss, not a list",
    ),
    "part without a name": (
        "dataset: {root: here}\n",
        "r.yaml:1:10  dataset: a dataset needs a 'name'; one of: fashion_mnist_sample, image_folder",
    ),
    "map where a list belongs": (
        D + "head: {dims: {a: 1}}\n",
        "r.yaml:2:14  head.dims: must be a list, not a map",
    ),
    "wrong item of a list": (
        D + "head: {dims: [512, 0]}\n",
        "r.yaml:2:20  head.dims.1: must be greater than 0, not 0",
    ),
    "one part where a list of parts belongs": (
        D + "augmentation: {name: views, of: flip}\n",
        None,
    ),
    "wrong form of a value with two": (
        D + "optimizer: {lr: fast}\n",
        "r.yaml:2:17  optimizer.lr: must be number or map of per_256, not 'fast'",
    ),
    "typo inside a value with two forms": (
        D + "optimizer: {lr: {per_265: 0.3}}\n",
        "r.yaml:2:17  optimizer.lr: must be number or map of per_256, not a map",
    ),
    "negative weight of a loss": (
        D + "loss: [nt_xent, {name: margin, weight: -1}]\n",
        "r.yaml:2:40  loss.1.weight: must be greater than 0, not -1",
    ),
    "no loss at all": (
        D + "loss: []\n",
        "r.yaml:2:7  loss: an empty list; name at least one loss part, or leave the key out",
    ),
    "unknown protocol": (
        D + "evaluate: {every: 1, knnn: {k: 3}}\n",
        "r.yaml:2:22  evaluate.knnn: there is no protocol 'knnn'. Did you mean 'knn'?",
    ),
    "protocol of a protocol's name": (
        "dataset: fashion_mnist_sample\nevaluate: {knn: {protocol: linear}}\n",
        "r.yaml:2:12  evaluate.knn: 'knn' is itself a protocol; use another key for protocol: linear",
    ),
    "protocol under a name that no figure can have": (
        "dataset: fashion_mnist_sample\nevaluate: {10-nn: {protocol: knn}}\n",
        "r.yaml:2:12  evaluate.10-nn: '10-nn' cannot be the prefix of metrics; use lower-case letters, "
        "digits and '_'",
    ),
    "unknown protocol under a key": (
        "dataset: fashion_mnist_sample\nevaluate: {few: {protocol: knnn}}\n",
        "r.yaml:2:28  evaluate.few: there is no protocol 'knnn'. Did you mean 'knn'?",
    ),
    "parameter of a protocol under a key": (
        "dataset: fashion_mnist_sample\nevaluate: {few: {protocol: knn, l: 3}}\n",
        "r.yaml:2:33  evaluate.few.l: knn has no parameter 'l'. It takes k.",
    ),
    "protocol at no time": (
        D + "evaluate: {knn: {at: sometimes}}\n",
        "r.yaml:2:22  evaluate.knn.at: must be 'every' or 'end', not 'sometimes'",
    ),
    "protocol that is no map": (
        D + "evaluate: {knn: 200}\n",
        "r.yaml:2:17  evaluate.knn: must be a map of the protocol's parameters, not 200",
    ),
    "view that cannot be": (
        D + "views: {online: [-1]}\n",
        "r.yaml:2:18  views.online.0: must be greater than or equal to 0, not -1",
    ),
    "no view": (
        D + "views: {online: []}\n",
        None,
    ),
    "name that is no folder": (
        D + "name: ../../etc\n",
        None,
    ),
    "allowing what nobody knows": (
        D + "allow: [colapse]\n",
        "r.yaml:2:9  allow.0: must be 'collapse', not 'colapse'. Did you mean 'collapse'?",
    ),
    "callbacks that are no list": (
        D + "callbacks: stop\n",
        "r.yaml:2:12  callbacks: must be a list of callbacks, not 'stop'",
    ),
    "duplicate key": (
        D + "loss:\n  temperature: 1\n  temperature: 2\n",
        "r.yaml:4:3  loss.temperature: this key is written twice (first at line 3); keep one",
    ),
    "duplicate section": (
        D + D,
        "r.yaml:2:1  dataset: this key is written twice (first at line 1); keep one",
    ),
    "tabs": (
        "train:\n\tepochs: 3\n",
        "r.yaml:2:1  a tab; YAML is indented with spaces",
    ),
    "wrong indentation": (
        D + "train:\n  epochs: 3\n batch_size: 4\n",
        "r.yaml:4:2  not valid YAML: wrong indentation; entries of a map or list start in the same column",
    ),
    "colon in a value": (
        "name: a: b\n",
        "r.yaml:1:8  not valid YAML: a ':' that is not allowed; check the indentation, or add quotes",
    ),
    "open bracket": (
        D + "head: {dims: [1, 2}\n",
        "r.yaml:2:19  not valid YAML (expected ',' or ']', but got '}'); check "
        "brackets, quotes and indentation here",
    ),
    "unknown alias": (D + "loss: *l\n", "r.yaml:2:7  '*l' has no anchor '&l' before it"),
    "alias of itself": ("loss: &l [*l]\n", "r.yaml:1:11  '*l' is inside the value it names"),
    "merge key": (
        "<<: {a: 1}\n",
        "r.yaml:1:1  a merge key ('<<'); use `extends: other.yaml` to inherit",
    ),
    "object tag": (
        "name: !!python/object/apply:os.system [ls]\n",
        "r.yaml:1:7  a tag (tag:yaml.org,2002:python/object/apply:os.system); "
        "a recipe holds plain values only",
    ),
    "two documents": (D + "---\n" + D, "r.yaml:2:1  a second document ('---'); a recipe is one document"),
    "no map": (
        "- a\n- b\n",
        "r.yaml:1:1  holds a list; a recipe is a map of keys such as 'dataset: fashion_mnist_sample'",
    ),
    "empty file": (
        "# nothing\n",
        "r.yaml:1:1  is empty; a recipe is a map of keys such as 'dataset: fashion_mnist_sample'",
    ),
    "key that is a list": ("? [a]\n: 1\n", None),
    "number beyond 64 bits": (D + "train: {seed: 99999999999999999999999}\n", None),
    "deep nesting": ("a: " + "[" * 100 + "]" * 100 + "\n", None),
    "extends itself": ("extends: r.yaml\n", None),
    "extends nothing": (
        D + "extends: nowhere.yaml\n",
        None,
    ),
    "extends a list": (
        "extends: [a, b]\n",
        "r.yaml:1:10  extends: must be one recipe file or shipped name, not a list",
    ),
}

#: What the message of those above that give None must hold.
HOLDS = {
    "one part where a list of parts belongs": [
        "r.yaml:2:33  augmentation.of",
        "must be list of augmentation",
        "'flip'",
    ],
    "no view": ["r.yaml:2:17  views.online", "'all'"],
    "name that is no folder": [
        "r.yaml:2:7  name: '../../etc' does not fit. Name of the run's folder: letters, digits"
    ],
    "key that is a list": ["r.yaml:1:3", "a key must be a word"],
    "number beyond 64 bits": ["r.yaml:2:15", "beyond 64 bits"],
    "deep nesting": ["nested more than 32 levels deep"],
    "extends itself": ["r.yaml:1:10  extends", "in a circle (r.yaml -> r.yaml)", "remove one `extends`"],
    "extends nothing": [
        "r.yaml:2:10  extends",
        "there is no recipe file nowhere.yaml",
        "`contrastive list recipe` lists them",
    ],
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mistakes(file: str = "r.yaml", sets=()) -> list[str]:
    with pytest.raises(RecipeError) as error:
        load_recipe(file, sets, REGISTRY)
    assert error.value.exit_code == 2
    assert str(error.value).splitlines() == [str(mistake) for mistake in error.value.mistakes]
    return [str(mistake) for mistake in error.value.mistakes]


@pytest.mark.parametrize("what", WRONG)
def test_one_mistake_gives_one_message_at_its_place(folder, what):
    text, message = WRONG[what]
    Path("r.yaml").write_text(text)
    found = mistakes()
    assert len(found) == 1, found
    if message is None:
        for word in HOLDS[what]:
            assert word in found[0]
    else:
        assert found[0] == message
    assert os.listdir(folder) == ["r.yaml"]


def test_every_mistake_at_once_in_the_order_of_the_text():
    Path("r.yaml").write_text(
        "name: a\nname: b\nlos: 3\nloss: {temperatur: 1}\nbackbone: {stem: tiny, model: 3}\n"
        "head: mpl\nviews: {online: none}\ntrain: {epochs: many, batch_size: 1, sed: 3}\n"
    )
    found = mistakes()
    lines = [int(message.split(":")[1]) for message in found]
    assert lines == sorted(lines)
    assert lines.count(8) == 3
    assert {1, 2, 3, 4, 5, 6, 7} < set(lines)  # the absent data set is told at the recipe's start
    assert len(found) == 11


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("loss.temperatur=1", "--set loss.temperatur  nt_xent has no parameter"),
        ("loss.temperature=hot", "--set loss.temperature  must be a number, not 'hot'"),
        ("loss=[", "--set loss  not valid YAML"),
        ("loss={a: 1, a: 2}", "--set loss  a: this key is written twice; keep one"),
        ("head.dims.9=1", "--set head.dims.9  index 9 is out of range for a list of 2; indices count from 0"),
        ("head.dims.x=1", "--set head.dims.x  'x' is not an index for a list of 2"),
        ("name.x=1", "--set name.x  'wrong' has no key 'x'; set it as a whole"),
        ("a..b=1", "--set a..b  does not name a key; write path.to.key=value"),
        ("extends=simclr", "--set extends  is only allowed in a file"),
        ("seed=1", "--set seed  a recipe has no key 'seed'. Did you mean 'train.seed'?"),
        ("los=1", "--set los  a recipe has no key 'los'. Did you mean 'loss'?"),
        (".".join(["a"] * 100) + "=1", "does not name a key"),
    ],
)
def test_wrong_settings_are_told_by_their_path(setting, message):
    Path("r.yaml").write_text(D + "name: wrong\nhead: {dims: [512, 128]}\n")
    found = mistakes(sets=[setting])
    assert message in found[0]


def test_a_setting_without_a_value_is_refused():
    Path("r.yaml").write_text(D)
    for setting in ("train.epochs", "=3"):
        with pytest.raises(UsageError, match=r"write path\.to\.key=value"):
            load_recipe("r.yaml", [setting], REGISTRY)
    with pytest.raises(UsageError, match="a set cannot be a value of a recipe"):
        load_recipe("r.yaml", {"train.epochs": {1, 2}}, REGISTRY)


def test_mistakes_in_what_is_extended_are_told_in_their_own_file():
    Path("base.yaml").write_text(D + "loss: {temperature: -1}\nhead: {dims: [1], dims: [2]}\n")
    Path("r.yaml").write_text("extends: base.yaml\ntrain: {epochs: 0}\n")
    found = mistakes()
    assert [message.split("  ")[0] for message in found] == [
        "base.yaml:2:21",
        "base.yaml:3:19",
        "r.yaml:2:17",
    ]
    Path("base.yaml").write_text("extends: r.yaml\n")
    assert "in a circle (r.yaml -> base.yaml -> r.yaml)" in mistakes()[0]


def test_a_bomb_of_aliases_is_refused_at_once():
    text = "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True):
        text += f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
    Path("r.yaml").write_text(text)
    (found,) = mistakes()
    assert "more than 20000 values (aliases expanded)" in found


def test_aliases_count_at_the_depth_of_what_they_name():
    deep = "[" * 20 + "{}" + "]" * 20
    Path("r.yaml").write_text(f"a: &a {deep.format('x')}\nb: {deep.format('*a')}\n")
    assert mistakes() == ["r.yaml:2:24  nested more than 32 levels deep; a recipe is flatter than that"]


def test_a_long_row_of_recipes_that_extend_one_another_is_refused():
    Path("r0.yaml").write_text(D)
    for number in range(1, 2000):
        Path(f"r{number}.yaml").write_text(f"extends: r{number - 1}.yaml\n")
    assert load_recipe("r15.yaml", (), REGISTRY).dataset.name == "fashion_mnist_sample"
    (found,) = mistakes("r1999.yaml")
    message = "more than 16 recipes extend one another; merge some of them"
    assert found == f"r1984.yaml:1:10  extends: {message}"


def test_a_place_in_a_list_of_thousands_of_digits_is_none():
    Path("r.yaml").write_text(D + "loss: [nt_xent]\n")
    (found,) = mistakes(sets=[f"loss.{'9' * 5000}=nt_xent"])
    assert "is out of range for a list of 1; indices count from 0" in found


def test_what_a_terminal_would_act_on_is_shown_escaped():
    Path("r.yaml").write_text(D + 'loss: "\\e[2J\\n\\u2028"\n')
    (found,) = mistakes()
    assert found.startswith(r"r.yaml:2:7  loss: there is no loss '\x1b[2J\n\u2028'.")


def test_files_that_are_no_recipes():
    Path("big.yaml").write_text("# " + "x" * MAX_BYTES)
    assert "too large for a recipe" in mistakes("big.yaml")[0]
    Path("latin.yaml").write_bytes("name: é".encode("latin-1"))
    assert mistakes("latin.yaml") == ["latin.yaml  is not UTF-8 text; a recipe is a YAML text file"]
    Path("binary.yaml").write_bytes(b"name: a\nx: \x00\x01\n")
    assert mistakes("binary.yaml") == ["binary.yaml:2:4  a character that YAML forbids; is this a text file?"]
    for text in ('name: "\\ud800"\n', '"\\ud800": 1\n'):
        Path("half.yaml").write_text(text)
        assert "lone surrogate" in mistakes("half.yaml")[0]


def test_an_unreadable_file_is_told(monkeypatch):
    Path("r.yaml").write_text(D)

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read what it may not, so the mode would not tell
    assert mistakes() == ["r.yaml  cannot be read (Permission denied); check its permissions"]


def test_absent_files_and_folders_are_told(folder):
    with pytest.raises(UsageError, match=r"there is no recipe file absent\.yaml") as error:
        load_recipe("absent.yaml", (), REGISTRY)
    assert error.value.exit_code == 2
    with pytest.raises(UsageError, match="is a folder, not a recipe file"):
        load_recipe(folder, (), REGISTRY)
