"""The command line as a user meets it: exit codes, errors in one line, and nothing written by mistake."""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from pkgutil import resolve_name

import pytest

from contrastive import cli
from contrastive.cli import main
from contrastive.errors import UsageError
from tests.support.command_line import refused

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.mark.parametrize(
    "command", [["export", "RUN"], ["compare", "RUN"], ["plugin", "new", "my-loss", "--kind", "loss"]]
)
def test_a_place_that_cannot_be_written_is_told(
    command: list[str], tiny_run: Path, capsys: pytest.CaptureFixture[str]
):
    command = [str(tiny_run) if word == "RUN" else word for word in command]
    assert main([*command, "--out", "/proc/nowhere/x"]) == 2
    assert "error: /proc/nowhere/x cannot be written (" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["compare", "RUN", "--set", "train.epochs=3"],
            "--set and --minutes change recipes, but only finished runs are named",
        ),
        (["evaluate", "RUN", "--set", "train.epochs=4"], "--set train.epochs: the run is already trained"),
        (["embed", "RUN", "--out", "x", "--set", "loss.temperature=1"], "--set loss.temperature: the run"),
    ],
)
def test_what_would_change_nothing_of_a_finished_run_is_refused(
    arguments: list[str], told: str, tiny_run: Path, capsys: pytest.CaptureFixture[str]
):
    assert main([str(tiny_run) if word == "RUN" else word for word in arguments]) == 2
    assert told in capsys.readouterr().err


def test_a_name_that_the_terminal_cannot_show_is_escaped(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    Path("naïve.yaml").write_text(tiny_recipe.read_text())
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["check", "naïve.yaml"]) == 0
    terminal.flush()
    shown = terminal.buffer.getvalue()
    assert rb"na\xefve.yaml" in shown
    assert b"is valid" in shown
    assert not capsys.readouterr().err


@pytest.mark.parametrize("command", [["evaluate"], ["embed", "--out", "f.parquet"], ["export", "--out", "e"]])
def test_a_folder_that_is_no_encoder_is_refused(command: list[str], capsys: pytest.CaptureFixture[str]):
    Path("data").mkdir()
    assert "data is not an encoder; name a run folder, " in refused(capsys, command[0], "data", *command[1:])


@pytest.mark.parametrize("command", [["evaluate"], ["duplicates"], ["report"], ["export", "--out", "e"]])
def test_a_folder_of_images_is_no_encoder_but_trains_one(
    command: list[str], capsys: pytest.CaptureFixture[str]
):
    Path("my photos").mkdir()
    Path("my photos/a.webp").touch()
    text = refused(capsys, command[0], "my photos", *command[1:])
    assert "my photos is a folder of images, not an encoder; train one on it with" in text
    assert "`contrastive run photos --set \"dataset.root='my photos'\"`" in text
    assert "--set \"dataset={name: image_folder, root: 'my photos'}\"" in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["duplicate", "photos"], "there is no 'duplicate'. Did you mean 'duplicates'?"),
        (["plugin", "lst"], "there is no 'lst'. Did you mean 'list'?"),
        (["zzz"], "invalid choice: 'zzz' (choose from"),
        (["run", "photos", "--set", "dataset.root", "photos"], "write dataset.root=VALUE, without a space"),
    ],
)
def test_misspelt_commands_and_assignments_come_with_a_hint(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        main(arguments)
    assert told in capsys.readouterr().err


def test_unknown_protocols_and_parts_come_with_a_remedy(tiny_run: Path, capsys: pytest.CaptureFixture[str]):
    unknown = refused(capsys, "evaluate", str(tiny_run), "--protocol", "retrievel")
    assert "--set evaluate.retrievel.protocol=NAME. Did you mean 'retrieval'?" in unknown
    assert "Did you mean 'nt_xent'?" in refused(capsys, "show", "loss", "nt_xnt")


@pytest.mark.parametrize(
    ("arguments", "usage"), [([], "usage: contrastive [-h]"), (["plugin"], "usage: contrastive plugin [-h]")]
)
def test_without_a_command_the_help_is_printed(
    arguments: list[str], usage: str, capsys: pytest.CaptureFixture[str]
):
    text = refused(capsys, *arguments)
    assert text.startswith(usage)
    assert "show this help message and exit" in text


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]):
    assert "Traceback" not in refused(capsys, "check", "absent.yaml")
    with pytest.raises(UsageError, match=r"absent\.yaml"):  # which Python shows with its traceback
        main(["check", "absent.yaml", "--debug"])


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m contrastive schema | head -1", shell=True, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
    assert done.stdout.strip() == "{"


def functions(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The ``module:function`` of every command of a parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from functions(command)
    if function := parser.get_default("command"):
        yield function


def test_every_command_names_a_function_that_exists():
    names = set(functions(cli._parser()))
    assert len(names) == 23
    assert all(callable(resolve_name(f"contrastive.commands.{name}")) for name in names)


@pytest.mark.parametrize(
    "command",
    [
        ["run", "RECIPE", "--out", "RUN"],
        ["check", "RECIPE", "RECIPE"],
        ["list"],
        ["show", "loss", "nt_xent"],
        ["preview", "RECIPE", "--out", "views.png"],
        ["profile", "RECIPE", "--steps", "1"],
        ["evaluate", "RUN", "--protocol", "knn"],
        ["embed", "RUN", "--out", "f.parquet"],
        ["compare", "RUN"],
        ["schema"],
        ["plugin", "list"],
        ["plugin", "new", "my-loss", "--kind", "loss"],
    ],
)
def test_a_command_builds_the_registry_once(
    command: list[str], tiny_recipe: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
):
    searches, entry_points = [], metadata.entry_points

    def counted(**selection: str) -> metadata.EntryPoints:
        searches.append(selection)
        return entry_points(**selection)

    monkeypatch.setattr(metadata, "entry_points", counted)
    paths = {"RECIPE": str(tiny_recipe), "RUN": str(tiny_run)}
    assert main([paths.get(word, word) for word in command]) == 0
    assert [search for search in searches if search.get("group") == "contrastive"] == [
        {"group": "contrastive"}
    ]
