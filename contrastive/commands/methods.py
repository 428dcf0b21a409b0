"""``contrastive list methods`` and ``show method``: the plain data (for ``--json``) and its rendering."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Console

from contrastive.commands.docstrings import PROSE_WIDTH, hanging, print_lines
from contrastive.errors import PluginError
from contrastive.recipe import (
    FAMILIES,
    MethodEntry,
    find_method,
    find_recipe,
    load_recipe,
    method_facts,
    method_sentence,
    recipes_of,
    shipped_methods,
)
from contrastive.registry import Registry
from contrastive.text import quantity

if TYPE_CHECKING:
    from contrastive.commands.outline import Outline

_RESULTS_PAGE = "docs/results.md"


def list_methods(registry: Registry) -> list[dict[str, Any]]:
    """Every method whose recipe ships: its name, title, family, sentence, plugins and paper.

    ``missing`` are those of its plugins that are not installed.
    """
    return [_heading(registry, name, entry) for name, entry in shipped_methods().items()]


def show_method(registry: Registry, name: str) -> dict[str, Any]:
    """All that is known of a method. Raises UsageError if there is none of that name.

    Composition and costs are derived from its recipe, and absent if a plugin of it is.
    """
    entry = find_method(name)
    heading = _heading(registry, name, entry)
    outline = _outline(name, registry) if not heading["missing"] else None
    return {
        **heading,
        "composition": outline.composition() if outline else None,
        "formula": entry.formula.rstrip(),
        "symbols": entry.symbols,
        "use": entry.use,
        "costs": outline.costs() if outline else None,
        "traps": entry.traps,
        "numbers": [result.model_dump() for result in entry.numbers],
        "results": [result.model_dump() for result in method_facts(name).results],
        "recipe": str(find_recipe(name)),
        "recipes": recipes_of(name),
    }


def _heading(registry: Registry, name: str, entry: MethodEntry) -> dict[str, Any]:
    plugins, paper = method_facts(name).plugins, entry.paper
    present = {plugin.name for plugin in registry.plugins}
    return {
        "name": name,
        "title": entry.title,
        "family": entry.family,
        "summary": method_sentence(name),
        "plugins": plugins,
        "missing": [plugin for plugin in plugins if plugin not in present],
        "paper": None
        if paper is None
        else {"citation": paper.citation, "title": paper.title, "year": paper.year, "address": paper.address},
    }


def _outline(name: str, registry: Registry) -> Outline | None:
    """None if a plugin of the recipe is broken: `plugin list` has the reason."""
    from contrastive.commands.outline import Outline  # it imports torch, which a list does not need

    try:
        return Outline(load_recipe(name, (), registry))
    except PluginError:
        return None


def source_text(method: Mapping[str, Any]) -> str:
    """``Chen et al. 2020; contrastive-moco``, with what to install if a plugin is missing."""
    paper = [method["paper"]["citation"]] if method["paper"] else ["a composition without a paper"]
    plugins = [install_hint(name) if name in method["missing"] else name for name in method["plugins"]]
    return "; ".join([*paper, *plugins])


def install_hint(plugin: str) -> str:
    """A plugin that is not installed, with the command that installs it."""
    return f"{plugin} (not installed: pip install {plugin})"


# -- rendering ----------------------------------------------------------------------------------------


def render_methods(methods: list[dict[str, Any]], console: Console | None = None) -> None:
    """Print what :func:`list_methods` returns, one block per family."""
    console = console or Console()
    column = max(len(method["name"]) for method in methods) + 4
    for number, (family, members) in enumerate(groupby(methods, lambda method: method["family"])):
        if number:
            console.print()
        print_lines(
            console, hanging(family, FAMILIES[family], len(family) + 2, console.width), bold=len(family)
        )
        for method in members:
            print_lines(console, hanging(f"  {method['name']}", method["summary"], column, console.width))
            print_lines(console, hanging("", source_text(method), column, console.width), dim=True)


def render_method(method: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what :func:`show_method` returns."""
    console = console or Console()
    width = min(console.width, PROSE_WIDTH)
    title = f"{method['title']} ({method['name']})"
    heading = f"{title}  {method['family']}; {source_text(method)}"
    print_lines(console, hanging("", heading, 0, width), bold=len(title))
    print_lines(console, hanging("", method["summary"], 0, width))
    if paper := method["paper"]:
        reference = f"{paper['title']}. {paper['address'] or ''}".rstrip()
        print_lines(console, hanging("", reference, 0, width), dim=True)
    for part in method["composition"] or ():
        rows = dict(part)
        heading = f"objective {rows.pop('objective')}" if "objective" in rows else "composition"
        _block(console, width, heading, rows.items())
    if method["composition"] is None:
        note = (
            "Composition and costs follow from its recipe, which needs its plugins (contrastive plugin list)."
        )
        print_lines(console, hanging("", f"\n{note}", 0, width))
    _heading_line(console, "formula")
    print_lines(console, "\n".join(f"  {line}" for line in method["formula"].splitlines()))
    print_lines(console, hanging("", method["symbols"], 2, width), dim=True)
    for heading, sentences in (
        ("when to use it", [method["use"]]),
        ("what it costs", method["costs"]),
        ("traps", method["traps"]),
        ("published", [published_text(result) for result in method["numbers"]]),
        (f"ours, in percent ({_RESULTS_PAGE})", _own_results(method)),
        ("recipes", [method["recipe"], *method["recipes"][1:]]),
    ):
        _sentences(console, width, heading, sentences or ())


def _own_results(method: Mapping[str, Any]) -> list[str]:
    return [measured_text(result).replace("`", "") for result in method["results"]]


def published_text(result: Mapping[str, Any]) -> str:
    """``69.3 linear top-1: ImageNet, ResNet-50, 1,000 epochs (the paper)``."""
    epochs = f", {quantity(result['epochs'], 'epoch')}" if result["epochs"] else ""
    return (
        f"{result['value']:g} {result['metric']}: {result['data']}, {result['network']}{epochs} "
        f"({result['source']})"
    )


def measured_text(result: Mapping[str, Any]) -> str:
    """``simclr: kNN 76.7, linear 85.4, 3 seeds; section``."""
    labels = {"knn": "kNN", "linear": "linear"}
    metrics = [f"{label} {result[key]}" for key, label in labels.items() if result[key]]
    metrics.append(quantity(result["seeds"], "seed"))
    return f"{result['recipe']}: {', '.join(metrics)}; {result['section']}"


def _block(console: Console, width: int, heading: str, rows: Iterable[tuple[str, str]]) -> None:
    _heading_line(console, heading)
    for label, text in rows:
        print_lines(console, hanging(f"  {label}", text, 13, width))


def _sentences(console: Console, width: int, heading: str, sentences: Iterable[str]) -> None:
    for number, sentence in enumerate(sentences):
        if number == 0:
            _heading_line(console, heading)
        print_lines(console, hanging("", sentence, 2, width))


def _heading_line(console: Console, heading: str) -> None:
    print_lines(console, f"\n{heading}", bold=len(heading) + 1)
