"""Run benchmarks, print their tables, and keep them as Markdown and JSON.

python -m benchmarks                       every one (about an hour and a half on two cores)
python -m benchmarks losses augmentation   some
python -m benchmarks --quote docs/performance.md   put the tables kept so far between the page's markers
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.harness import Row, environment, markdown

#: Modules of this package, each with a function ``rows()`` that yields what it measures.
NAMES = (
    "augmentation",
    "chunks",
    "decoding",
    "end_to_end",
    "fidelity",
    "knn",
    "losses",
    "losses_large",
    "startup",
)

#: Where the page of performance holds the table of a benchmark.
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)


def quoted(page: str, results: Path) -> str:
    """``page`` with each marked table as the JSON in ``results`` has it; those not measured stay."""

    def fill(match: re.Match[str]) -> str:
        file = results / f"{match[2]}.json"
        if not file.is_file():
            return match[0]
        content = json.loads(file.read_text())
        rows = [Row(**{k: v for k, v in row.items() if k != "met"}) for row in content["rows"]]
        return f"{match[1]}{markdown(rows)}\n{machine(content['environment'])}\n{match[3]}"

    return MARKED.sub(fill, page)


def machine(environment: dict[str, Any]) -> str:
    """One line: processor, cores, versions, commit."""
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items() if version)
    return (
        f"{environment['processor']}, {environment['cores']} cores; Python {environment['python']}, "
        f"{versions}; commit {environment['commit']}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all if none")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the tables")
    parser.add_argument("--quote", type=Path, metavar="PAGE", help="only put kept tables into PAGE")
    arguments = parser.parse_args()
    if arguments.quote:
        arguments.quote.write_text(quoted(arguments.quote.read_text(), arguments.out))
        return
    unknown = set(arguments.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or NAMES:
        rows = list(import_module(f"benchmarks.{name}").rows())
        table = markdown(rows)
        print(f"## {name}\n\n{table}", flush=True)
        (arguments.out / f"{name}.md").write_text(table)
        content = {"environment": environment(), "rows": [{**asdict(row), "met": row.met} for row in rows]}
        (arguments.out / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
