"""Write what docs/ and the package have of every method: pages, diagrams, tables, and the index.

``python scripts/method_pages.py`` needs every plugin of the shipped recipes. It writes

- ``docs/methods/NAME.md`` between ``<!-- method -->`` marks, and ``docs/methods/diagrams/NAME.svg``;
- the tables ``<!-- methods -->`` of docs/methods.md and ``<!-- methods: FAMILY -->`` of its other pages;
- ``contrastive/recipe/descriptions/index.json``: every method's plugins, and its results in docs/results.md.

It reads the descriptions next to the index, ``recipes/`` and docs/results.md. It deletes pages and diagrams
of methods without a recipe.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from method_diagram import diagram
from method_results import measured_results
from pages import put

from contrastive.commands.methods import measured_text, published_text
from contrastive.commands.outline import ObjectiveOutline, Outline
from contrastive.recipe import (
    FAMILIES,
    MethodEntry,
    MethodFacts,
    descriptions_folder,
    load_recipe,
    method_sentence,
    recipes_of,
    shipped_methods,
)
from contrastive.registry import load_registry

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
FOLDER = DOCS / "methods"
DIAGRAMS = FOLDER / "diagrams"
INDEX = descriptions_folder() / "index.json"
_MARKS = "<!-- method -->\n<!-- /method -->\n"
_FAMILY = re.compile(r"^<!-- methods: (\w+) -->$", re.MULTILINE)


@cache
def outline(name: str) -> Outline:
    """The outline of a method's recipe."""
    return Outline(load_recipe(name, (), load_registry()))


@cache
def facts_by_method() -> dict[str, MethodFacts]:
    """What the index is to hold."""
    results = measured_results((DOCS / "results.md").read_text("utf-8"))
    return {
        name: MethodFacts(plugins=outline(name).plugins, results=results.get(name, []))
        for name in shipped_methods()
    }


