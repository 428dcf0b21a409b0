"""Where a step's time goes, as a table of docs/performance.md.

python scripts/step_time.py           print it
python scripts/step_time.py --page    put it between the page's markers

``CONTRASTIVE_CIFAR10`` names the data set's folder, as for ``python -m benchmarks end_to_end``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pages import put

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.end_to_end import cifar10  # noqa: E402
from benchmarks.step_time import table  # noqa: E402

PAGE, MARK = ROOT / "docs" / "performance.md", "step time"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", action="store_true", help=f"rewrite it in {PAGE.name}")
    goes_on_page, dataset = parser.parse_args().page, cifar10()
    if dataset is None:
        sys.exit(2)
    content = table(dataset)
    if goes_on_page:
        PAGE.write_text(put(PAGE.read_text(), MARK, content))
    else:
        print(content, end="")


if __name__ == "__main__":
    main()
