"""How runs end in tests: without two things that take a third of the time of a tiny run.

These are the report that ``contrastive run`` writes, and the metrics of views. Tests that look at them let
runs end as for a user. Runs in processes of their own always do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from contrastive.commands import run as command
from contrastive.commands.report.command import report_at_end
from contrastive.runs import summary
from contrastive.runs.summary import views_of


@contextmanager
def short_ends() -> Iterator[None]:
    """Runs of this process end without a report, and as if no image could be read for views."""
    with mock.patch.object(command, "report_at_end"), mock.patch.object(summary, "views_of", return_value={}):
        yield


@contextmanager
def whole_ends() -> Iterator[None]:
    """Runs of this process end as for a user, within :func:`short_ends` too."""
    with (
        mock.patch.object(command, "report_at_end", report_at_end),
        mock.patch.object(summary, "views_of", views_of),
    ):
        yield
