"""A parameter that is added later leaves the training fingerprint as it is while it has its default."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from contrastive import parts
from contrastive.errors import PluginError
from contrastive.kinds import Addition, ChangedDefault
from contrastive.recipe import deciding, load_recipe, model, parse_tree, resolve, training_fingerprint
from contrastive.registry import Entry, load_registry
from tests.support.fake_parts import fake_registry


class Rule(BaseModel):
    match: str
    scale: float = 1.0


class RuleNow(Rule):
    power: Annotated[float, Addition()] = Field(2.0, alias="exponent")


class LossThen(parts.Loss):
    """A loss.

    Args:
        temperature: of the softmax.
        rules: of some rows.
    """

    def __init__(self, temperature: float = 0.5, rules: list[Rule] | None = None):
        super().__init__()


class LossNow(parts.Loss):
    """A loss with parameters that it did not have before."""

    def __init__(
        self,
        temperature: float = 0.5,
        rules: list[RuleNow] | None = None,
        margin: Annotated[float, Addition()] = 0.0,
        names: Annotated[tuple[str, ...], Addition()] = ("a", "b"),
        inner: Annotated[parts.Loss | None, Addition()] = None,
    ):
        super().__init__()


class LossWithChangedDefault(parts.Loss):
    """A loss whose default temperature was 0.5."""

    def __init__(
        self,
        temperature: Annotated[float | str, ChangedDefault(0.5)] = "auto",
        rules: list[Rule] | None = None,
    ):
        super().__init__()


class LossMarkedWrongly(parts.Loss):
    """A loss whose added parameter has no default."""

    def __init__(self, margin: Annotated[float, Addition()]):
        super().__init__()


class LossWithAddedPart(parts.Loss):
    """A loss whose added part is not null by default."""

    def __init__(self, inner: Annotated[parts.Loss | str, Addition()] = "nt_xent"):
        super().__init__()


def fingerprint(loss: type, text: str = "nt_xent") -> str:
    registry = fake_registry()
    entry = registry.entries["loss", "nt_xent"]
    registry.entries = {
        **registry.entries,
        ("loss", "nt_xent"): Entry("loss", "nt_xent", entry.provider, entry.version, loss),
        ("loss", "plain"): Entry("loss", "plain", entry.provider, entry.version, LossThen),
    }
    tree = parse_tree(f"dataset: fashion_mnist_sample\nloss: {text}\n")
    return training_fingerprint(resolve(tree, registry), "data")


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ("nt_xent", "nt_xent"),
        ("{temperature: 0.1}", "{temperature: 0.1, margin: 0, names: [a, b], inner: null}"),
        ("{rules: [{match: x}]}", "{rules: [{match: x, exponent: 2}]}"),
        ("[nt_xent, {name: plain, weight: 2}]", "[{name: nt_xent, margin: 0.0}, {name: plain, weight: 2}]"),
    ],
)
def test_a_default_is_left_out_however_it_is_given(then: str, now: str):
    assert fingerprint(LossNow, now) == fingerprint(LossNow, then) == fingerprint(LossThen, then)


@pytest.mark.parametrize("text", ["nt_xent", "{temperature: auto}", "{temperature: 0.5}"])
def test_a_changed_default_counts_as_the_former_one(text: str):
    assert fingerprint(LossWithChangedDefault, text) == fingerprint(LossThen)
    other = "{temperature: 0.4}"
    assert fingerprint(LossWithChangedDefault, other) == fingerprint(LossThen, other) != fingerprint(LossThen)


@pytest.mark.parametrize(
    "text",
    [
        "{margin: 0.1}",
        "{names: [a]}",
        "{inner: plain}",
        "{rules: [{match: x, exponent: 3}]}",
        "{temperature: 0.4}",
    ],
)
def test_any_other_value_counts(text: str):
    assert fingerprint(LossNow, text) != fingerprint(LossNow)


def test_a_parameter_without_the_mark_counts_at_its_default_too():
    class LossUnmarked(parts.Loss):
        """A loss."""

        def __init__(self, temperature: float = 0.5, rules: list[Rule] | None = None, margin: float = 0.0):
            super().__init__()

    assert fingerprint(LossUnmarked) != fingerprint(LossThen)


def test_sections_leave_them_out_too():
    class TrainNow(model.Train):
        hours: Annotated[float, Addition()] | None = None

    recipe = load_recipe("simclr", (), load_registry())
    for hours, differs in ((None, False), (5.0, True)):
        train = TrainNow(**recipe.train.model_dump(), hours=hours)
        changed = replace(recipe, train=train)
        assert (deciding(changed) != deciding(recipe)) == differs
        assert changed.dump()["train"]["hours"] == hours, "recipe.yaml holds every value"


@pytest.mark.parametrize(
    ("loss", "need"), [(LossMarkedWrongly, "a default"), (LossWithAddedPart, "null as its default")]
)
def test_an_addition_that_cannot_be_left_out_is_an_error_of_its_plugin(loss: Any, need: str):
    with pytest.raises(PluginError, match=f"is marked Addition and needs {need}"):
        fingerprint(loss, "{name: nt_xent, margin: 1}" if loss is LossMarkedWrongly else "nt_xent")
