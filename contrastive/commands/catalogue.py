"""``contrastive list``, ``show`` and ``plugin list``: the plain data (for ``--json``) and its rendering.

Methods are in :mod:`contrastive.commands.methods`, encoders in :mod:`contrastive.commands.encoders`.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.markup import escape

from contrastive.commands.docstrings import PROSE_WIDTH, hanging, print_lines, terminal_text, without_marks
from contrastive.commands.encoders import list_encoders, render_encoders
from contrastive.commands.methods import list_methods, render_method, render_methods, show_method
from contrastive.commands.output import print_json
from contrastive.errors import PluginError, RecipeError, UsageError, did_you_mean
from contrastive.kinds import KINDS
from contrastive.recipe import (
    Parameter,
    load_tree,
    resolve,
    shipped_recipes,
    signature_of,
    type_text,
    write_yaml,
)
from contrastive.registry import Entry, Registry, load_registry
from contrastive.text import quantity
from contrastive.versions import CORE, core_version

RECIPE, METHOD, ENCODER = "recipe", "method", "encoder"
#: Plural -> kind: ``contrastive list losses`` lists the losses.
PLURALS = {
    {"loss": "losses", "negatives": "negatives"}.get(kind, f"{kind}s"): kind
    for kind in (*KINDS, RECIPE, METHOD, ENCODER)
}


def print_list(arguments: argparse.Namespace) -> int:
    """``contrastive list``."""
    kind = PLURALS.get(arguments.kind, arguments.kind)
    if arguments.pattern is not None and kind != ENCODER:
        raise UsageError("only encoders are listed by a pattern: `contrastive list encoder 'resnet18*'`.")
    if kind == ENCODER:
        encoders = list_encoders(arguments.pattern)
        print_json({ENCODER: encoders}) if arguments.json else render_encoders(encoders)
        return 0
    if kind == METHOD:
        methods = list_methods(load_registry())
        print_json({METHOD: methods}) if arguments.json else render_methods(methods)
        return 0
    listing = list_parts(load_registry(), arguments.kind)
    print_json(listing) if arguments.json else render_list(listing)
    return 0


def print_shown(arguments: argparse.Namespace) -> int:
    """``contrastive show``: a part or a method if a kind and a name are given, else a recipe."""
    registry, kind = load_registry(), PLURALS.get(arguments.subject, arguments.subject)
    if kind == ENCODER:
        raise UsageError("encoders are only listed; `contrastive evaluate ENCODER` computes their metrics.")
    if arguments.name is not None and kind == METHOD:
        method = show_method(registry, arguments.name)
        print_json(method) if arguments.json else render_method(method)
        return 0
    if arguments.name is not None and kind != RECIPE:
        part = show_part(registry, kind, arguments.name)
        print_json(part) if arguments.json else render_part(part)
        return 0
    if arguments.name is None and kind in PLURALS.values():
        raise UsageError(f"show {kind} needs a name; `contrastive list {kind}` lists them.")
    recipe = show_recipe(registry, arguments.subject if arguments.name is None else arguments.name)
    print_json(recipe) if arguments.json else render_recipe(recipe)
    return 0


def print_plugins(arguments: argparse.Namespace) -> int:
    """``contrastive plugin list``."""
    plugins = list_plugins(load_registry())
    print_json(plugins) if arguments.json else render_plugins(plugins)
    return 0


def list_parts(registry: Registry, kind: str | None = None) -> dict[str, list[dict[str, str]]]:
    """kind -> its parts (name, summary, provider, version), and ``recipe`` -> the shipped recipes.

    A part that cannot be loaded is listed with the reason as its summary. A kind may be given
    in the plural. Raises UsageError for an unknown kind.
    """
    kinds = [*KINDS, RECIPE]  # not the methods, which are recipes too
    kind = PLURALS.get(kind, kind) if kind else None
    if kind is not None and kind not in kinds:
        hint = did_you_mean(kind, [*kinds, METHOD, ENCODER]) or f" The kinds are {', '.join(kinds)}."
        raise UsageError(f"there is no kind of part '{kind}'.{hint}")
    return {name: _summaries(registry, name) for name in ([kind] if kind else kinds)}


def _summaries(registry: Registry, kind: str) -> list[dict[str, str]]:
    if kind == RECIPE:
        version = core_version()
        return [
            {"name": name, "summary": summary, "provider": CORE, "version": version}
            for name, summary in shipped_recipes().items()
        ]
    entries = [registry.entry(kind, name) for name in registry.names(kind)]
    return [
        {"name": entry.name, "summary": _summary(entry), "provider": entry.provider, "version": entry.version}
        for entry in entries
    ]


def _summary(entry: Entry) -> str:
    try:
        return signature_of(entry).summary
    except PluginError as error:
        return f"broken: {error}"


def show_part(registry: Registry, kind: str, name: str) -> dict[str, Any]:
    """A part's summary, documentation, provider and parameters, and the id of a protocol's metrics.

    Raises UsageError for an unknown kind or name, PluginError if the part cannot be loaded.
    """
    entry = registry.entry(kind, name)
    signature = signature_of(entry)
    part: Any = entry.load()
    return {
        "kind": kind,
        "name": name,
        "summary": signature.summary,
        "doc": _without_args(signature.doc),
        "provider": entry.provider,
        "version": entry.version,
        **({"id": f"{name}/{part.version}"} if kind == "protocol" else {}),
        "parameters": [_parameter_data(parameter) for parameter in signature.parameters.values()],
    }


def _parameter_data(parameter: Parameter) -> dict[str, Any]:
    default = {} if parameter.required else {"default": _default(parameter.default)}
    return {
        "name": parameter.name,
        "type": type_text(parameter.annotation),
        "required": parameter.required,
        **default,
        "doc": parameter.doc,
    }


def _default(value: Any) -> Any:
    """A default as plain data: models and dataclasses become maps, tuples lists, paths text."""
    return to_jsonable_python(value, fallback=repr, exclude_none=True)


def _without_args(doc: str) -> str:
    """The docstring after its first line, without the Args section, which belongs to the parameters."""
    lines, body, inside = doc.splitlines()[1:], [], False
    for line in lines:
        inside = line.rstrip() == "Args:" or (inside and (not line.strip() or line.startswith(" ")))
        if not inside:
            body.append(line)
    return "\n".join(body).strip()


def show_recipe(registry: Registry, recipe: str) -> dict[str, Any]:
    """A recipe in full: its file, the files that it extends, the nearest first, and every key with its value.

    Raises:
        UsageError: there is no such recipe.
        RecipeError: it has mistakes, or stands for several recipes.
        PluginError: it names a part that cannot be loaded.
    """
    try:
        tree = load_tree(recipe)
    except RecipeError:
        raise
    except UsageError:
        kinds = [kind for kind in KINDS if recipe in registry.names(kind)]
        if not kinds:
            raise
        commands = " or ".join(f"`contrastive show {kind} {recipe}`" for kind in kinds)
        raise UsageError(f"{recipe} is a part, not a recipe; run {commands}.") from None
    file, *bases = map(str, tree.files)
    return {"file": file, "extends": bases, "recipe": resolve(tree, registry).dump()}


def list_plugins(registry: Registry) -> list[dict[str, Any]]:
    """Installed plugins: name, version, path, hooks, parts (``loss: nt_xent``) and problems."""
    return [
        {
            "name": plugin.name,
            "version": plugin.version,
            "path": plugin.path,
            "hooks": list(plugin.hooks),
            "parts": [f"{kind}: {name}" for kind, name in plugin.parts],
            "problems": [p.reason for p in registry.problems if p.plugin == plugin.name],
        }
        for plugin in registry.plugins
    ]


def render_list(listing: dict[str, list[dict[str, str]]], console: Console | None = None) -> None:
    """Print what :func:`list_parts` returns, one block per kind; a plugin's part names its provider."""
    console = console or Console()
    for kind, parts in listing.items():
        purpose = KINDS.get(kind, "shipped recipes, by the name that `run` takes")
        console.print(f"[bold]{kind}[/bold]  [dim]{escape(purpose)}[/dim]", highlight=False)
        column = max((len(part["name"]) for part in parts), default=0) + 4
        for part in parts:
            provider = "" if part["provider"] == CORE else f" ({part['provider']} {part['version']})"
            summary = f"{without_marks(part['summary'])}{provider}"
            print_lines(console, hanging(f"  {part['name']}", summary, column, console.width))
        if not parts:
            console.print("  [dim]none installed[/dim]")
        if kind != list(listing)[-1]:
            console.print()