def index() -> str:
    """The index, a method per line."""
    lines = (
        f"  {json.dumps(name)}: {json.dumps(facts.model_dump(exclude_none=True), ensure_ascii=False)}"
        for name, facts in sorted(facts_by_method().items())
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"


# -- pages --------------------------------------------------------------------------------------------


def page(name: str, entry: MethodEntry, text: str) -> str:
    """The page of a method; what stands outside of the marks in ``text`` stays."""
    return put(text, "method", "\n".join(_sections(name, entry)) + "\n")


def _sections(name: str, entry: MethodEntry) -> Iterator[str]:
    own, facts = outline(name), facts_by_method()[name]
    yield f"{method_sentence(name)}\n\n{_origin(entry, facts.plugins)}"
    yield f"\n![What {entry.title} compares with what](diagrams/{name}.svg)"
    if len(own.objectives) > 1:
        yield f"\n{_common(own)}"
    yield "\n" + _composition(own)
    yield f"\n## Formula\n\n```text\n{entry.formula.rstrip()}\n```\n\n{entry.symbols}"
    yield f"\n## When to use it\n\n{entry.use}"
    yield "\n## What it costs\n\n" + _bullets(own.costs())
    if entry.traps:
        yield "\n## Traps\n\n" + _bullets(entry.traps)
    yield "\n## Numbers\n\n" + _numbers(entry, facts)
    yield "\n## Recipe\n\n" + _recipe(name)


def _origin(entry: MethodEntry, plugins: Iterable[str]) -> str:
    paper = "A composition of parts of other methods."
    if entry.paper:
        citation, address = entry.paper.citation, entry.paper.address
        paper = f"{f'[{citation}]({address})' if address else citation}: *{entry.paper.title}*."
    links = [f"[{plugin}](../../plugins/{plugin}/README.md)" for plugin in plugins]
    needs = f"Plugins: {', '.join(links)}." if links else "All its parts are built in."
    return f"{paper} {needs} Family: {entry.family} ({FAMILIES[entry.family]})."


def _common(own: Outline) -> str:
    common = set.intersection(*({*objective.spec.common} for objective in own.objectives))
    parts = ["encoder", *sorted(common)]
    names = " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
    return f"The objectives have one {names} in common; the encoder sees a view once for all that ask for it."


def _composition(own: Outline) -> str:
    parts = own.composition()
    headings = list(dict.fromkeys(heading for part in parts for heading in part if heading != "objective"))
    titles = ["", *(part.get("objective", "") for part in parts)]
    rows = [[heading, *(part.get(heading, "") for part in parts)] for heading in headings]
    return _table(titles, rows)


def _numbers(entry: MethodEntry, facts: MethodFacts) -> str:
    numbers = _bullets(published_text(result.model_dump()) for result in entry.numbers)
    own = _bullets(_with_link(result) for result in map(dict, facts.results))
    return (
        f"Published:\n\n{numbers or 'none whose source was checked.'}\n\n"
        f"Ours, in percent of the test split:\n\n{own or 'not measured yet.'}"
    )


def _with_link(result: dict) -> str:
    section = result["section"]
    return measured_text(result).replace(f"; {section}", f" ([{section}](../results.md#{anchor(section)}))")


def _recipe(name: str) -> str:
    others = [f"`{recipe}`" for recipe in recipes_of(name) if recipe != name]
    more = f" The same method on other data: {', '.join(others)}." if others else ""
    file = f"[recipes/{name}.yaml](../../recipes/{name}.yaml)"
    content = (ROOT / "recipes" / f"{name}.yaml").read_text("utf-8")
    return f"`contrastive run {name}` runs {file}.{more}\n\n```yaml\n{content}```"


def anchor(heading: str) -> str:
    """The anchor of a heading, as GitHub and the site make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _bullets(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(titles)
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


# -- tables -------------------------------------------------------------------------------------------


def family_table(family: str) -> str:
    """The methods of a family: what each does, and when to use it."""
    rows = [
        (f"[{entry.title}]({name}.md)", f"`{name}`", method_sentence(name), entry.use)
        for name, entry in shipped_methods().items()
        if entry.family == family
    ]
    return _table(("method", "recipe", "what it does", "use it for"), rows) + "\n"


def overview() -> str:
    """Every method as its objectives, a row per objective."""
    rows = [row for name, entry in shipped_methods().items() for row in _overview_rows(name, entry)]
    titles = ("method", "recipe", "level", "online / target views", "hide", "head, predictor", "target")
    return _table((*titles, "negatives", "loss"), rows) + "\n"


def _overview_rows(name: str, entry: MethodEntry) -> Iterator[list[str]]:
    heading = [f"[{entry.title}](methods/{name}.md)", f"`{name}`"]
    for objective in outline(name).objectives:
        yield [*heading, *_overview_cells(objective)]
        heading = ["", ""]


def _overview_cells(objective: ObjectiveOutline) -> Iterator[str]:
    spec = objective.spec
    yield spec.keys.level[0]
    online, target = (
        numbers if numbers == "all" else ", ".join(map(str, numbers))
        for numbers in (spec.views.online, spec.views.target)
    )
    yield f"{online} with themselves" if spec.views.pairs == "same" else f"{online} / {target}"
    yield "" if spec.keys.hide == "none" else spec.keys.hide
    yield ", ".join(f"`{part}`" for part in (objective.head or "none", objective.predictor) if part)
    yield " of ".join(f"`{part}`" for part in objective.keys.names)
    yield " and ".join(f"`{source.name}`" for source in objective.sources) or "none"
    weight = f", weight {spec.keys.weight:g}" if spec.keys.weight != 1 else ""
    yield " + ".join(_loss(loss) for loss in objective.losses) + weight


def _loss(text: str) -> str:
    """``0.1 nt_xent`` -> ``0.1 `nt_xent` ``."""
    factor, _, name = text.rpartition(" ")
    return f"{factor} `{name}`".strip()


# -- files --------------------------------------------------------------------------------------------


def files() -> dict[Path, str]:
    """Path -> up-to-date text, of everything this script writes."""
    texts = {INDEX: index()}
    for name, entry in shipped_methods().items():
        path = FOLDER / f"{name}.md"
        text = path.read_text("utf-8") if path.is_file() else f"# {entry.title}\n\n{_MARKS}"
        texts[path] = page(name, entry, text)
        texts[DIAGRAMS / f"{name}.svg"] = diagram(outline(name), entry.title)
    texts[DOCS / "methods.md"] = put((DOCS / "methods.md").read_text("utf-8"), "methods", overview())
    for path in sorted(FOLDER.glob("*.md")):
        text = texts.get(path) or path.read_text("utf-8")
        for family in _FAMILY.findall(text):
            texts[path] = text = put(text, f"methods: {family}", family_table(family))
    return texts


def stale_files() -> list[Path]:
    """Pages and diagrams of methods that do not ship."""
    pages = [path for path in FOLDER.glob("*.md") if "<!-- method -->" in path.read_text("utf-8")]
    return [path for path in (*pages, *DIAGRAMS.glob("*.svg")) if path.stem not in shipped_methods()]


def main() -> None:
    for path in stale_files():
        path.unlink()
    DIAGRAMS.mkdir(exist_ok=True)
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
