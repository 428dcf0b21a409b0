"""The conformance kit finds planted faults: each broken part fails exactly the check meant for it."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from contrastive import hookimpl
from contrastive.testing import check_part, check_plugin, part_checks
from tests.support.faults import (
    augmentation,
    callback,
    dataset,
    encoder,
    loss,
    marks,
    negatives,
    optimizer,
    patches,
    protocol,
    target,
    tokens,
)

ROOT = Path(__file__).parents[2]
OF_PATCHES = (marks, tokens, patches)
OF_IMAGES = (augmentation, callback, dataset, encoder, loss, negatives, optimizer, protocol, target)
FAULTS = {part: check for module in (*OF_IMAGES, *OF_PATCHES) for part, check in module.FAULTS.items()}


def failed(results):
    return {result.check: result.reason for result in results if result.status == "failed"}


@pytest.mark.parametrize("part", FAULTS, ids=lambda part: part.__name__)
def test_each_fault_fails_exactly_its_check(part):
    found = failed(check_part(part))
    assert set(found) == {FAULTS[part]}, found
    assert all(found.values())


@pytest.mark.parametrize(
    "part", [part for module in OF_PATCHES for part in module.WHOLE], ids=lambda part: part.__name__
)
def test_parts_like_those_without_the_fault_pass(part):
    results = {result.check: result for result in check_part(part)}
    assert not failed(results.values())


@pytest.mark.parametrize(
    ("part", "check"),
    [
        (marks.HidesHalf, "pure marks"),
        (marks.HidesHalf, "place"),
        (marks.Flip, "place"),
        (tokens.Patches, "hides"),
        (tokens.Fills, "fills"),
        (tokens.Fills, "resume"),
        (tokens.Pools, "pools"),
        (patches.Spread, "unmatched"),
        (patches.PatchPixels, "patches"),
        (patches.PatchPixels, "whole views"),
        (patches.PatchPixels, "processes"),
        (patches.Stock, "fixed"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_checks_of_patches_run_on_parts_of_that_sort(part, check):
    (result,) = [each.result() for each in part_checks(part) if each.check.name == check]
    assert result.status == "passed", result.reason


def test_what_is_said_of_patches_names_the_page_that_explains_it():
    for part in (marks.OfTheBatch, tokens.MixesFirst, patches.SpreadOfAll, patches.EntersCheckpoints):
        (reason,) = failed(check_part(part)).values()
        page, section = re.search(r"\((docs/\S+\.md), section '(.+)'\)", reason).groups()
        assert f"\n## {section}\n" in (ROOT / page).read_text(encoding="utf-8")


def test_there_are_faults_enough():
    assert len(FAULTS) >= 20
    assert sum(len(module.FAULTS) for module in OF_PATCHES) >= 14


@hookimpl
def register_protocol(register):
    register("mine", "contrastive.protocols:KNN")


def plugin(**content):
    return SimpleNamespace(__name__="my-plugin", **content)


def test_a_plugin_of_another_interface_fails_that_check():
    found = failed(check_plugin(plugin(register_protocol=register_protocol, contrastive_api=99)))
    assert set(found) == {"api version"}
    assert "99" in found["api version"]


def test_a_plugin_that_does_not_say_its_interface_fails_that_check():
    assert set(failed(check_plugin(plugin(register_protocol=register_protocol)))) == {"api version"}


def test_a_misspelt_hook_fails_registers():
    misspelt = hookimpl(lambda register: None)
    found = failed(
        check_plugin(
            plugin(register_protocol=register_protocol, register_protocols=misspelt, contrastive_api=1)
        )
    )
    assert set(found) == {"registers"}
    assert "register_protocol" in found["registers"]


def test_a_late_exception_is_reported_with_its_method_step_and_line():
    reason = failed(check_part(callback.RaisesLate))["hooks"]
    assert re.fullmatch(
        r"it raises RuntimeError: too late in step_taken \(callback\.py, line \d+\) at step 130", reason
    )


def test_what_a_callback_does_differently_after_a_resume_is_told_in_words():
    noise = failed(check_part(callback.LogsNoise))["state_dict"]
    assert re.match(
        r"it logs noise 0\.\d+ at step 24 without a resume, and noise 0\.\d+ with one, and a second run",
        noise,
    )
    patience = failed(check_part(callback.ForgetsPatience))["state_dict"]
    assert patience.startswith("it stops the run with the reason 'no better for ten evaluations' at step 52 ")
    assert "without a resume, and stops the run" in patience


def test_the_unit_of_a_number_is_asked_for_next_to_those_that_are_declared():
    reason = failed(check_part(protocol.CallsANumberAFraction))["metrics"]
    assert reason.endswith("write metric_units = {'bits': 'number', 'margin': 'number'}")
