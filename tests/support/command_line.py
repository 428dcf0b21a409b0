"""Commands as a user calls them: what ``--json`` prints, and how a command is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from contrastive.cli import main


def json_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What a command prints under --json: one object on standard output and nothing else."""
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """The message of a refused command, which has written nothing and shows no traceback."""
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert main(list(arguments)) == code
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert sorted(Path().rglob("*")) == before
    return shown.err
