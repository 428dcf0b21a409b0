"""Parameters that span a run: by their mark, in whatever they stand, or by their name if they have none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from contrastive.kinds import SpansRun, hookimpl
from contrastive.parts import Callback, TargetWrapper
from contrastive.recipe import (
    flatten,
    load_cells,
    load_recipe,
    resolve,
    shipped_recipes,
    signature_of,
    spanning_parameters,
)
from contrastive.registry import Registry, load_registry
from contrastive.targets import EMA

Course = Annotated[str, SpansRun(unless=("flat",))]


class Phase(BaseModel):
    """Marked and unmarked fields."""

    course: Course = "flat"
    rise: Course | None = None
    schedule: str = "constant"


class Planned(Callback):
    """Marked parameters, of any name and within any type.

    Args:
        course: marked.
        schedule: marked, and so not counted by its name.
        plan: maps with marked fields.
        by_epoch: a map of marked values.
        maybe: marked, or None.
        whole: a map that is marked itself.
    """

    def __init__(
        self,
        course: Course = "flat",
        schedule: Annotated[str, SpansRun(unless=("linear",))] = "linear",
        plan: list[Phase] = [],  # noqa: B006
        by_epoch: Mapping[str, Course] = {},
        maybe: Course | None = None,
        whole: Annotated[dict[str, Any], SpansRun(unless=({},))] = {},  # noqa: B006
    ):
        pass


class Unmarked(TargetWrapper):
    """A plugin's parameter that is called schedule, as before there was a mark.

    Args:
        of: the target.
        schedule: how it goes on.
        options: anything.
    """

    def __init__(self, of: EMA, schedule: str | None = "linear", options: dict[str, Any] = {}):  # noqa: B006
        super().__init__(of)


class Strangers:
    @staticmethod
    @hookimpl
    def register_callback(register: Any) -> None:
        register("planned", Planned)

    @staticmethod
    @hookimpl
    def register_target(register: Any) -> None:
        register("unmarked", Unmarked)


@pytest.fixture(scope="module")
def registry() -> Registry:
    registry = load_registry()
    registry.add(Strangers(), "strangers", "1.0")
    return registry


CONSTANT = ["optimizer.schedule=constant"]
RISE = {"from": 0, "to": 1}


@pytest.mark.parametrize(
    ("sets", "spanning"),
    [
        ([], {}),
        (["optimizer.schedule=cosine"], {"optimizer.schedule": "cosine"}),
        (
            ["optimizer.groups=[{match: 'head.*'}, {match: '*', schedule: cosine}]"],
            {"optimizer.groups.1.schedule": "cosine"},
        ),
        (["target={name: ema}"], {}),
        (["target={name: ema, schedule: cosine}"], {"target.schedule": "cosine"}),
        (
            ["target={name: split_bn, of: {name: ema, schedule: cosine}}"],
            {"target.of.schedule": "cosine"},
        ),
        (["target={name: unmarked, of: ema}"], {"target.schedule": "linear"}),
        (["target={name: unmarked, of: ema, schedule: constant}"], {}),
        (["target={name: unmarked, of: ema, schedule: null}"], {}),
        (
            ["target={name: unmarked, of: ema, schedule: null, options: {schedule: step, other: 1}}"],
            {"target.options.schedule": "step"},
        ),
        (["callbacks=[planned]"], {}),
        (["callbacks=[{name: planned, course: up}]"], {"callbacks.0.course": "up"}),
        (["callbacks=[{name: planned, schedule: cosine}]"], {"callbacks.0.schedule": "cosine"}),
        (
            ["callbacks=[{name: planned, plan: [{}, {course: up, rise: up, schedule: step}]}]"],
            {
                "callbacks.0.plan.1.course": "up",
                "callbacks.0.plan.1.rise": "up",
                "callbacks.0.plan.1.schedule": "step",
            },
        ),
        (["callbacks=[{name: planned, by_epoch: {a: flat, b: up}}]"], {"callbacks.0.by_epoch.b": "up"}),
        (["callbacks=[{name: planned, maybe: up}]"], {"callbacks.0.maybe": "up"}),
        (["callbacks=[{name: planned, whole: {from: 0, to: 1}}]"], {"callbacks.0.whole": RISE}),
    ],
)
def test_what_spans_a_run(sets, spanning, tiny_recipe, registry):
    assert spanning_parameters(load_recipe(tiny_recipe, [*CONSTANT, *sets], registry)) == spanning


#: Parameters of shipped recipes that span a run: schedules, and shares of it, as in which a head is frozen.
SPANNING_NAMES = ("schedule", "frozen", "queue_from")


@pytest.mark.parametrize("name", shipped_recipes())
def test_of_shipped_recipes_it_is_what_was_found_by_its_name(name, registry):
    for cell in load_cells(name, ()):
        recipe = resolve(cell.tree, registry)
        assert spanning_parameters(recipe) == {
            path: value
            for path, value in flatten(recipe.dump()).items()
            if path.rpartition(".")[2] in SPANNING_NAMES and value not in ("constant", None)
        } | scheduled_numbers(recipe.dump())


def scheduled_numbers(dump: Any, path: str = "") -> dict[str, Any]:
    """The numbers of a recipe that are written as ``{from: ..., to: ...}``, by their paths."""
    if isinstance(dump, list):
        dump = dict(enumerate(dump))
    if not isinstance(dump, dict):
        return {}
    if {"from", "to"} <= dump.keys():
        return {path: dump}
    inside = (scheduled_numbers(value, f"{path}.{key}".strip(".")) for key, value in dump.items())
    return {key: value for each in inside for key, value in each.items()}


def test_built_in_schedules_are_marked():
    schedules = [
        parameter.annotation
        for entry in load_registry(plugins=False)
        for name, parameter in signature_of(entry).parameters.items()
        if name == "schedule"
    ]
    assert schedules
    for annotation in schedules:
        assert SpansRun(unless=("constant",)) in annotation.__metadata__
