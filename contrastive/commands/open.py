"""``contrastive open``: opens the report of a run or a comparison in a browser."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import webbrowser
from pathlib import Path

from contrastive.errors import UsageError


def main(arguments: argparse.Namespace) -> int:
    """Print the path of the page, and open it if there is a display."""
    page = page_of(arguments.folder)
    print(page, flush=True)
    if has_display():
        webbrowser.open(page.resolve().as_uri())
    return 0


def page_of(folder: str | Path) -> Path:
    """The report in a folder, or the file itself.

    Raises UsageError if there is none.
    """
    path = Path(folder)
    page = path / "report.html" if path.is_dir() else path
    if page.is_file() and page.suffix == ".html":
        return page
    if (path / "recipe.yaml").is_file():
        raise UsageError(f"{path} has no report; write it with `contrastive report {path}`.")
    listing = f"contrastive runs {shlex.quote(str(path))}" if path.is_dir() else "contrastive runs"
    raise UsageError(
        f"{path} is neither the folder of a run or of a comparison nor a page; list runs with `{listing}`."
    )


def has_display() -> bool:
    """Whether a browser of this machine can show something to the user."""
    if sys.platform == "darwin":
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
