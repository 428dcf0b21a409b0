"""What a check is, how it runs, and the result it gives.

A check is a small function of a :class:`~contrastive.testing.subjects.Subject`. The first line of its
docstring is the promise that it checks. It returns if the part keeps the promise, and otherwise raises
:class:`CheckFailed` with one sentence for the author.
"""

from __future__ import annotations

import inspect
import traceback
import unittest
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NoReturn, Protocol

from contrastive.errors import ContrastiveError, one_line
from contrastive.kinds import KINDS
from contrastive.testing.surroundings import isolated_state

#: Increased whenever a check is added or becomes stricter: a part that passed before may then fail.
VERSION = 5

#: Begins the note that the kit's run adds to an exception of a callback: at which step it was raised.
STEP_NOTE = "at step "

#: The kind of a check that concerns a plugin as a whole rather than one of its parts.
PLUGIN = "plugin"
STEP_PARTS = ("backbone", "head", "target", "negatives", "loss")
EVERY_KIND = tuple(KINDS)

Status = Literal["passed", "failed", "skipped"]


class CheckFailed(AssertionError):  # noqa: N818 - reads as what pytest prints
    """A part breaks a promise; the message names the promise and the remedy."""


class Skipped(unittest.SkipTest):
    """A check does not apply, or cannot run. pytest reports it as skipped."""


class _Blocking(Skipped):
    """A check did not run, so neither do those that depend on it.

    Args:
        reason: of this one.
        cause: the reason of those that depend on it, in a clause.
    """

    def __init__(self, reason: str, cause: str):
        super().__init__(reason)
        self.cause = cause


def fail(reason: str) -> NoReturn:
    raise CheckFailed(reason)


def require(condition: Any, reason: str) -> None:
    """Raise CheckFailed with ``reason`` unless ``condition`` holds."""
    if not condition:
        raise CheckFailed(reason)


def skip(reason: str) -> NoReturn:
    raise Skipped(reason)


class AnySubject(Protocol):
    """What a check runs on: a part, or a plugin as a whole."""

    kind: str

    @property
    def title(self) -> str: ...
    @property
    def unchecked(self) -> Mapping[str, str]: ...
    @property
    def source(self) -> str | None: ...


#: Check -> its former name, by which a plugin may still declare it ``unchecked``.
FORMER_NAMES = {"metrics": "figures", "once per step": "once a step"}


@dataclass(frozen=True)
class Check:
    """One promise of a part, and the function that checks it.

    Attributes:
        name: as the table and pytest's ids show it.
        kinds: the kinds of parts that it applies to.
        run: the function.
        after: checks that this one depends on; if one of them fails or does not run, it is skipped.
        is_slow: whether it takes seconds, so that ``plugin check --quick`` leaves it out.
    """

    name: str
    kinds: tuple[str, ...]
    run: Callable[[Any], None]
    after: tuple[str, ...] = ()
    is_slow: bool = False

    @property
    def asked(self) -> str:
        """The promise that is checked, in one sentence."""
        return inspect.cleandoc(self.run.__doc__ or "").partition("\n")[0]


def check(
    name: str, *kinds: str, after: tuple[str, ...] = (), is_slow: bool = False
) -> Callable[[Callable[[Any], None]], Check]:
    """Make a function of a subject a :class:`Check` for these kinds."""
    return lambda function: Check(name, kinds, function, after, is_slow)


def checks_of(*modules: ModuleType) -> tuple[Check, ...]:
    """The checks that modules define, in the order of their source."""
    return tuple(value for module in modules for value in vars(module).values() if isinstance(value, Check))


@dataclass(frozen=True)
class Result:
    """The result of one check: ``part`` is ``loss my_loss``, ``asked`` the promise that was checked."""

    part: str
    check: str
    status: Status
    reason: str = ""
    asked: str = ""


class PartCheck:
    """A check bound to a part.

    Calling it raises :class:`CheckFailed`, or ``unittest.SkipTest`` if it does not apply. ``str`` gives
    ``loss my_loss: gradients``.
    """

    def __init__(
        self, subject: AnySubject, check: Check, siblings: Mapping[str, PartCheck], quick: bool = False
    ):
        self.subject, self.check, self._siblings, self._quick = subject, check, siblings, quick
        self._exception: BaseException | None = None
        self._has_run = False

    def __str__(self) -> str:
        return f"{self.subject.title}: {self.check.name}"

    __repr__ = __str__

    def __call__(self) -> None:
        result = self.result()
        if result.status == "failed":
            raise CheckFailed(f"{self}: {result.reason}") from self._exception
        if result.status == "skipped":
            raise Skipped(result.reason)

    def result(self) -> Result:
        """The result, without raising; the check runs once."""
        if not self._has_run:
            self._exception, self._has_run = self._run(), True
        exception = self._exception
        status: Status = (
            "passed" if exception is None else "skipped" if isinstance(exception, Skipped) else "failed"
        )
        reason = "" if exception is None else _explanation(exception, self.subject.source)
        return Result(self.subject.title, self.check.name, status, reason, self.check.asked)

    def _run(self) -> BaseException | None:
        try:
            self._require_unblocked()
            with isolated_state():
                self.check.run(self.subject)
        except (Exception, SystemExit) as error:  # any exception of a part is a finding, never a crash
            return error
        return None

    def _require_unblocked(self) -> None:
        """Raise _Blocking if this check is declared unchecked or left out, or one before it did not pass."""
        name = self.check.name
        for declared_name in (name, FORMER_NAMES.get(name, "")):
            if declared_name in self.subject.unchecked:
                reason = f"not checked: {self.subject.unchecked[declared_name]}"
                raise _Blocking(reason, f"'{name}' is not checked")
        for prerequisite in self.check.after:
            if prerequisite in self._siblings and (cause := self._siblings[prerequisite].obstacle()):
                raise _Blocking(f"not run, because {cause}", cause)
        if self._quick and self.check.is_slow:
            raise _Blocking("left out by --quick", f"'{name}' is left out by --quick")

    def obstacle(self) -> str | None:
        """Why checks that depend on this one cannot run, in a clause; None if they can."""
        self.result()
        if isinstance(self._exception, _Blocking):
            return self._exception.cause
        if self._exception is None or isinstance(self._exception, Skipped):
            return None
        return f"'{self.check.name}' failed"


def bind_checks(subject: AnySubject, checks: tuple[Check, ...], quick: bool = False) -> list[PartCheck]:
    """The checks that apply to ``subject``'s kind, bound to it; ``quick`` skips those that take seconds."""
    siblings: dict[str, PartCheck] = {}
    for check in checks:
        if subject.kind in check.kinds:
            siblings[check.name] = PartCheck(subject, check, siblings, quick)
    return list(siblings.values())


def _explanation(error: BaseException, source: str | None) -> str:
    """One sentence for the author; for an exception inside the part's code, its text and line."""
    if isinstance(error, CheckFailed | Skipped):
        return str(error)
    location = _location(error, source)
    if isinstance(error, ContrastiveError) and location is None:
        return str(error)
    steps = [note for note in getattr(error, "__notes__", []) if note.startswith(STEP_NOTE)]
    return " ".join([f"it raises {one_line(error)}", *([location] if location else []), *steps])


def _location(error: BaseException, source: str | None) -> str | None:
    """``in step_done (file.py, line 12)`` of the innermost line of the part's own file."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if source is not None and frame.filename == source]
    if not own:
        return None
    frame = own[-1]
    function = "" if frame.name.startswith("<") else f"in {frame.name} "
    return f"{function}({Path(frame.filename).name}, line {frame.lineno})"
