"""``contrastive compare``: recipes over seeds, with intervals, paired differences and a report.

``plan`` says what is compared, ``training`` runs what is not there, ``results`` gathers the figures by means
of ``statistics``, and ``table`` and ``report`` (with ``plots`` and ``pictures``) show them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from contrastive.commands.compare.candidates import Candidate, plan
from contrastive.commands.compare.findings import gather, to_csv
from contrastive.commands.compare.pictures import pictures
from contrastive.commands.compare.report import render
from contrastive.commands.compare.runner import MARK, train, write_recipes
from contrastive.commands.compare.tables import tables
from contrastive.errors import UsageError
from contrastive.files import write_whole
from contrastive.registry import load_registry


@dataclass(frozen=True)
class Comparison:
    """A finished comparison: its folder, what was found, it as tables, and the runs that failed."""

    folder: Path
    comparison: dict[str, Any]
    tables: list[Table]
    failed: list[str]


def compare(
    targets: Sequence[str],
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    seeds: int = 3,
    out: str | Path | None = None,
    log: Callable[[str], None] = print,
) -> Comparison:
    """Run what has not been run, then compare; writes ``report.html``, ``runs.csv`` and ``comparison.json``.

    Args:
        targets: recipe files, names of shipped recipes, grid files, folders of finished runs; all are
            compared with the first.
        overrides: ``--set`` overrides of every recipe.
        seeds: how many each recipe gets.
        out: the comparison's folder, by default ``comparisons/<names>-<8 hex>``.
        log: where progress is told.

    Raises:
        RecipeError: every mistake of every recipe at once, before anything is trained.
        UsageError: what cannot be ranked, or an ``out`` that holds something else.
        Interrupted: Ctrl-C or SIGTERM, after saving.
        ContrastiveError: all runs of a recipe failed.
    """
    if seeds < 1:
        raise UsageError(f"--seeds is {seeds}; say how many, 1 or more.")
    registry = load_registry()
    candidates = plan([str(target) for target in targets], seeds, registry, overrides)
    folder = _admitted(
        Path(out)
        if out is not None
        else Path("comparisons") / _name([str(target) for target in targets], candidates)
    )
    failed = train(candidates, folder, log)
    comparison = gather(candidates, failed)
    comparison |= {"report": str(folder / "report.html"), "csv": str(folder / "runs.csv")}
    write_recipes(candidates, folder)
    write_whole(folder / "comparison.json", json.dumps(comparison, indent=2) + "\n")
    write_whole(folder / "runs.csv", to_csv(comparison))
    write_whole(folder / "report.html", render(comparison, pictures(comparison, registry, log)))
    return Comparison(folder, comparison, tables(comparison), failed)


def _name(targets: Sequence[str], candidates: Sequence[Candidate]) -> str:
    """From what was named; the digest of runs and evaluation keeps other seeds and overrides apart."""
    names = "-vs-".join(Path(target).resolve().name.removesuffix(".yaml") for target in targets)
    runs = sorted(str(folder) for candidate in candidates for folder in candidate.folders.values())
    evaluations = [candidate.recipe.get("evaluate") for candidate in candidates]
    digest = hashlib.sha256(json.dumps([runs, evaluations]).encode()).hexdigest()[:8]
    return f"{names if len(names) <= 60 else names[:57] + '...'}-{digest}"


def _admitted(folder: Path) -> Path:
    """The folder, if what we write there replaces nothing but an earlier comparison."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder with --out.")
    ours = any((folder / name).is_file() for name in (MARK, "comparison.json"))
    if folder.is_dir() and any(folder.iterdir()) and not ours:
        raise UsageError(f"{folder} holds what no comparison wrote; name a new or empty folder with --out.")
    return folder
