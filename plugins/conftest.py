"""Which checks of the conformance kit the default run leaves out for our own plugins."""

from __future__ import annotations

import pytest


def pytest_itemcollected(item: pytest.Item) -> None:
    """Leave the check of a plugin's import to ``.ci/run``: it starts a process, which takes seconds."""
    callspec = getattr(item, "callspec", None)  # of a parametrised test
    check = None if callspec is None else callspec.params.get("check")
    if check is not None and check.check.name == "import":
        item.add_marker(pytest.mark.ci)
