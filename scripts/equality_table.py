"""How equal every method is to a plain script of its paper, after three steps in float64.

python scripts/equality_table.py          print the table
python scripts/equality_table.py --page   put it into docs/methods/proofs.md
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pages import put

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins" / "contrastive-masked" / "tests")]

from tests.papers import (  # noqa: E402
    test_candidates,
    test_clusters,
    test_cmae,
    test_dense,
    test_mixtures,
    test_teachers,
)
from tests.papers.proofs import PROOFS  # noqa: E402
from tests.papers.side_by_side import Differences  # noqa: E402

import test_masked_papers  # noqa: E402  # isort: skip

PAGE = ROOT / "docs" / "methods" / "proofs.md"
MARK = "proofs"
#: Authors and year in a recipe's first line, in brackets and perhaps with a word before or after them.
PAPER = re.compile(r"((?:da )?[A-ZÀ-Ý]\w+ (?:et al\. |and [A-ZÀ-Ý]\w+ )?\d{4}\w?)")


class Row(NamedTuple):
    """A recipe, its paper, the script that it equals (a function of a file), and the comparison."""

    recipe: str
    script: str
    compare: Callable[[], Differences]

    @property
    def paper(self) -> str:
        """As the recipe's first line cites it; a dash if it is nobody's."""
        line = (ROOT / "recipes" / f"{self.recipe}.yaml").read_text(encoding="utf-8").splitlines()[0]
        return ", ".join(PAPER.findall(line)) or "-"

    @property
    def link(self) -> str:
        """To the script's file, from the page."""
        file, function = self.script.rsplit(".", 1)
        folder = "plugins/contrastive-masked/tests" if file == "masked_scripts" else "tests/papers"
        return f"[`{function}`](../../{folder}/{file}.py)"


def rows(folder: Path) -> Iterator[Row]:
    """Every proven recipe, in the order of their names; teachers are exported into ``folder``."""
    scripts = {
        **{name: f"clusters_scripts.{name}" for name in test_clusters.OVERRIDES},
        **{name: f"dense_scripts.{name}" for name in test_dense.OVERRIDES},
        **{name: f"masked_scripts.{name}" for name in test_masked_papers.OVERRIDES},
        "simclr_mae": "masked_scripts.mae",
        "cmae": "cmae_script.cmae",
        "mochi": "candidates_scripts.MoCHi",
        "guided": "candidates_scripts.guided_simclr",
        "distill": "teachers_scripts.distill",
        "dinov2_gram": "teachers_scripts.gram",
        **{name: f"test_mixtures.{name}" for name in test_mixtures.SCRIPTS},
        **{name: proof.formula for name, proof in PROOFS.items()},
    }
    compare: dict[str, Callable[[], Differences]] = {
        **{name: partial(test_clusters.prove, name) for name in test_clusters.OVERRIDES},
        **{name: partial(test_dense.prove, name) for name in test_dense.OVERRIDES},
        **{name: partial(test_masked_papers.prove, name) for name in test_masked_papers.OVERRIDES},
        "cmae": test_cmae.prove,
        "mochi": test_candidates.prove_mochi,
        "guided": partial(test_candidates.prove_guided, 0.02, folder / "guide"),
        "distill": partial(test_teachers.prove_distill, 56, folder / "teacher"),
        "dinov2_gram": test_teachers.prove_gram,
        **{name: partial(test_mixtures.prove, name) for name in test_mixtures.SCRIPTS},
        **{name: partial(proof.run, name) for name, proof in PROOFS.items()},
    }
    for name in sorted(compare):
        yield Row(name, scripts[name], compare[name])


def line(row: Row) -> str:
    """Of the table; runs the comparison, which fails if method and script differ by more than rounding."""
    differences = row.compare()
    return (
        f"| `{row.recipe}` | {row.paper} | {row.link} | {differences.loss:.0e} | {differences.weights:.0e} |"
    )


def table(announce: Callable[[str], None] = lambda name: None) -> str:
    """Of all recipes; ``announce`` is called with the name of each before it runs."""
    lines = ["| recipe | paper | script | largest difference: loss | weights |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(Path(folder)):
            announce(row.recipe)
            lines.append(line(row))
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--page", action="store_true", help="put it into the page")
    arguments = parser.parse_args()
    text = table(lambda name: print(name, file=sys.stderr, flush=True))
    if arguments.page:
        PAGE.write_text(put(PAGE.read_text(encoding="utf-8"), MARK, text), encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
