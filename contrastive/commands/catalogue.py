"""``contrastive list``, ``show`` and ``plugin list``: plain data (for ``--json``), and its rendering."""

from __future__ import annotations

import argparse
import json
from typing import Any

from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from contrastive.commands.output import print_json
from contrastive.errors import PluginError, UsageError, did_you_mean
from contrastive.kinds import KINDS
from contrastive.recipe.signature import Parameter, signature_of, type_text
from contrastive.recipe.sources import shipped_recipes
from contrastive.registry import Entry, Registry, load_registry
from contrastive.versions import CORE, core_version

RECIPE = "recipe"


def print_list(arguments: argparse.Namespace) -> int:
    """``contrastive list``."""
    listing = list_parts(load_registry(), arguments.kind)
    print_json(listing) if arguments.json else render_list(listing)
    return 0


def print_part(arguments: argparse.Namespace) -> int:
    """``contrastive show``."""
    part = show_part(load_registry(), arguments.kind, arguments.name)
    print_json(part) if arguments.json else render_part(part)
    return 0


def print_plugins(arguments: argparse.Namespace) -> int:
    """``contrastive plugin list``."""
    plugins = list_plugins(load_registry())
    print_json(plugins) if arguments.json else render_plugins(plugins)
    return 0


def list_parts(registry: Registry, kind: str | None = None) -> dict[str, list[dict[str, str]]]:
    """kind -> its parts (name, summary, provider, version), and ``recipe`` -> shipped recipes.

    A part that cannot be loaded is listed with the reason as its summary. Raises UsageError for an
    unknown kind.
    """
    kinds = [*KINDS, RECIPE]
    if kind is not None and kind not in kinds:
        hint = did_you_mean(kind, kinds) or f" The kinds are {', '.join(kinds)}."
        raise UsageError(f"there is no kind of part '{kind}'.{hint}")
    return {name: _listed(registry, name) for name in ([kind] if kind else kinds)}


def _listed(registry: Registry, kind: str) -> list[dict[str, str]]:
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
    """A part's summary, documentation, provider and parameters; of a protocol the id of its figures, too.

    Raises UsageError for an unknown kind or name, PluginError where the part cannot be loaded.
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
        "parameters": [_shown(parameter) for parameter in signature.parameters.values()],
    }


def _shown(parameter: Parameter) -> dict[str, Any]:
    shown = {"name": parameter.name, "type": type_text(parameter.annotation), "required": parameter.required}
    default = {} if parameter.required else {"default": _default(parameter.default)}
    return {**shown, **default, "doc": parameter.doc}


def _default(value: Any) -> Any:
    """A default as plain data: models and dataclasses as maps, tuples as lists, paths as text."""
    return to_jsonable_python(value, fallback=repr, exclude_none=True)


def _without_args(doc: str) -> str:
    """The docstring after its first line, without the Args section, which is told beside the parameters."""
    lines, kept, inside = doc.splitlines()[1:], [], False
    for line in lines:
        inside = line.rstrip() == "Args:" or (inside and (not line.strip() or line.startswith(" ")))
        if not inside:
            kept.append(line)
    return "\n".join(kept).strip()


def list_plugins(registry: Registry) -> list[dict[str, Any]]:
    """Installed plugins: name, version, path, hooks, parts (``loss: nt_xent``), and what is wrong there."""
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
    """Print what :func:`list_parts` gives: one table a kind."""
    console = console or Console()
    for kind, parts in listing.items():
        what = KINDS.get(kind, "shipped recipes, by the name that `run` takes")
        console.print(f"[bold]{kind}[/bold]  [dim]{escape(what)}[/dim]", highlight=False)
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
        for part in parts:
            stranger = "" if part["provider"] == CORE else f"{part['provider']} {part['version']}"
            table.add_row(part["name"], escape(part["summary"]), escape(stranger))
        console.print(table if parts else "  [dim]none installed[/dim]", highlight=False)


def render_part(part: dict[str, Any], console: Console | None = None) -> None:
    """Print what :func:`show_part` gives: documentation, then a table of parameters."""
    console = console or Console()
    provider = f"{part['provider']} {part['version']}"
    console.print(
        f"[bold]{part['kind']}: {part['name']}[/bold]  [dim]{escape(provider)}[/dim]", highlight=False
    )
    console.print(escape(part["summary"]), highlight=False)
    if "id" in part:
        console.print(f"its figures carry the id [bold]{part['id']}[/bold]", highlight=False)
    if part["doc"]:
        console.print(f"\n{escape(part['doc'])}", highlight=False)
    if not part["parameters"]:
        console.print("\nno parameters")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), title=None)
    for heading in ("parameter", "type", "default", ""):
        table.add_column(heading, overflow="fold")
    for parameter in part["parameters"]:
        default = json.dumps(parameter["default"]) if "default" in parameter else "required"
        table.add_row(parameter["name"], escape(parameter["type"]), escape(default), escape(parameter["doc"]))
    console.print()
    console.print(table, highlight=False)


def render_plugins(plugins: list[dict[str, Any]], console: Console | None = None) -> None:
    """Print what :func:`list_plugins` gives."""
    console = console or Console()
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("plugin", "version", "parts", "problems"):
        table.add_column(heading, overflow="fold")
    for plugin in plugins:
        parts = (
            ", ".join(plugin["parts"]) if plugin["name"] != CORE else f"{len(plugin['parts'])} built-in parts"
        )
        table.add_row(plugin["name"], plugin["version"], escape(parts), escape("\n".join(plugin["problems"])))
    console.print(table, highlight=False)
    console.print("\n[bold]loaded from[/bold]  [dim]plugins are code, and run with your rights[/dim]")
    for plugin in plugins:
        console.print(
            escape(f"{plugin['name']}  {plugin['path'] or 'no file'}"), highlight=False, soft_wrap=True
        )
