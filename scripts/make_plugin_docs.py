"""Write the generated sections of docs/plugins: the hook reference, and examples and checks by kind.

``python scripts/make_plugin_docs.py`` rewrites ``docs/plugins/hooks.md`` from ``contrastive/hookspecs.py``
and ``contrastive/parts.py``, and in ``docs/plugins/<kind>.md`` the sections ``<!-- example -->`` (the module
that ``contrastive plugin new`` writes) and ``<!-- checks -->`` (the checks of the conformance kit).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from pages import put

from contrastive import hookspecs, parts
from contrastive.commands.plugin_new.scaffold import files, names_of
from contrastive.kinds import API_VERSION, KINDS, OLDEST_API_VERSION
from contrastive.testing import CHECKS

PAGES = Path(__file__).parent.parent / "docs" / "plugins"


def hook_reference(specs: ModuleType = hookspecs) -> str:
    """The page of hooks. Raises ValueError for an undocumented hook or base class member."""
    hooks = {name: hook for name, hook in vars(specs).items() if name.startswith("register_")}
    sections = [_hook(name, hook) for name, hook in hooks.items()]
    common = [f"## Every part\n\n{_members(parts.Part)}", f"## Every torch module\n\n{_step_part()}"]
    return "\n\n".join([_heading(), *sections, *common]) + "\n"


def _heading() -> str:
    origin = "written by scripts/make_plugin_docs.py from contrastive/hookspecs.py and contrastive/parts.py"
    return (
        f"# Hooks\n\n<!-- {origin} -->\n\n{_summary(hookspecs)}\n\n"
        f"This is interface {API_VERSION}; plugins for interface {OLDEST_API_VERSION} and later work. "
        "A plugin's module declares the oldest one that has all it uses, such as "
        f"`contrastive_api = {OLDEST_API_VERSION}` ([which interface](../plugins.md#which-interface))."
    )


def _hook(name: str, hook: Any) -> str:
    kind = name.removeprefix("register_")
    base = getattr(parts, kind.capitalize(), None)
    signature = ", ".join(inspect.signature(hook).parameters)
    heading = f"## `{name}({signature})`\n\n{_summary(hook)}"
    if base is None:
        return heading
    return (
        f"{heading} How to write one: [{kind}]({kind}.md).\n\n{_summary(base)}\n\n{_members(base)}".rstrip()
    )


def _step_part() -> str:
    steps = ", ".join(f"`{kind}`" for kind in KINDS if issubclass(_base(kind), parts.StepPart))
    return f"{_summary(parts.StepPart)} These are of kind {steps}.\n\n{_members(parts.StepPart)}"


def _base(kind: str) -> type:
    return getattr(parts, kind.capitalize())


def _members(base: type) -> str:
    """A table of the methods that ``base`` itself defines for authors to write or override."""
    own = [
        (name, value)
        for name, value in vars(base).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or isinstance(value, classmethod | property))
    ]
    rows = [_member(name, value) for name, value in own]
    return _table(("method", "write it", "what it is"), rows) if rows else ""


def _member(name: str, value: Any) -> tuple[str, str, str]:
    must = "must" if getattr(value, "__isabstractmethod__", False) else "may"
    if isinstance(value, property):
        return f"`{name}`", must, _summary(value)
    function = value.__func__ if isinstance(value, classmethod) else value
    arguments = list(inspect.signature(function).parameters.values())[1:]  # without self or cls
    argument_list = ", ".join(f"*{a.name}" if a.kind is a.VAR_POSITIONAL else a.name for a in arguments)
    return f"`{name}({argument_list})`", must, _summary(value)


def _summary(value: Any) -> str:
    """The first paragraph of a docstring, in one line. Raises ValueError if there is none."""
    doc = inspect.getdoc(value) if not isinstance(value, type) else inspect.cleandoc(value.__doc__ or "")
    if not doc:
        name = getattr(value, "__name__", value)
        raise ValueError(f"{name} has no documentation; write a docstring for it")
    first = " ".join(doc.split("\n\n")[0].split())
    return re.sub(r"``([^`]+)``|:\w+:`~?([^`]+)`", lambda match: f"`{match[1] or match[2]}`", first)


def _table(heading: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heading = tuple(heading)
    lines = [heading, ("---",) * len(heading), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def example(kind: str) -> str:
    """The module that ``contrastive plugin new my-<kind> --kind <kind>`` writes."""
    names = names_of(f"my-{kind}", [kind])
    return f"```python\n{files(names)[f'{names.module}.py']}```"


def check_table(kind: str) -> str:
    """The conformance kit's checks of a part of that kind."""
    rows = [(check.name, check.asked) for check in CHECKS if kind in check.kinds]
    return _table(("check", "passes if"), rows)


def kind_page(kind: str, text: str) -> str:
    """The page of a kind with its generated sections up to date."""
    for mark, content in (("example", example(kind)), ("checks", check_table(kind))):
        text = put(text, mark, f"{content}\n")
    return text


def pages() -> dict[Path, str]:
    """Path -> up-to-date text, for every page."""
    kinds = {PAGES / f"{kind}.md": kind for kind in KINDS}
    return {PAGES / "hooks.md": hook_reference()} | {
        path: kind_page(kind, path.read_text(encoding="utf-8")) for path, kind in kinds.items()
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
