"""Run benchmarks, print their tables, and save them as Markdown and JSON.

python -m benchmarks                       every one (about an hour and a half on two cores)
python -m benchmarks losses augmentation   some
python -m benchmarks startup --against ../before   this checkout against another one of the project, no peers
python -m benchmarks --quote docs/performance.md   put the tables kept so far between the page's markers
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import against
from benchmarks.harness import ROOT, MeasurementError, Row, environment, markdown

#: Modules of this package, each with a function ``rows()`` that yields its measurements against peers and,
#: if it measures time, a function ``cases()`` that yields the work of ours that it times.
NAMES = (
    "augmentation",
    "chunks",
    "convolutions",
    "decoding",
    "end_to_end",
    "fidelity",
    "freed_memory",
    "knn",
    "losses",
    "losses_large",
    "masked",
    "precision",
    "probe",
    "progressive",
    "startup",
    "waiting",
)
#: What the benchmarks without a time measure.
WITHOUT_TIME = {"fidelity": "accuracy", "losses_large": "memory", "probe": "memory"}

#: The place of a benchmark's table in the page of performance.
TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)


def quote(page: str, results: Path) -> str:
    """``page`` with each marked table as the JSON in ``results`` has it; a table without JSON stays."""

    def fill(match: re.Match[str]) -> str:
        file = results / f"{match[2]}.json"
        if not file.is_file():
            return match[0]
        content = json.loads(file.read_text())
        rows = [row_from_json(row) for row in content["rows"]]
        return f"{match[1]}{markdown(rows)}\n{machine(content['environment'])}\n{match[3]}"

    return TABLE.sub(fill, page)


def row_from_json(content: dict[str, Any]) -> Row:
    """A row from a saved file; files of older commits have ``asked`` for ``target``, and ``of_low``."""
    values = {"target" if key == "asked" else key: value for key, value in content.items() if key != "met"}
    if values.pop("of_low", False):
        values["criterion"] = "low"
    return Row(**values)


def machine(environment: dict[str, Any]) -> str:
    """One line: processor, cores, versions, commit."""
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items() if version)
    return (
        f"{environment['processor']}, {environment['cores']} cores; Python {environment['python']}, "
        f"{versions}; commit {environment['commit']}."
    )


def rows_of(name: str, other: Path | None, scratch: Path) -> Iterator[Row]:
    """The rows of a benchmark: against its peers, or against the checkout ``other``."""
    module = f"benchmarks.{name}"
    if other is None:
        yield from import_module(module).rows()
    else:
        yield from against.rows(module, ROOT, other, scratch)


def measure(name: str, other: Path | None, folder: Path) -> list[Row]:
    """A benchmark's rows. Each is kept in ``folder`` once it is there, so that an end loses only the next."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        for row in rows_of(name, other, Path(scratch)):
            rows.append(row)
            print(f"{name}: {row.what}, {row.peer}: {row.ratio:.2f} x", file=sys.stderr)
            keep(folder, f"{name}-against" if other else name, rows, other)
    return rows


def names_to_run(names: list[str], other: Path | None) -> list[str]:
    """The benchmarks that these names mean. Raises MeasurementError if one of them has no time to compare."""
    if other is None:
        return names or list(NAMES)
    against.check_checkout(other)
    for name in names:
        if name in WITHOUT_TIME:
            raise MeasurementError(
                f"{name} measures {WITHOUT_TIME[name]}, not time, and --against compares times"
            )
    return names or [name for name in NAMES if name not in WITHOUT_TIME]


def keep(folder: Path, stem: str, rows: list[Row], other: Path | None) -> None:
    """Write a table as Markdown and, with the machine and the commits, as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.md").write_text(markdown(rows))
    content = {
        "environment": environment(),
        **({"against": {"path": str(other.resolve()), "commit": against.commit(other)}} if other else {}),
        "rows": [{**asdict(row), "met": row.is_met} for row in rows],
    }
    (folder / f"{stem}.json").write_text(json.dumps(content, indent=2) + "\n")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(NAMES)}; default: all")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the tables")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="PATH",
        help="time this checkout in turn with the one at PATH, without peers",
    )
    parser.add_argument("--quote", type=Path, metavar="PAGE", help="only write saved tables into PAGE")
    arguments = parser.parse_args(argv)
    if arguments.quote:
        arguments.quote.write_text(quote(arguments.quote.read_text(), arguments.out))
        return
    unknown = set(arguments.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    other = arguments.against
    try:
        for name in names_to_run(arguments.names, other):
            rows = measure(name, other, arguments.out)
            if not rows:
                print(f"{name}: nothing was timed", file=sys.stderr)
                continue
            title = f"{name} against {against.label(other)}" if other else name
            print(f"## {title}\n\n{markdown(rows)}", flush=True)
    except MeasurementError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
