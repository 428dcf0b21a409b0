"""The descriptions of methods next to the recipes: whole, and one for each."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from contrastive.recipe import (
    FAMILIES,
    MethodEntry,
    find_method,
    method_entries,
    method_of,
    method_sentence,
    recipes_of,
    shipped_methods,
    shipped_recipes,
)

#: Recipes at the top that are no method of their own: SimCLR on photographs, and with pretrained weights.
NO_METHOD = {"photos", "photos_progressive", "adapt"}
#: Characters of a line of a formula, which commands print indented in 80 columns.
WIDEST = 76


def test_every_description_has_its_recipe():
    assert set(method_entries()) <= set(shipped_recipes()), "write recipes/NAME.yaml"


def test_every_recipe_has_its_description():
    top = {name for name in shipped_recipes() if "/" not in name}
    assert top - set(method_entries()) == NO_METHOD, "write contrastive/recipe/descriptions/NAME.yaml"


@pytest.mark.parametrize("name", shipped_methods())
def test_the_first_line_of_a_recipe_names_its_method_and_paper(name):
    entry, summary = find_method(name), shipped_recipes()[name]
    heading, colon, sentence = summary.partition(": ")
    assert colon, summary
    assert sentence.endswith(".")
    assert heading.startswith(entry.title)
    assert entry.paper is None or entry.paper.citation in heading  # "Chen et al. 2020b" too


@pytest.mark.parametrize("name", method_entries())
def test_texts_are_sentences_and_formulas_fit(name):
    entry = method_entries()[name]
    for text in (entry.symbols, entry.use, *entry.traps):
        assert text.endswith("."), text
    assert [line for line in entry.formula.splitlines() if len(line) > WIDEST] == []


def test_families_follow_one_another_in_lists():
    families = [entry.family for entry in method_entries().values()]
    assert list(dict.fromkeys(families)) == list(FAMILIES)
    assert families == sorted(families, key=list(FAMILIES).index)


def test_recipes_belong_to_the_method_that_their_file_names():
    assert method_of("cifar10/moco_v3-vit") == "moco_v3"
    assert method_of("cifar10/simclr_mae-vit-cpu") == "simclr_mae"
    assert method_of("studies/losses") is None
    assert method_of("photos") is None
    assert recipes_of("byol")[0] == "byol"
    assert "imagenet/byol" in recipes_of("byol")
    assert "byol_negatives" not in recipes_of("byol")


def test_sentences_begin_with_a_capital_unless_a_name_does_not():
    assert method_sentence("mae").startswith("The encoder sees a quarter")
    assert method_sentence("dinov2").startswith("iBOT with")


def test_a_description_with_an_unknown_key_or_family_is_refused():
    whole = find_method("simclr").model_dump()
    assert MethodEntry.model_validate(whole) == find_method("simclr")
    for wrong in ({"trap": "one"}, {"family": "other"}, {"formula": ""}):
        with pytest.raises(ValidationError):
            MethodEntry.model_validate(whole | wrong)