def render_part(part: dict[str, Any], console: Console | None = None) -> None:
    """Print what :func:`show_part` returns: documentation, then each parameter."""
    console = console or Console()
    width = min(console.width, PROSE_WIDTH)
    provider = f"{part['provider']} {part['version']}"
    console.print(
        f"[bold]{part['kind']}: {part['name']}[/bold]  [dim]{escape(provider)}[/dim]", highlight=False
    )
    print_lines(console, terminal_text(part["summary"], width))
    if "id" in part:
        console.print(f"its metrics carry the id [bold]{part['id']}[/bold]", highlight=False)
    if part["doc"]:
        print_lines(console, f"\n{terminal_text(part['doc'], width, console.width)}")
    if not part["parameters"]:
        console.print("\nno parameters")
        return
    console.print("\nparameters")
    for parameter in part["parameters"]:
        default = f"default {_value_text(parameter['default'])}" if "default" in parameter else "required"
        label = f"  {parameter['name']}"
        lines = hanging(label, f"{parameter['type']}; {default}", len(label) + 2, width)
        print_lines(console, lines, bold=len(label))
        if parameter["doc"]:
            print_lines(console, hanging("", without_marks(parameter["doc"]), 6, width))


def _value_text(value: Any) -> str:
    """A default in the notation of the types: text in single quotes, all else as in a recipe."""
    return repr(value) if isinstance(value, str) else json.dumps(value)


def render_recipe(recipe: dict[str, Any]) -> None:
    """Print what :func:`show_recipe` returns as YAML, which runs as the same recipe."""
    print(f"# {recipe['file']}, with every default")
    for file in recipe["extends"]:
        print(f"#   extends {file}")
    print(write_yaml(recipe["recipe"], min(Console().width, PROSE_WIDTH)), end="")


def render_plugins(plugins: list[dict[str, Any]], console: Console | None = None) -> None:
    """Print what :func:`list_plugins` returns, one block per plugin."""
    console = console or Console()
    for plugin in plugins:
        parts = plugin["parts"]
        listing = quantity(len(parts), "built-in part") if plugin["name"] == CORE else ", ".join(parts)
        rows = [("parts", listing)]
        rows += [("problem", problem) for problem in plugin["problems"]]
        rows += [("file", plugin["path"] or "none")]
        console.print(f"[bold]{escape(plugin['name'])} {escape(plugin['version'])}[/bold]", highlight=False)
        for label, text in rows:
            print_lines(console, hanging(f"  {label}", text or "none", 11, console.width))
    console.print("\n[dim]Plugins are code: they run with your rights.[/dim]", highlight=False)
