"""The sources of a recipe: files, shipped recipes, ``extends`` and ``--set``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from contrastive.errors import Mistake, RecipeError, UsageError, Where, did_you_mean
from contrastive.paths import holds_images
from contrastive.recipe.messages import describe
from contrastive.recipe.names import recipe_name
from contrastive.recipe.nodes import Node, Tree, from_plain
from contrastive.recipe.reader import MAX_BYTES, MAX_DEPTH, comment_in, read_yaml
from contrastive.text import set_to_text

#: Key of ``train`` that sets the length of a run -> the keys that it takes the place of.
ALTERNATIVES = {"epochs": ("minutes",), "minutes": ("epochs", "max_steps")}

#: Keys whose values are parts: a bare name is short for ``{name: ...}``.
PART_KEYS = (
    "dataset", "augmentation", "backbone", "head", "predictor", "target", "negatives", "loss", "optimizer",
)  # fmt: skip

#: What a node of a recipe is, or lies inside of: its keys are those of a recipe or an objective, the names of
#: objectives, those of a part, those of ``train``, or others.
Level = Literal["recipe", "objectives", "part", "train", "other"]

#: The longest chain of recipes that extend one another.
MAX_EXTENDS = 16


def shipped_folder() -> Path:
    """The recipes that ship with the package: inside the wheel, or next to the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def shipped_recipes() -> dict[str, str]:
    """Name (``simclr``, ``cifar10/simclr-cpu``) -> summary, the first comment line, of shipped recipes."""
    return dict(_summaries(shipped_folder()))


@cache
def _summaries(folder: Path) -> dict[str, str]:
    """Name -> summary of the recipes in a folder, which do not change while a process runs."""
    files = sorted(folder.rglob("*.yaml"), key=lambda file: (len(file.parts), file.as_posix()))
    return {file.relative_to(folder).with_suffix("").as_posix(): _summary(file) for file in files}


def _summary(file: Path) -> str:
    for line in file.read_text("utf-8").splitlines():
        if line.startswith("#") and "yaml-language-server" not in line:
            return line.lstrip("# ").rstrip()
    return ""


def find_recipe(name: str | os.PathLike[str]) -> Path:
    """The file of a recipe: a path, or the name of a shipped one. Raises UsageError if there is none."""
    path = Path(name)
    try:
        if path.is_file():
            return path
        is_folder = path.is_dir()
    except (OSError, ValueError):  # a name too long for the file system, or with a NUL
        raise UsageError(
            f"{str(name)[:80]!r} is not a file name; name a recipe file or a shipped recipe"
        ) from None
    summaries = shipped_recipes()
    shipped_name = os.fspath(name).replace(os.sep, "/").removesuffix(".yaml")  # unlike ./simclr or simclr/
    if shipped_name in summaries:
        shipped_file, here = shipped_folder() / f"{shipped_name}.yaml", Path.cwd()
        return shipped_file.relative_to(here) if shipped_file.is_relative_to(here) else shipped_file
    if (path / "recipe.yaml").is_file():
        raise UsageError(f"{name} is a run folder, not a recipe file; its recipe is {path / 'recipe.yaml'}.")
    if is_folder and holds_images(path):
        option = set_to_text("dataset.root", str(path))
        raise UsageError(
            f"{name} is a folder of images, not a recipe; train an encoder on it with "
            f"`contrastive run photos {option}`."
        )
    what = f"{name} is a folder, not a recipe file" if is_folder else f"there is no recipe file {name}"
    listing_hint = " `contrastive list recipe` lists them." if summaries else ""
    hint = did_you_mean(shipped_name.removeprefix("recipes/"), summaries) or listing_hint
    raise UsageError(f"{what}, nor a shipped recipe of that name.{hint}")


def load_tree(recipe: str | os.PathLike[str], sets: Sequence[str] | Mapping[str, Any] = ()) -> Tree:
    """Read a recipe, what it extends, and then apply ``--set`` (``["a.b=1"]``, or ``{"a.b": 1}``) in order.

    Raises RecipeError if a file cannot be read, UsageError if there is no such recipe. Mistakes that leave
    the recipe readable are kept in the tree and reported together with all others.
    """
    file = find_recipe(recipe)
    root, mistakes, files = _with_bases(file, ())
    root = _with_sets(root, sets, mistakes)
    return Tree(root, tuple(mistakes), recipe_name(file.stem, "recipe"), files)


