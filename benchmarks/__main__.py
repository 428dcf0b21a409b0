"""Run benchmarks, print their tables, and keep them as Markdown and JSON.

python -m benchmarks                       every one (about half an hour on two cores)
python -m benchmarks losses augmentation   some
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from benchmarks.harness import environment, markdown

#: Modules of this package, each with a function ``rows()`` that yields what it measures.
NAMES = ("augmentation", "fidelity")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all if none")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the tables")
    arguments = parser.parse_args()
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
