"""Remedies of messages about the text of recipes, ``extends``, ``--set`` and grids."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from contrastive import hookimpl
from contrastive.cli import _assignment
from contrastive.commands.compare.candidates import plan
from contrastive.recipe import load_recipe, require_outside_data
from contrastive.registry import Registry, load_registry
from contrastive.registry import registry as registry_module
from tests.support.attempts import TINY, cells, overridden, registry, resolved
from tests.support.remedies import Remedy

VIEWS = "augmentation: {name: simclr, size: 28}\n"
D = f"{VIEWS}dataset: fashion_mnist_sample\n"
F = f"{VIEWS}dataset:\n  name: image_folder\n"


def each_cell(texts: list[str]) -> None:
    cells(*texts)


def one_grid(axes: str) -> None:
    cells(f"{D}grid: {axes}\n")


def planned(axes_and_seeds: tuple[str, int]) -> None:
    axes, seeds = axes_and_seeds
    Path("g.yaml").write_text(f"extends: {TINY}\n{axes}")
    plan(["g.yaml"], seeds, registry())


def folder_of_images() -> list[str]:
    """Its name, which a shell and YAML quote."""
    folder = Path("my #photos")
    folder.mkdir()
    (folder / "a.png").touch()
    return [str(folder)]


def assigned(text: str) -> None:
    assert _assignment(text)


def written(number: int):
    """The words between quotation marks after "write", of a message."""
    return lambda message: re.findall(r"'([^']*)'", message.partition("write ")[2])[number]


def in_circle(text: str) -> None:
    Path("other.yaml").write_text(text)
    Path("r.yaml").write_text("extends: other.yaml\n")
    load_recipe("r.yaml", (), registry())


def inherits(text: str) -> None:
    Path("other.yaml").write_text(D)
    resolved(text)


def readable(is_allowed: bool) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    Path("r.yaml").write_text(D)
    with mock.patch.object(Path, "open", Path.open if is_allowed else refuse):
        load_recipe("r.yaml", (), registry())


def outside_data(out: str) -> None:
    Path("images").mkdir(exist_ok=True)
    recipe = load_recipe(TINY, ["dataset={name: image_folder, root: images}"], registry())
    require_outside_data(Path(out), recipe)


def split_evenly(batch: str) -> str:
    return str(load_recipe(TINY, [f"train.batch_size={batch}"], registry()).uneven_batch(3) or "")


def plugin_with(*parts: str, reference: str = "contrastive.negatives:InBatch", **more: object):
    @hookimpl
    def register_negatives(register):
        for part in parts:
            register(part, reference)

    return SimpleNamespace(__name__="plugin", register_negatives=register_negatives, **more)


def problems(plugins: list[tuple[SimpleNamespace, str]]) -> str:
    own = load_registry(plugins=False)
    for plugin, name in plugins:
        own.add(plugin, name, "1.0")
    return "; ".join(map(str, own.problems))


def queue(own: Registry) -> None:
    own.entry("negatives", "queue")


def with_moco(*parts: str):
    def build() -> Registry:
        own = load_registry(plugins=False)
        own.add(plugin_with(*parts), "contrastive-moco", "0.1")
        return own

    return build


def for_interface(version_and_ours: tuple[int, int, int]) -> str:
    version, ours, oldest = version_and_ours
    with mock.patch.multiple(registry_module, API_VERSION=ours, OLDEST_API_VERSION=oldest):
        return problems([(plugin_with("mine", contrastive_api=version), "my-plugin")])


REMEDIES = [
    # YAML
    Remedy(
        "recipe/reader.py",
        "a ':' that is not allowed",
        resolved,
        F + "  root: a: b\n",
        F + '  root: "a: b"\n',
    ),
    Remedy(
        "recipe/reader.py",
        "wrong indentation",
        resolved,
        D + "train:\n  epochs: 1\n batch_size: 4\n",
        D + "train:\n  epochs: 1\n  batch_size: 4\n",
    ),
    Remedy(
        "recipe/reader.py",
        "a key without ':'",
        resolved,
        D + "positives\nloss: nt_xent\n",
        D + "positives: image\nloss: nt_xent\n",
    ),
    Remedy(
        "recipe/reader.py",
        "check brackets, quotes",
        resolved,
        D + "loss: [nt_xent\n",
        D + "loss: [nt_xent]\n",
    ),
    Remedy(
        "recipe/reader.py",
        "check the indentation and brackets here",
        resolved,
        D + "loss: {[name]: nt_xent}\n",
        D + "loss: {name: nt_xent}\n",
    ),
    Remedy("recipe/reader.py", "a merge key", inherits, "<<: other.yaml\n", "extends: other.yaml\n"),
    Remedy(
        "recipe/reader.py",
        "this key is written twice",
        resolved,
        D + "train: {epochs: 1}\ntrain: {epochs: 2}\n",
        D + "train: {epochs: 2}\n",
    ),
    Remedy(
        "recipe/reader.py",
        "as a key without a value",
        resolved,
        D + "optimizer: {lr:0.1}\n",
        lambda message: f"{D}optimizer: {{{written(0)(message)}}}\n",
    ),
    Remedy(
        "recipe/reader.py",
        "this key has no value",
        resolved,
        D + "train: {max_steps}\n",
        lambda message: f"{D}train: {{{written(1)(message)}}}\n",
    ),
    Remedy(
        "recipe/reader.py",
        "is beyond 64 bits",
        resolved,
        F + "  root: 99999999999999999999\n",
        F + "  root: '99999999999999999999'\n",
    ),
    Remedy(
        "recipe/reader.py",
        "half a character",
        resolved,
        F + '  root: "\\ud83d"\n',
        F + '  root: "\\U0001F600"\n',
    ),
    Remedy(
        "recipe/messages.py",
        "A space is missing after the colon",
        overridden,
        ["train=epochs:3"],
        lambda message: [f"train={{{written(0)(message)}}}"],
    ),
    Remedy(
        "recipe/messages.py",
        "quote it for YAML and for the shell",
        overridden,
        ["dataset={name: image_folder}", "dataset.root=2024"],
        lambda message: ["dataset={name: image_folder}", shlex.split(message[message.index('--set "') :])[1]],
    ),
    Remedy(
        "recipe/messages.py",
        "; quote it: {}",
        resolved,
        F + "  root: 2024\n",
        lambda message: F + f"  root: {re.search(r'quote it: (.*)', message)[1]}\n",
    ),
    # Files and --set
    Remedy(
        "recipe/sources.py",
        "quote the value if it is a part of it",
        overridden,
        ["dataset={name: image_folder}", "dataset.root=images #2"],
        lambda message: [
            "dataset={name: image_folder}",
            shlex.split(message.partition("part of it: ")[2])[1],
        ],
    ),
    Remedy(
        "recipe/sources.py", "remove it.", overridden, ["loss={name: nt_xent} # x"], ["loss={name: nt_xent}"]
    ),
    Remedy("recipe/locations.py", "write it elsewhere with", outside_data, "images/z.png", "z.png"),
    Remedy(
        "recipe/sources.py",
        "name a recipe file or a shipped recipe",
        lambda name: load_recipe(name, (), registry()),
        "x" * 5000,
        "simclr",
    ),
    Remedy(
        "recipe/sources.py",
        "train an encoder on it",
        lambda arguments: load_recipe(arguments[0], arguments[1:], registry()),
        folder_of_images,
        lambda message: [
            word for word in shlex.split(re.search("`contrastive run (.*)`", message)[1]) if word != "--set"
        ],
    ),
    Remedy("cli.py", "has no value; write", assigned, "train.epochs", "train.epochs=2"),
    Remedy("recipe/sources.py", "in a circle", in_circle, "extends: r.yaml\n" + D, D),
    Remedy("recipe/sources.py", "check its permissions", readable, False, True),
    Remedy(
        "recipe/sources.py",
        "does not name a key",
        overridden,
        ["loss..temperature=1"],
        ["loss.temperature=1"],
    ),
    Remedy(
        "recipe/sources.py",
        "--set {}: write path.to.key=value",
        overridden,
        ["train.epochs"],
        lambda message: [message.partition("for example --set ")[2]],
    ),
    Remedy(
        "recipe/sources.py",
        "has no value; write a value",
        overridden,
        ["train.max_steps="],
        ["train.max_steps=null"],
    ),
    Remedy("recipe/sources.py", "set it as a whole", overridden, ["name.first=mine"], ["name=mine"]),
    Remedy(
        "recipe/nodes.py",
        "cannot be a value of a recipe",
        overridden,
        {"head.dims": {16, 8}},
        {"head.dims": [16, 8]},
    ),
    # Values
    Remedy("recipe/model.py", "make it a multiple of", split_evenly, "16", "15"),
    Remedy(
        "recipe/resolver.py",
        "an empty list; name at least one",
        resolved,
        D + "loss: []\n",
        D + "loss: [nt_xent]\n",
    ),
    Remedy(
        "recipe/resolver.py",
        "is itself a protocol; use another key",
        resolved,
        D + "evaluate: {knn: {protocol: linear}}\n",
        D + "evaluate: {probe: {protocol: linear}}\n",
    ),
    Remedy(
        "recipe/resolver.py",
        "cannot be the prefix of metrics",
        resolved,
        D + "evaluate: {Few-Shot: {protocol: knn}}\n",
        D + "evaluate: {few_shot: {protocol: knn}}\n",
    ),
    Remedy(
        "recipe/part_resolver.py",
        "counting repeats; repeat fewer times",
        resolved,
        "dataset: fashion_mnist_sample\n"
        + f"augmentation: {{name: views, of: [{{times: 64, pipeline: [{', '.join(['flip'] * 17)}]}}]}}\n",
        "dataset: fashion_mnist_sample\n"
        + f"augmentation: {{name: views, of: [{{times: 2, pipeline: [{', '.join(['flip'] * 17)}]}}]}}\n",
    ),
    Remedy(
        "optimizers/rates.py",
        "give exactly one of per_256 and per_sqrt",
        overridden,
        ["optimizer.lr={per_256: 0.1}", "optimizer.lr.per_sqrt=0.1"],
        ["optimizer.lr={per_256: 0.1}", "optimizer.lr.per_sqrt=0.1", "optimizer.lr.per_256=null"],
    ),
    Remedy(
        "recipe/resolver.py",
        "minutes takes the place of",
        resolved,
        D + "train: {minutes: 3, epochs: 2}\n",
        D + "train: {minutes: 3}\n",
    ),
    # Grids
    Remedy(
        "recipe/grid.py",
        "takes the place of",
        one_grid,
        "{train.epochs: [1, 2], train.minutes: [1, 2]}",
        "{train.minutes: [1, 2]}",
    ),
    Remedy(
        "recipe/grid.py",
        "a file has either a grid or variants",
        each_cell,
        [D + "grid: {loss.temperature: [0.1, 0.2]}\nvariants: {long: {train: {epochs: 20}}}\n"],
        [D + "grid: {loss.temperature: [0.1, 0.2]}\n", D + "variants: {long: {train: {epochs: 20}}}\n"],
    ),
    Remedy(
        "recipe/grid.py",
        "give their values different labels",
        one_grid,
        "{loss.temperature: {a b: 0.1, a_b: 0.2}}",
        "{loss.temperature: {low: 0.1, high: 0.2}}",
    ),
    Remedy(
        "recipe/grid.py", "is not a key that can vary", one_grid, "{name: [a, b]}", "{train.epochs: [1, 2]}"
    ),
    Remedy(
        "recipe/grid.py",
        "cannot be a grid axis; use --seeds",
        planned,
        ("grid: {train.seed: [0, 1]}\n", 1),
        ("", 2),
    ),
    Remedy(
        "recipe/grid.py",
        "; remove values",
        one_grid,
        f"{{train.epochs: {list(range(1, 301))}}}",
        f"{{train.epochs: {list(range(1, 257))}}}",
    ),
    Remedy(
        "recipe/grid.py",
        "has no label; write 'label: value'",
        one_grid,
        "{loss: [{temperature: 0.1}, {temperature: 0.2}]}",
        "{loss: {cold: {temperature: 0.1}, warm: {temperature: 0.2}}}",
    ),
    # The registry
    Remedy(
        "registry/registry.py",
        "give a class or a reference",
        problems,
        [(plugin_with("mine", reference="contrastive.negatives.InBatch"), "my-plugin")],
        [(plugin_with("mine"), "my-plugin")],
    ),
    Remedy(
        "registry/registry.py",
        "is also registered by",
        problems,
        [(plugin_with("mine"), "my-plugin"), (plugin_with("mine"), "your-plugin")],
        [(plugin_with("mine"), "my-plugin")],
    ),
    Remedy(
        "registry/registry.py",
        "comes with a newer {}: pip install",
        queue,
        with_moco("other"),
        lambda _: with_moco("other", "queue")(),
    ),
    Remedy(
        "registry/registry.py",
        "which is not installed: pip install",
        queue,
        lambda: load_registry(plugins=False),
        lambda _: load_registry(),
    ),
    Remedy("registry/registry.py", "{} has {}; upgrade", for_interface, (2, 1, 1), (2, 2, 1)),
    Remedy("registry/registry.py", "interface {}, {}; upgrade", for_interface, (1, 3, 2), (3, 3, 2)),
]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
