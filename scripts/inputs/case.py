"""Cases: inputs, the command lines that read them, and whether the outcome is right."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inputs.writing import Builder

#: The lettered faults, in the order of the table, and what each is about.
FAULTS = {
    "1a": "which folder is which split",
    "1b": "images in no split",
    "1c": "validation splits",
    "1d": "names that do not exist",
    "1e": "labels that miss the held-out tenth",
    "1f": "a single class",
    "1g": "other label columns",
    "1h": "an unreadable test split",
    "1i": "types of table columns",
    "2a": "PNG with a transparent colour",
    "2b": "32-bit TIFF",
    "2c": "WhiteIsZero",
    "2d": "TIFF of other bands and types",
    "2e": "other formats",
    "2f": "files left out, by command",
    "2g": "phone and camera formats",
    "2h": "variables in paths",
    "3": "exported encoder and evaluation",
    "4a": "checkpoints of other programs",
    "4b": "position embeddings and channels",
    "4c": "pretrained tags and hub names",
    "4d": "data at another path",
    "4e": "maps without a space",
}


class Verdict(NamedTuple):
    """Whether an outcome is right, and what it shows."""

    right: bool
    evidence: str


@dataclass(frozen=True)
class Call:
    """A command line that has run: its exit code (None after a timeout) and its output."""

    command: Sequence[str]
    code: int | None
    output: str
    errors: str

    @property
    def text(self) -> str:
        """Everything it printed, in one line."""
        return " ".join((self.output + " " + self.errors).split())

    @property
    def crash(self) -> bool:
        """Whether it ended otherwise than by success or by a sentence about a mistake of the user."""
        return self.code not in (0, 2) or "Traceback" in self.text

    def json(self) -> Any:
        """The JSON object on its standard output; an empty one if there is none."""
        try:
            return json.loads(self.output)
        except ValueError:
            return {}


class Outcome:
    """What an attempt left: the calls, and the files in its folder.

    Attributes:
        folder: where it ran.
        calls: its command lines; fewer than planned if the first failed.
    """

    def __init__(self, folder: Path, calls: Sequence[Call]):
        self.folder, self.calls = folder, calls

    def call(self, index: int = -1) -> Call:
        """One of the calls; one without an exit code if it did not run."""
        try:
            return self.calls[index]
        except IndexError:
            last = self.calls[-1].text[-300:] if self.calls else ""
            return Call((), None, "", f"did not run, since the call before failed: {last}")

    def report(self, index: int = -1) -> dict[str, Any]:
        """The report of ``check --json`` on its one recipe."""
        reports = self.call(index).json().get("recipes") or [{}]
        return reports[0]

    def summary(self, run: str = "o") -> dict[str, Any]:
        return self._json(f"{run}/summary.json")

    def environment(self, run: str = "o") -> dict[str, Any]:
        return self._json(f"{run}/environment.json")

    def metrics(self, run: str = "o") -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        path = self.folder / run / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def _json(self, path: str) -> dict[str, Any]:
        file = self.folder / path
        return json.loads(file.read_text()) if file.is_file() else {}

    def features(self, file: str = "f.parquet") -> dict[str, list[Any]]:
        """The table that ``embed`` wrote; empty if it wrote none."""
        import pyarrow.parquet as pq

        path = self.folder / file
        return (
            pq.read_table(path).to_pydict() if path.is_file() else {"name": [], "label": [], "features": []}
        )

    @cached_property
    def pixels(self) -> Mapping[str, np.ndarray]:
        """What an encoder called CAMERA was shown, by name: float [16, 16, 3] from 0 to 255."""
        return self.pixels_in("f.parquet")

    def pixels_in(self, file: str, run: str = "o") -> dict[str, np.ndarray]:
        """The pixels behind the features in a table of ``embed``: its encoder is linear and invertible."""
        from safetensors.numpy import load_file

        table, weights = self.features(file), self.folder / run / "backbone" / "model.safetensors"
        if not table["name"] or not weights.is_file():
            return {}
        state = load_file(weights)
        kernel = state["patch_embed.proj.weight"].reshape(len(state["patch_embed.proj.bias"]), -1)
        values = np.array(table["features"]) - state["patch_embed.proj.bias"]
        solution = np.linalg.lstsq(kernel, values.T, rcond=None)[0].T * 255
        images = solution.reshape(-1, 3, 16, 16).transpose(0, 2, 3, 1)
        return dict(zip(table["name"], images, strict=True))


Judge = Callable[[Outcome], Verdict]
#: Arguments of ``contrastive``; of the interpreter if the first begins with ``-``; or a change of the folder.
Step = Sequence[str] | Builder


@dataclass(frozen=True)
class Attempt:
    """Inputs in a folder and the steps that are run there; several cases may share one.

    Attributes:
        build: writes the inputs.
        steps: run in order; if the first command fails, the rest is left out.
        variables: of the environment; ``{folder}`` stands for the folder.
    """

    build: Builder
    steps: tuple[Step, ...]
    variables: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Case:
    """An input of a lettered fault, and how to judge what was done with it."""

    fault: str
    name: str
    attempt: Attempt
    judge: Judge

    @property
    def key(self) -> str:
        return f"{self.fault} {self.name}"


class Cases(list[Case]):
    """The cases of a module."""

    def add(
        self,
        fault: str,
        name: str,
        build: Builder,
        judge: Judge,
        *steps: Step,
        variables: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """Add a case with an attempt of its own: by default ``check --json`` of its recipe."""
        self.append(Case(fault, name, Attempt(build, steps or (CHECK,), variables), judge))


CHECK = ("check", "r.yaml", "--json")
RUN = ("run", "r.yaml", "--out", "o")


# -- judges -------------------------------------------------------------------------------------------


def reads(index: int = -1, labels: bool | None = None, **counts: int | None) -> Judge:
    """``check`` succeeds and counts these images per split (None: the split is absent)."""

    def judge(outcome: Outcome) -> Verdict:
        call, report = outcome.call(index), outcome.report(index)
        images = report.get("images", {})
        if call.code != 0:
            return Verdict(False, shorten(call.text))
        right = all((images.get(split) or None) == count for split, count in counts.items())
        right = right and labels in (None, bool(report.get("labels")))
        return Verdict(right, f"images {images}, labels {report.get('labels')}")

    return judge


def refuses(*patterns: str, index: int = -1) -> Judge:
    """The command ends with exit code 2, and its message matches all patterns."""
    return mentions(*patterns, index=index, code=2)


def mentions(*patterns: str, index: int = -1, code: int | None = None) -> Judge:
    """The output matches all patterns, whatever the exit code (or with this one)."""

    def judge(outcome: Outcome) -> Verdict:
        call = outcome.call(index)
        right = code in (None, call.code) and all(_matches(pattern, call.text) for pattern in patterns)
        return Verdict(right, f"exit {call.code}: {shorten(call.text)}")

    return judge


def silent_about(*patterns: str, index: int = -1) -> Judge:
    """The output matches none of the patterns."""

    def judge(outcome: Outcome) -> Verdict:
        text = outcome.call(index).text
        return Verdict(not any(_matches(pattern, text) for pattern in patterns), shorten(text))

    return judge


def succeeds(index: int = -1) -> Judge:
    """The command ends with exit code 0."""
    return mentions(index=index, code=0)


def either(*judges: Judge) -> Judge:
    """One of the judges is satisfied; otherwise the evidence is that of the first."""

    def judge(outcome: Outcome) -> Verdict:
        verdicts = [one(outcome) for one in judges]
        return next((verdict for verdict in verdicts if verdict.right), verdicts[0])

    return judge


def both(*judges: Judge) -> Judge:
    """All judges are satisfied; otherwise the evidence is that of the first that is not."""

    def judge(outcome: Outcome) -> Verdict:
        verdicts = [one(outcome) for one in judges]
        return next((verdict for verdict in verdicts if not verdict.right), verdicts[-1])

    return judge


def scores(*metrics: str, run: str = "o") -> Judge:
    """The run ends with these metrics of the trained encoder (prefixes of their names)."""

    def judge(outcome: Outcome) -> Verdict:
        trained = outcome.summary(run).get("trained", {})
        right = all(any(name.startswith(metric) for name in trained) for metric in metrics)
        return Verdict(right and outcome.call(0).code == 0, f"{trained} {shorten(outcome.call(0).text)}")

    return judge


def number(value: int) -> str:
    """A pattern for a whole number that is not a part of another."""
    return rf"(?<![\d.,]){value}(?![\d]|[.,]\d)"


def shorten(text: str, length: int = 400) -> str:
    """The beginning and the end of a text."""
    half = length // 2
    return text if len(text) <= length else f"{text[:half]} ... {text[-half:]}"


def _matches(pattern: str, text: str) -> bool:
    return re.search(pattern, text, re.IGNORECASE) is not None
