"""The conformance kit finds planted faults: each broken part fails exactly the check meant for it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from contrastive import hookimpl
from contrastive.testing import check_part, check_plugin
from tests.support.faults import (
    augmentation,
    callback,
    dataset,
    encoder,
    loss,
    negatives,
    optimizer,
    protocol,
    target,
)

MODULES = (augmentation, callback, dataset, encoder, loss, negatives, optimizer, protocol, target)
FAULTS = {part: check for module in MODULES for part, check in module.FAULTS.items()}


def failed(results):
    return {result.check: result.reason for result in results if result.status == "failed"}


@pytest.mark.parametrize("part", FAULTS, ids=lambda part: part.__name__)
def test_each_fault_fails_exactly_its_check(part):
    found = failed(check_part(part))
    assert set(found) == {FAULTS[part]}, found
    assert all(found.values())


def test_there_are_faults_enough():
    assert len(FAULTS) >= 20


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
