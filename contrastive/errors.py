"""Errors as interface: one clear sentence, the location, the remedy, the exit code.

Every mistake a user can make raises a subclass of :class:`ContrastiveError`; the command line
prints its message without a traceback and exits with ``exit_code``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


class ContrastiveError(Exception):
    """The run failed for a reason that fits into one sentence."""

    exit_code = 1


class UsageError(ContrastiveError):
    """The command or the recipe is wrong."""

    exit_code = 2


class PluginError(ContrastiveError):
    """A plugin is broken or missing."""

    exit_code = 3


class Interrupted(ContrastiveError):  # noqa: N818 - what the user requested is not an error
    """Ctrl-C or SIGTERM, after saving."""

    exit_code = 130


@dataclass(frozen=True, order=True)
class Where:
    """A location in a recipe: file (or ``--set`` and its key), 1-based line and column."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    @property
    def override(self) -> str:
        """The dotted path that ``--set`` names; empty for a location in a file."""
        return self.file.removeprefix("--set ") if self.file.startswith("--set ") else ""


@dataclass(frozen=True, order=True)
class Mistake:
    """One mistake in a recipe: its location, the key (dotted path), what is wrong and the remedy."""

    where: Where
    path: str
    message: str

    def __str__(self) -> str:
        """One line, with everything a terminal would act on (escape sequences, line breaks) escaped."""
        path = self._path_beyond_override()
        text = f"{self.where}  {path}: {self.message}" if path else f"{self.where}  {self.message}"
        return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)

    def _path_beyond_override(self) -> str:
        """The path, without the steps that the key of ``--set`` names already."""
        override = self.where.override
        if f"{override}.".startswith(f"{self.path}."):
            return ""
        return self.path.removeprefix(f"{override}.") if override else self.path


class RecipeError(UsageError):
    """All mistakes of a recipe at once."""

    def __init__(self, mistakes: Sequence[Mistake]):
        self.mistakes = sorted(set(mistakes))
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))

    def __reduce__(self) -> tuple[type[RecipeError], tuple[list[Mistake]]]:
        return type(self), (self.mistakes,)  # must survive pickling between processes


class Mistakes:
    """The errors of several recipes, collected within a ``with`` block and raised at its end: mistakes first,
    then what failed in plugins."""

    def __init__(self) -> None:
        self._mistakes: list[Mistake] = []
        self._failed: list[PluginError] = []

    @contextmanager
    def of_one(self) -> Iterator[None]:
        """Collect the errors of one recipe, and continue with the next."""
        try:
            yield
        except RecipeError as error:
            self._mistakes += error.mistakes
        except PluginError as error:
            self._failed.append(error)

    def __enter__(self) -> Mistakes:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None:
            return
        failed = "\n".join(dict.fromkeys(map(str, self._failed)))
        if self._mistakes and failed:
            raise UsageError(f"{RecipeError(self._mistakes)}\n{failed}") from self._failed[0]
        if self._mistakes:
            raise RecipeError(self._mistakes)
        if failed:
            raise PluginError(failed) from self._failed[0]


class DataError(UsageError):
    """The data a recipe names is missing, empty or unreadable; the message names the path and the remedy."""


class SizeError(UsageError):
    """A network cannot take images of the size that the augmentation produces."""


class UnreadableImage(Exception):  # noqa: N818 - the loader counts and replaces it; the run does not fail
    """One image that does not decode; the loader reports it, counts it and uses another.

    Attributes:
        name: how the user knows the image (a relative path, a row).
        reason: why it does not decode, in a few words.
    """

    def __init__(self, name: str, reason: str):
        self.name, self.reason = name, reason
        super().__init__(name, reason)  # both arguments: must survive pickling between processes

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def one_line(error: BaseException) -> str:
    """An exception of third-party code in one line: its type, and the first line of its message."""
    return f"{type(error).__name__}: {error}".rstrip(": ").splitlines()[0]


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the most similar of ``names``, or an empty string."""
    near = difflib.get_close_matches(word, sorted(names), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""
