"""The tables of docs/results.md that come from comparisons, most of them of recipes/studies.

python scripts/study_tables.py COMPARISONS docs/results.md

writes the content of COMPARISONS/<study>/comparison.json between the marks ``study: <study>`` of the page; a
study without a comparison keeps its table.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pages import put

from contrastive.commands.compare.cells import accuracy, difference
from contrastive.commands.compare.findings import Matrix, matrix
from contrastive.text import duration, metric_words, percent

Row = Mapping[str, Any]
#: Metrics that the tables leave out: they hardly differ from top1 on the balanced classes of these studies.
_NOT_SHOWN = ("_balanced", "_top5")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python scripts/study_tables.py", description=__doc__.splitlines()[0]
    )
    parser.add_argument("comparisons", type=Path, help="folder with one folder per study")
    parser.add_argument("page", type=Path)
    arguments = parser.parse_args()
    page = arguments.page.read_text()
    for study in re.findall(r"^<!-- study: (\S+) -->$", page, re.MULTILINE):
        file = arguments.comparisons / study / "comparison.json"
        if file.is_file():
            page = put(
                page, f"study: {study}", table(json.loads(file.read_text()), arguments.comparisons.parent)
            )
    arguments.page.write_text(page)


def table(comparison: Mapping[str, Any], root: Path) -> str:
    """Markdown: a matrix if the study has two axes, else a line per recipe; then where it comes from."""
    rows = comparison["recipes"]
    key, *more = (key for key in comparison["figures"] if not key.endswith(_NOT_SHOWN))
    grid = matrix(rows, key)
    lines = _matrix(grid) if grid else _lines(rows, key, more, comparison["features"])
    return "\n".join([*lines, "", _origin(comparison, root)]) + "\n"


def _lines(
    rows: Sequence[Row], key: str, more: Sequence[str], features: Sequence[Sequence[str]]
) -> list[str]:
    names = _names(rows)
    titles = ["recipe", metric_words(key), f"to {names[0]}", *(metric_words(other) for other in more)]
    titles += ["z to h"] if features else []
    lines = [_line(titles), _line("---" for _ in titles)]
    for name, row in zip(names, rows, strict=True):
        figures = row["figures"]
        cells = [f"`{name}`", accuracy(figures[key]), difference(figures[key].get("difference"))]
        cells += [accuracy(figures[other]) for other in more]
        cells += [difference(figures[z]["to_h"]) for _, z in features[:1]]
        lines.append(_line(cells))
    return lines


def _matrix(grid: Matrix) -> list[str]:
    axes = " / ".join("-".join(path.split(".")[-2:]) for path in grid.axes)
    lines = [_line([axes, *grid.across]), _line("---" for _ in ["", *grid.across])]
    cells = [["-" if mean is None else f"{100 * mean:.1f}" for mean in line] for line in grid.means]
    return lines + [_line([y, *line]) for y, line in zip(grid.down, cells, strict=True)]


def _origin(comparison: Mapping[str, Any], root: Path) -> str:
    """Seeds, floors, wall times, commits and fingerprints, one sentence each; of what was trained."""
    rows = [row for row in comparison["recipes"] if "stock" not in row]
    key = comparison["figures"][0]
    runs = [root / folder for row in rows for folder in row["runs"].values()]
    seconds = [json.loads((run / "summary.json").read_text())["wall_seconds"] for run in runs]
    environments = [json.loads((run / "environment.json").read_text()) for run in runs]
    commits = {str(environment["git_commit"])[:7] for environment in environments}
    floors = "; ".join(
        f"{name} {_range([row['floors'][floor][key] for row in rows])}"
        for floor, name in (("untrained", "untrained"), ("pixels", "raw pixels"))
        if rows[0]["floors"][floor][key] is not None
    )
    prints = [next(iter(row["runs"].values()))[-8:] for row in rows]
    if matrix(rows, key) is None:  # else in the order of the matrix
        prints = [f"{name} {print_}" for name, print_ in zip(_names(rows), prints, strict=True)]
    fewest, most = (pick(len(row["runs"]) for row in rows) for pick in (min, max))
    seeds = str(most) if fewest == most else f"{fewest} to {most}"
    return (
        f"{metric_words(key)} of {comparison['images']['scored']:,} images of {comparison['split']}, "
        f"{seeds} seed{'s' * (most > 1)}; {floors}. "
        f"Wall time of a run {duration(min(seconds))} to {duration(max(seconds))}, "
        f"of all {duration(sum(seconds))}; commit {', '.join(sorted(commits))}; "
        f"fingerprints of the first seed: {', '.join(prints)}."
    )


def _range(values: Sequence[float]) -> str:
    """``27.1 %``, or ``27.1 % to 30.2 %`` if recipes differ, as those of different encoders do."""
    least, greatest = percent(min(values)), percent(max(values))
    return least if least == greatest else f"{least} to {greatest}"


def _names(rows: Sequence[Row]) -> list[str]:
    """The names of the recipes, without that of the study before a dash if all begin with it."""
    names = [row["name"] for row in rows]
    studies = {name.partition("-")[0] for name in names}
    return [name.partition("-")[2] or name for name in names] if len(studies) == 1 else names


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
