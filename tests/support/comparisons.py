"""``contrastive compare`` as its tests call it, and accuracies of made-up runs."""

from __future__ import annotations

import json
from pathlib import Path

from contrastive.cli import main

BASE, BETTER = [0.80, 0.82, 0.81], [0.851, 0.869, 0.862]


def compared(capsys, *arguments: str) -> dict:
    """What ``compare --json`` prints, its only output there."""
    assert main(["compare", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments: str) -> str:
    """The error of a comparison that is refused before it writes anything."""
    assert main(["compare", *arguments]) == 2
    assert not Path("comparisons").exists()
    return capsys.readouterr().err
