"""``contrastive open``: which page, and that a machine without a display only prints it."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path

import pytest

from contrastive.cli import main
from tests.support.command_line import refused

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    urls: list[str] = []
    monkeypatch.setattr(webbrowser, "open", urls.append)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    return urls


def test_the_page_of_a_folder_is_printed_and_opened(opened, capsys: pytest.CaptureFixture[str]):
    Path("a b").mkdir()
    page = Path("a b/report.html")
    page.write_text("x")
    assert main(["open", "a b"]) == 0
    assert main(["open", "a b/report.html"]) == 0
    assert capsys.readouterr().out.splitlines() == ["a b/report.html"] * 2
    assert opened == [page.resolve().as_uri()] * 2


def test_without_a_display_the_page_is_only_printed(opened, monkeypatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.delenv("DISPLAY")
    Path("report.html").write_text("x")
    assert main(["open", "."]) == 0
    assert capsys.readouterr().out == "report.html\n"
    assert opened == []


def test_a_folder_without_a_page_is_refused(opened, capsys: pytest.CaptureFixture[str]):
    Path("run").mkdir()
    assert "run is neither the folder of a run" in refused(capsys, "open", "run")
    assert "list runs with `contrastive runs run`." in refused(capsys, "open", "run")
    assert "none is neither" in refused(capsys, "open", "none")
    assert "list runs with `contrastive runs`." in refused(capsys, "open", "none")
    Path("run/recipe.yaml").write_text("x")
    assert "write it with `contrastive report run`" in refused(capsys, "open", "run")
    assert opened == []