def parse_tree(text: str, file: str = "recipe.yaml", sets: Sequence[str] | Mapping[str, Any] = ()) -> Tree:
    """The tree of a recipe's text, with ``--set`` as of :func:`load_tree`. ``extends`` is not resolved,
    because it needs a folder to look in."""
    root, mistakes = read_yaml(text, file)
    return Tree(_with_sets(_root(root), sets, mistakes), tuple(mistakes))


def set_tree(sets: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """The tree that ``--set`` alone makes, as plain values."""
    tree: dict[str, Any] = parse_tree("{}", sets=sets).root.plain()
    return tree


def _with_sets(root: Node, sets: Sequence[str] | Mapping[str, Any], mistakes: list[Mistake]) -> Node:
    """The root after assignments in order; what is wrong with them is added to ``mistakes``."""
    for path, value, wrong in _assignments(sets):
        mistakes += wrong
        if value is not None:
            root = assign(root, path, value, mistakes)
    return root


def _with_bases(file: Path, inside: tuple[Path, ...]) -> tuple[Node, list[Mistake], tuple[Path, ...]]:
    """The root of a file over all that it extends, their mistakes, and the files, the nearest first.

    ``inside`` holds the files that extend this one.
    """
    root, mistakes = read_yaml(_content(file), str(file))
    root = _root(root)
    base = root.value.get("extends")
    if base is None:
        return root.without("extends"), mistakes, (file,)
    root = root.without("extends")
    chain = (*inside, file.resolve())
    try:
        below, more, files = _with_bases(_base_file(base, file, chain), chain)
    except UsageError as error:
        own = (
            error.mistakes if isinstance(error, RecipeError) else [Mistake(base.where, "extends", str(error))]
        )
        raise RecipeError([*mistakes, *own]) from None
    return replace(merge(below, root), where=root.where), [*more, *mistakes], (file, *files)


def _base_file(base: Node, file: Path, chain: tuple[Path, ...]) -> Path:
    if not base.is_text:
        raise UsageError(f"must be one recipe file or shipped name, not {describe(base)}")
    neighbour = file.parent / base.value
    base_path = neighbour if os.path.isfile(neighbour) else find_recipe(base.value)
    if base_path.resolve() in chain:
        names = " -> ".join(path.name for path in (*chain, base_path))
        raise UsageError(f"recipes extend each other in a circle ({names}); remove one `extends`")
    if len(chain) >= MAX_EXTENDS:
        raise UsageError(f"more than {MAX_EXTENDS} recipes extend one another; merge some of them")
    return base_path


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        message = f"cannot be read ({error.strerror}); check its permissions"
        raise RecipeError([Mistake(Where(str(file)), "", message)]) from None


def _root(root: Node) -> Node:
    if root.is_map:
        return root
    what = "is empty" if root.value is None else f"holds {describe(root)}"
    message = f"{what}; a recipe is a map of keys such as 'dataset: fashion_mnist_sample'"
    raise RecipeError([Mistake(root.where, "", message)])


def _assignments(
    sets: Sequence[str] | Mapping[str, Any],
) -> list[tuple[list[str], Node | None, list[Mistake]]]:
    pairs = list(sets.items()) if isinstance(sets, Mapping) else [_split(text) for text in sets]
    assignments: list[tuple[list[str], Node | None, list[Mistake]]] = []
    for path, value in pairs:
        keys = path.split(".")
        where = Where(f"--set {path}")
        if "" in keys or len(keys) > MAX_DEPTH or keys[0] == "extends":
            message = (
                "does not name a key; write path.to.key=value"
                if keys[0] != "extends"
                else "is only allowed in a file"
            )
            assignments.append((keys, None, [Mistake(where, "", message)]))
        elif isinstance(sets, Mapping):
            assignments.append((keys, from_plain(value, where), []))
        else:
            assignments.append((keys, *_value(value, where.file)))
    return assignments


def _split(text: str) -> tuple[str, str]:
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise UsageError(f"--set {text}: write path.to.key=value, for example --set train.epochs=2")
    return path.strip(), value


def _value(text: str, file: str) -> tuple[Node | None, list[Mistake]]:
    try:
        value, mistakes = read_yaml(text, file, whole=False)
    except RecipeError as error:
        return None, list(error.mistakes)
    if comment := comment_in(text):
        is_text = (value.is_absent or value.source is not None) and "\n" not in text
        option = set_to_text(value.where.override, text.strip())
        remedy = f"quote the value if it is a part of it: {option}" if is_text else "remove it."
        message = f"YAML reads {comment!r} as a comment; {remedy}"
        return None, [*mistakes, Mistake(value.where, "", message)]
    if value.is_absent:
        message = "has no value; write a value after the '=', or null for none"
        return None, [*mistakes, Mistake(value.where, "", message)]
    return value, mistakes


def assign(
    node: Node, path: list[str], value: Node, mistakes: list[Mistake], level: Level = "recipe"
) -> Node:
    """The tree with ``value`` merged in at ``path``, in which an index selects a list's item."""
    if not path:
        return merge(node, value, level)
    step, rest = path[0], path[1:]
    if node.is_list:
        old = node.child(step)
        if old is None:
            wrong = f"index {step} is out of range" if step.isdecimal() else f"'{step}' is not an index"
            message = f"{wrong} for a list of {len(node.value)}; indices count from 0"
            mistakes.append(Mistake(value.where, "", message))
            return node
        items = list(node.value)
        items[int(step)] = assign(old, rest, value, mistakes, level)
        return replace(node, value=items, change=value.latest)
    if not (node.is_map or node.value is None or (level == "part" and node.is_text)):
        mistakes.append(Mistake(value.where, "", f"{describe(node)} has no key '{step}'; set it as a whole"))
        return node
    old = _as_map(node).child(step) or Node(None, value.where)
    inner = assign(old, rest, value, mistakes, _level_of(step, level))
    return merge(node, Node({step: inner}, value.where, {step: value.where}), level)


def merge(below: Node, above: Node, level: Level = "recipe") -> Node:
    """``above`` over ``below``: maps merge; all else is replaced, as is a part whose name changes."""
    if level == "part":
        if above.is_text and below.is_map and "name" in below.value:
            above = _as_map(above)
        if above.is_map and below.is_text:
            below = _as_map(below)
    if not (above.is_map and below.is_map):
        return above
    if level == "train":
        below = _without_alternatives(below, above)
    names = [node.value["name"].value for node in (below, above) if level == "part" and "name" in node.value]
    if len(names) == 2 and names[0] != names[1]:
        return above
    value, keys = dict(below.value), {**below.keys, **above.keys}
    for key, child in above.value.items():
        value[key] = merge(value[key], child, _level_of(key, level)) if key in value else child
    is_short = above.is_short or (below.is_short and "name" not in above.value)
    return Node(value, below.where, keys, is_short=is_short, change=above.latest)


def _without_alternatives(below: Node, above: Node) -> Node:
    """``train`` below, without its epochs if ``above`` gives minutes, and the reverse.

    If both are given by ``--set``, both stay, so that the recipe is refused.
    """
    alternatives = [
        other
        for key, others in ALTERNATIVES.items()
        for other in others
        if is_given(above, key) and other in below.value and other not in above.value
        if not (above.value[key].where.override and below.value[other].where.override)
    ]
    return below.without(*alternatives)


def is_given(section: Node, key: str) -> bool:
    """Whether a section has a key with a value other than null."""
    return key in section.value and section.value[key].value is not None


def _level_of(key: str, level: Level) -> Level:
    """The level of what stands under a key."""
    if level == "recipe":
        sections: dict[str, Level] = {"objectives": "objectives", "train": "train"}
        return sections.get(key, "part" if key in PART_KEYS else "other")
    return "recipe" if level == "objectives" else level


def _as_map(node: Node) -> Node:
    """The map that a bare name is short for."""
    if not node.is_text:
        return node
    return Node({"name": node}, node.where, {"name": node.where}, is_short=True)
