"""Random recipes as YAML text: random trees, parts with random parameters, mutated shipped recipes."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from typing import Any

from contrastive.kinds import KINDS
from contrastive.recipe import Parameter, load_tree, shipped_recipes, signature_of, type_text
from contrastive.recipe.resolver import KEYS
from contrastive.recipe.sources import PART_KEYS
from contrastive.registry import Registry

#: Text that goes into the YAML unchanged: odd numbers, tags, anchors, aliases, broken syntax.
ODD = (
    ".nan", ".inf", "-.inf", "1e400", "1e-400", "-0.0", "0", "-1", "1", "2", "0.5", "1e9", "1000000000",
    "9223372036854775807", "9223372036854775808", "-9223372036854775809", "9" * 5000, "0x10", "0o17", "010",
    "12:30", "1_000", "null", "~", "true", "no", "''", '""', "x" * 5000, '"\\0"', '"\\e[2J"', '"\\n\\r\\t"',
    '"\\u2028"', '"\\ud800"', '"\\U0001F600"', "\U0001f600", "\u00e9", "/nowhere", "https://nowhere",
    "!!python/object/apply:os.system [ls]", "!!python/name:os.system", "!!int 3", "!own x", "!!binary aGk=",
    "&a 1", "&a [*a]", "*a", "*nowhere", "<<", "{<<: *a}", "&a {name: *a}", "[[[[[[[[]]]]]]]]",
    "{}", "[]", "[1, x, .nan, null, {}]", "{name: {}}", "{name: []}", "{name: 1}", "{name: none}", "none",
    "{", "]", "'", '"', "|", ">", "@", "`", "%", "- -", "a: b: c", "\t", "#", "? x", "---", "...", "\x00",
    "\x85", "\ufeff", "[" * 40 + "]" * 40, "{a: " * 40 + "1" + "}" * 40,
)  # fmt: skip

#: What mutated recipes train on instead of data that is not here; now and then they keep it.
SAMPLE = "fashion_mnist_sample"


class Raw(str):
    """Text that goes into the YAML unchanged."""


class Words:
    """Names that recipes know: keys, parts, and of each part its parameters; and the shipped recipes."""

    def __init__(self, registry: Registry):
        self.parts = {kind: registry.names(kind) for kind in KINDS}
        self.parameters = {(e.kind, e.name): signature_of(e).parameters for e in registry}
        self.names = [name for names in self.parts.values() for name in names]
        self.all_parameters = sorted({p for names in self.parameters.values() for p in names})
        self.recipes = [load_tree(name).root.plain() for name in shipped_recipes()]


def recipe_text(rng: random.Random, words: Words) -> str:
    """One recipe: a random tree, parts with random parameters, or a mutated shipped recipe."""
    make = rng.choice((_random_tree, _random_parts, _mutant))
    text = _block(make(rng, words), rng)
    return _with_damage(text, rng) if rng.random() < 0.1 else text


def _random_tree(rng: random.Random, words: Words) -> Any:
    return _value(rng, words, 0) if rng.random() < 0.2 else _map(rng, words, 0)


def _map(rng: random.Random, words: Words, depth: int) -> dict[Any, Any]:
    return {_key(rng, words): _value(rng, words, depth + 1) for _ in range(rng.randint(0, 6))}


def _key(rng: random.Random, words: Words) -> Any:
    pools: tuple[Any, ...] = (
        KEYS,
        words.all_parameters,
        words.names,
        ("name", "of", "times", "pipeline", "every"),
    )
    return Raw(rng.choice(ODD)) if rng.random() < 0.05 else rng.choice(rng.choice(pools))


def _value(rng: random.Random, words: Words, depth: int) -> Any:
    draw = rng.random()
    if draw < 0.2 and depth < 6:
        return _map(rng, words, depth)
    if draw < 0.35 and depth < 6:
        return [_value(rng, words, depth + 1) for _ in range(rng.randint(0, 4))]
    return _scalar(rng, words)


def _scalar(rng: random.Random, words: Words) -> Any:
    draw = rng.random()
    if draw < 0.3:
        return Raw(rng.choice(ODD))
    if draw < 0.5:
        return rng.choice(words.names)
    if draw < 0.6:
        return "".join(
            chr(rng.choice((rng.randrange(32, 127), rng.randrange(0xD800))))
            for _ in range(rng.randint(0, 12))
        )
    return rng.choice((
        rng.randint(-3, 600), 10 ** rng.randint(0, 19), rng.uniform(-2, 2), 10.0 ** rng.randint(-300, 300),
        True, False, None,
    ))  # fmt: skip


def _part(rng: random.Random, words: Words, kind: str, depth: int = 0) -> Any:
    """A part of a kind with some parameters, seldom of another kind or with unknown ones."""
    kind = rng.choice([*KINDS]) if rng.random() < 0.05 else kind
    name = rng.choice(words.parts[kind])
    if rng.random() < 0.2:
        return name
    own: dict[Any, Any] = {"name": name}
    for parameter in words.parameters[kind, name].values():
        if parameter.required or rng.random() < 0.2:
            own[parameter.name] = _parameter(rng, words, parameter, depth)
    if rng.random() < 0.03:
        own[_key(rng, words)] = _scalar(rng, words)
    return own


def _parameter(rng: random.Random, words: Words, parameter: Parameter, depth: int) -> Any:
    """A value for a parameter: usually of its type, and rarely small enough to be safe."""
    if rng.random() < 0.1:
        return _value(rng, words, 3)
    form = type_text(parameter.annotation)
    if parameter.takes_part:
        kind = "target" if "target" in form else "augmentation"
        inner = [
            _part(rng, words, kind, depth + 1) if depth < 3 else "flip" for _ in range(rng.randint(1, 3))
        ]
        inner = [{"times": rng.choice((1, 2, 64)), "pipeline": i} if rng.random() < 0.1 else i for i in inner]
        return inner if "list" in form else inner[0]
    if parameter.name == "model":
        return rng.choice(("resnet10", "resnet18", "vit_tiny_patch16_224", "nowhere"))
    if form.startswith("'"):
        return rng.choice(re.findall("'([^']*)'", form))
    for word, values in _PLAUSIBLE.items():
        if word in form:
            value = rng.choice(values)
            return [value] * rng.randint(1, 3) if form.startswith("list") else value
    return parameter.default if isinstance(parameter.default, str | dict) else _value(rng, words, 3)


#: Part of a type's name -> values of it, from usual to absurd.
_PLAUSIBLE = {
    "integer": (1, 2, 2, 8, 28, 28, 128, 10**4, 10**6, 10**9, 2**62),
    "number": (0.1, 0.5, 1.0, 1.0, 0, 1e-300, 1e300),
    "true or false": (True, False),
}


def _random_parts(rng: random.Random, words: Words) -> dict[Any, Any]:
    tree: dict[Any, Any] = {
        "dataset": SAMPLE,
        "augmentation": {"name": "simclr", "size": 28},
        "train": {"batch_size": 64},
    }
    kinds = {"predictor": "head"}
    for key in PART_KEYS:
        if rng.random() < (0.05 if key == "dataset" else 0.25):
            tree[key] = _part(rng, words, kinds.get(key, key))
    for key in ("views", "train", "evaluate", "callbacks", "positives", "allow"):
        if rng.random() < 0.1:
            tree[key] = _value(rng, words, 3)
    return tree


def _mutant(rng: random.Random, words: Words) -> dict[Any, Any]:
    tree = json.loads(json.dumps(rng.choice(words.recipes)))
    if rng.random() < 0.95:
        tree["dataset"] = SAMPLE
        tree.setdefault("train", {})["batch_size"] = 64
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 4))):
        _mutate(tree, rng, words)
    return tree


def _mutate(tree: dict[Any, Any], rng: random.Random, words: Words) -> None:
    """Change one place: delete, retype, wrap or scale it, swap it with another, or take another part."""
    places = [*_places(tree)]
    if not places:
        return
    (holder, key), (other, place) = rng.choice(places), rng.choice(places)
    old, draw = holder[key], rng.randrange(6)
    if draw == 0:
        del holder[key]
    elif draw == 1:
        holder[key] = _value(rng, words, 3)
    elif draw == 2:
        holder[key] = rng.choice(([old, old], {"name": old}))
    elif draw == 3:
        holder[key], other[place] = other[place], old
    elif draw == 4 and isinstance(old, int | float):
        holder[key] = old * 10 ** rng.randint(-3, 9) * rng.choice((1, -1))
    else:
        kind = rng.choice([kind for kind in KINDS if kind in PART_KEYS and kind != "dataset"])
        tree[kind] = _part(rng, words, kind)


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key or index) of every value in a tree."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _block(tree: Any, rng: random.Random) -> str:
    """A map as block YAML of one key a line, its values as flow YAML; keys are doubled now and then."""
    if not isinstance(tree, dict):
        return _flow(tree, rng)
    lines = [f"{_flow(key, rng)}: {_flow(value, rng)}\n" for key, value in _pairs(tree, rng)]
    return "".join(lines)


def _pairs(tree: dict[Any, Any], rng: random.Random) -> Iterator[tuple[Any, Any]]:
    for key, value in tree.items():
        yield key, value
        if rng.random() < 0.005:
            yield key, value


def _flow(value: Any, rng: random.Random) -> str:
    if isinstance(value, Raw):
        return value
    if isinstance(value, dict):
        inner = (f"{_flow(key, rng)}: {_flow(child, rng)}" for key, child in _pairs(value, rng))
        return f"{{{', '.join(inner)}}}"
    if isinstance(value, list):
        return f"[{', '.join(_flow(item, rng) for item in value)}]"
    return json.dumps(value)


def _with_damage(text: str, rng: random.Random) -> str:
    """The text with a few characters changed, dropped or moved."""
    letters = list(text)
    for _ in range(rng.randint(1, 4)):
        if letters:
            position = rng.randrange(len(letters))
            letters[position : position + rng.randint(0, 2)] = rng.choice(
                ("", "{", "]", ":", "\n", " ", "&a ", "*a", "\t")
            )
    return "".join(letters)
