"""The conformance kit: checks of what every part promises, for any plugin.

``contrastive plugin check NAME_OR_PATH`` prints the results. In a plugin's own tests::

    @pytest.mark.parametrize("check", contrastive.testing.checks("my-loss"), ids=str)
    def test_conformance(check):
        check()

``docs/conformance.md`` lists every check.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contrastive.registry import Entry
from contrastive.testing.framework import (
    AnySubject,
    PartCheck,
    Result,
    bind_checks,
    checks_of,
)
from contrastive.testing.rules import (
    augmentation,
    callback,
    dataset,
    encoder,
    every_part,
    loss,
    negatives,
    optimizer,
    protocol,
    step,
    target,
)
from contrastive.testing.subjects import Params, Subject, plugin_of, subject_of

#: Every check, in the order in which they run.
CHECKS = checks_of(
    every_part,
    dataset,
    augmentation,
    encoder,
    loss,
    target,
    negatives,
    step,
    optimizer,
    callback,
    protocol,
)


def part_checks(part: type | Entry, params: Params = None) -> list[PartCheck]:
    """The checks of one part, by its class or its entry in a registry.

    ``params`` are its recipe parameters, or a function from an empty folder to them; None for its own
    ``example``.
    """
    return bind_checks(subject_of(part, params), CHECKS)


def check_part(part: type | Entry, params: Params = None) -> list[Result]:
    """The results of :func:`part_checks`."""
    return [check.result() for check in part_checks(part, params)]


def checks(plugin: Any, quick: bool = False) -> list[PartCheck]:
    """The checks of a plugin and of each of its parts.

    Args:
        plugin: the name of an installed distribution, the folder of a package with a pyproject.toml, or a
            module or object with hooks.
        quick: whether to skip the checks that take seconds each.

    Raises UsageError if there is no such plugin.
    """
    subject = plugin_of(str(plugin) if isinstance(plugin, Path) else plugin)
    subjects: list[AnySubject] = [subject, *(Subject(entry, subject.registry) for entry in subject.entries)]
    return [check for one in subjects for check in bind_checks(one, CHECKS, quick)]


def check_plugin(plugin: Any, quick: bool = False) -> list[Result]:
    """The results of :func:`checks`."""
    return [check.result() for check in checks(plugin, quick)]
