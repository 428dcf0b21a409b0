"""Checks for every kind: what a plugin registers, the recipe schema of a part, and global state."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

from contrastive import parts
from contrastive.kinds import API_VERSION
from contrastive.recipe import dump_yaml, parse_tree, recipe_schema, resolve, signature_of
from contrastive.registry import Registry, interface_misfit
from contrastive.testing.framework import EVERY_KIND, PLUGIN, STEP_PARTS, check, fail, require, skip
from contrastive.testing.subjects import OFFERS, PluginSubject, Subject, part_of
from contrastive.testing.surroundings import TORCH, differing_names, fixed_seed, snapshot
from contrastive.testing.usage import use
from contrastive.versions import CORE

_BASES: dict[str, type] = {
    kind: base
    for base in (getattr(parts, name) for name in dir(parts))  # a door has a name only after its first use
    if isinstance(base, type) and isinstance(kind := vars(base).get("kind"), str)
}


# -- a plugin as a whole ----------------------------------------------------------------------------------


@check("api version", PLUGIN)
def api_version(plugin: PluginSubject) -> None:
    """Its module declares the interface it was written for, and this framework supports it."""
    if plugin.name == CORE:
        skip("the framework is its own interface")
    if plugin.module is None:
        skip("its module cannot be imported")
    declared_version = getattr(plugin.module, "contrastive_api", None)
    require(
        declared_version is not None,
        f"the plugin's module declares no interface; write contrastive_api = {API_VERSION} in it",
    )
    misfit = interface_misfit(plugin.module, plugin.name)
    require(not misfit, misfit)


@check("registers", PLUGIN, after=("api version",))
def registers(plugin: PluginSubject) -> None:
    """Its hooks register parts under valid names, without problems."""
    require(not plugin.problems, "; ".join(problem.reason for problem in plugin.problems))
    require(plugin.entries, "it registers no part; write a hook such as register_loss with @hookimpl")


@check("import", PLUGIN, after=("registers",), is_slow=True)
def imports_quietly(plugin: PluginSubject) -> None:
    """Importing its module prints nothing and does not change generators, default dtype or threads."""
    module = getattr(plugin.module, "__name__", None)
    if not inspect.ismodule(plugin.module) or module is None:
        skip("it is an object, not a module")
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "import torch, numpy\n"
        "from contrastive.testing.surroundings import differing_names, snapshot\n"
        f"before = snapshot(); import {module}\n"
        "print('CHANGED', *differing_names(before, snapshot()), sep='|')"
    )
    completion = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    require(
        completion.returncode == 0,
        f"import {module} fails in a fresh interpreter: {completion.stderr.strip()[-200:]}",
    )
    *output, last = completion.stdout.splitlines()
    require(not output, f"import {module} prints {output[:1]}; standard output may be one JSON object")
    differences = last.split("|")[1:]
    require(not differences, f"import {module} changes {', '.join(differences)}; leave that to the user")


# -- a part of any kind -----------------------------------------------------------------------------------


@check("loads", *EVERY_KIND)
def loads(subject: Subject) -> None:
    """Its class can be imported, derives from its kind's base class and has no abstract methods left."""
    cls = subject.part_class
    base = _BASES[subject.kind]
    require(issubclass(cls, base), f"{cls.__name__} does not derive from contrastive.parts.{base.__name__}")
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    require(
        not missing,
        f"{cls.__name__} lacks {', '.join(missing)}; define every abstract method of its base class",
    )
    unknown = sorted(cls.needs - set(parts.NEEDS))
    require(
        not unknown,
        f"needs has {unknown}, which no composition provides; valid needs: {', '.join(parts.NEEDS)}",
    )


@check("schema", *EVERY_KIND, after=("loads",))
def schema(subject: Subject) -> None:
    """Its parameters have a schema; a recipe that names it is written and read back unchanged."""
    signature = signature_of(subject.entry)
    key = (subject.kind, subject.entry.name)
    schema_of_part = recipe_schema(Registry({key: subject.entry}))
    properties = _properties(schema_of_part, *key)
    absent = [name for name in signature.parameters if name not in properties]
    require(not absent, f"the recipe schema lacks {', '.join(absent)}")
    recipe = subject.recipe
    again = resolve(parse_tree(dump_yaml(recipe)), subject.registry)
    require(
        part_of(again, subject.kind) == subject.spec,
        f"written and read back, {subject.spec.dump()} becomes {part_of(again, subject.kind).dump()}; "
        "annotate its parameters with plain types (numbers, text, lists, pydantic models)",
    )


@check("builds", *EVERY_KIND, after=("schema",))
def builds(subject: Subject) -> None:
    """It can be built twice from its example parameters and what the builder offers."""
    for _ in range(2):
        part = subject.part()
        require(
            isinstance(part, subject.part_class),
            f"building {subject.entry.name} gives a {type(part).__name__}",
        )


@check("documented", *EVERY_KIND, after=("loads",))
def complete_documentation(subject: Subject) -> None:
    """Its docstring has a first line, and its Args section explains every recipe parameter."""
    signature = signature_of(subject.entry)
    name = subject.part_class.__name__
    require(signature.summary, f'{name} has no docstring; write """What it is, in one line."""')
    silent = [name for name, parameter in signature.parameters.items() if not parameter.doc]
    require(not silent, f"the docstring of {name} has no line for {', '.join(silent)} under Args:")


@check("global state", *EVERY_KIND, after=("builds",))
def global_state(subject: Subject) -> None:
    """Building and using it does not change generators, default dtype, threads or grad mode."""
    own = (
        subject.kind in STEP_PARTS
    )  # what the engine seeds before every step, and the builder before building
    ends = []
    for seed in (0, 1):
        with fixed_seed(seed):
            before = snapshot()
            part = subject.spec.build(**OFFERS)
            try:
                use(subject.kind, part)
            except Exception:  # a more specific check reports what fails here
                skip("it fails in use, which another check reports")
            after = snapshot()
        differences = [name for name in differing_names(before, after) if not (own and name == TORCH)]
        require(
            not differences,
            f"it changes {', '.join(differences)}; draw from your own generator or from "
            "the given draws, and restore what you set",
        )
        ends.append(after[TORCH])
    if ends[0] == ends[1]:
        fail("it seeds torch's default generator; all later draws would be the same in every step")


def _properties(schema: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    if kind == "protocol":
        return schema["properties"]["evaluate"]["properties"][name]["anyOf"][0]["properties"]
    options = schema["$defs"][kind]["anyOf"]
    matches = [o["properties"] for o in options if o.get("properties", {}).get("name") == {"const": name}]
    require(matches, f"the recipe schema has no {kind} '{name}'")
    return matches[0]
