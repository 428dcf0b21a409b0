"""``contrastive compare``: recipes over seeds, with intervals, paired differences and a report.

The steps, each in a module of its own: ``candidates`` plans what is compared, ``runner`` trains the runs that
are missing, ``candidates.gather`` reads every run folder once (``records``), ``findings`` analyses them by
means of ``significance``. ``cells`` lays the tables out, ``tables`` shows them on a terminal, and ``report``
(with ``plots`` and ``pictures``) in a page.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contrastive.commands.compare.candidates import Candidate, gather, plan
from contrastive.commands.compare.cells import run_table
from contrastive.commands.compare.findings import analyse
from contrastive.commands.compare.pictures import pictures
from contrastive.commands.compare.records import Records
from contrastive.commands.compare.report import render
from contrastive.commands.compare.runner import MARK, train, write_recipes
from contrastive.commands.compare.tables import TerminalTable, tables
from contrastive.errors import UsageError
from contrastive.files import json_map, write_whole
from contrastive.pages import CellTable
from contrastive.registry import Registry, load_registry


@dataclass(frozen=True)
class Outcome:
    """What a comparison gave.

    Attributes:
        folder: where it is written.
        candidates: what was compared, with their finished runs.
        records: of these runs.
        comparison: the content of comparison.json.
        failures: a sentence for each run that failed.
    """

    folder: Path
    candidates: Sequence[Candidate]
    records: Records
    comparison: Mapping[str, Any]
    failures: Sequence[str]

    @property
    def tables(self) -> list[TerminalTable]:
        """The tables for a terminal, which rich prints."""
        return tables(self.comparison)


def compare(
    targets: Sequence[str],
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    seeds: int = 3,
    out: str | Path | None = None,
    log: Callable[[str], None] = print,
) -> Outcome:
    """Train the runs that are missing, then compare; writes ``report.html``, ``runs.csv`` and
    ``comparison.json``.

    Args:
        targets: recipe files, names of shipped recipes, grid files, folders of finished runs; the first is
            the baseline of all others.
        overrides: ``--set`` overrides of every recipe.
        seeds: number of seeds per recipe.
        out: folder of the comparison, by default ``comparisons/<names>-<8 hex>``.
        log: prints progress.

    Raises:
        RecipeError: every mistake of every recipe at once, before anything is trained.
        UsageError: the runs cannot be ranked, or ``out`` holds something else.
        Interrupted: Ctrl-C or SIGTERM, after saving.
        ContrastiveError: all runs of a recipe failed.
    """
    if seeds < 1:
        raise UsageError(f"--seeds is {seeds}; it must be 1 or more.")
    names = [str(target) for target in targets]
    registry = load_registry()
    candidates = plan(names, seeds, registry, overrides)
    folder = Path(out) if out is not None else Path("comparisons") / _folder_name(names, candidates)
    _require_free(folder)
    candidates, failures = train(candidates, folder, log)
    records = gather(candidates)
    comparison = analyse(candidates, records, failures)
    comparison |= {"report": str(folder / "report.html"), "csv": str(folder / "runs.csv")}
    outcome = Outcome(folder, candidates, records, comparison, failures)
    write(outcome, registry, log)
    return outcome


def write(outcome: Outcome, registry: Registry, log: Callable[[str], None] = print) -> None:
    """Write the recipes, comparison.json, runs.csv and report.html to the folder of the outcome."""
    folder, comparison = outcome.folder, outcome.comparison
    write_recipes(outcome.candidates, folder)
    write_whole(folder / "comparison.json", json.dumps(comparison, indent=2) + "\n")
    write_whole(folder / "runs.csv", to_csv(run_table(comparison, outcome.records)))
    write_whole(folder / "report.html", render(comparison, pictures(comparison, registry, log)))


def to_csv(table: CellTable) -> str:
    """The values of a table's cells, below its headings."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.title for column in table.columns])
    writer.writerows([cell.value for cell in row] for row in table.rows)
    return text.getvalue()


def _folder_name(targets: Sequence[str], candidates: Sequence[Candidate]) -> str:
    """The targets, and a digest of runs and evaluation that keeps other seeds and overrides apart."""
    names = "-vs-".join(Path(target).resolve().name.removesuffix(".yaml") for target in targets)
    runs = sorted(str(folder) for candidate in candidates for folder in candidate.folders.values())
    evaluations = [candidate.recipe.get("evaluate") for candidate in candidates]
    digest = hashlib.sha256(json.dumps([runs, evaluations]).encode()).hexdigest()[:8]
    return f"{names if len(names) <= 60 else names[:57] + '...'}-{digest}"


def _is_comparison(file: Path) -> bool:
    """Whether a file is the comparison.json of an early comparison, which left no mark."""
    content = json_map(file.read_bytes()) if file.is_file() else None
    return content is not None and {"confidence", "recipes", "figures"} <= content.keys()


def _require_free(folder: Path) -> None:
    """Raise UsageError if writing to the folder would replace anything but an earlier comparison."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder with --out.")
    ours = (folder / MARK).is_file() or _is_comparison(folder / "comparison.json")
    if folder.is_dir() and any(folder.iterdir()) and not ours:
        raise UsageError(
            f"{folder} holds files that no comparison wrote; name a new or empty folder with --out."
        )
