"""The frame of a page: title, contents, sections, styles for light, dark, phones and paper, and scripts."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

#: In the head of every page, by which a later command knows that it may replace the file.
_MARK = '<meta name="generator" content="contrastive">'


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        key: its anchor: letters and hyphens.
        heading: plain text.
        body: HTML; a section without one is left out.
        remark: a sentence in plain text below the heading.
    """

    key: str
    heading: str
    body: str
    remark: str = ""


@dataclass(frozen=True)
class FoldedList:
    """A line of text with a list below it that a reader unfolds.

    Attributes:
        text: the line.
        lines: of the list.
    """

    text: str
    lines: Sequence[str]


def frame(
    title: str,
    facts: str,
    sections: Sequence[Section],
    *,
    lead: str = "",
    style: str = "",
    scripts: str = "",
    has_contents: bool = False,
) -> str:
    """A whole page.

    Args:
        title: plain text.
        facts: plain text below it.
        sections: those with a body are shown.
        lead: HTML before the first section.
        style: CSS besides that of every page.
        scripts: elements ``<script>`` after that of every page.
        has_contents: whether links to the sections follow the title.
    """
    content = [section for section in sections if section.body]
    links = "".join(f'<a href="#{each.key}">{escape(each.heading)}</a>' for each in content)
    page = Template(_asset("page.html")).substitute(
        mark=_MARK,
        title=escape(title),
        facts=escape(facts),
        contents=f"<nav>{links}</nav>" if has_contents else "",
        lead=lead,
        sections="\n".join(map(_section, content)),
        style=_asset("page.css") + style,
        scripts=scripts,
        script=_asset("page.js"),
    )
    return page.encode("utf-8", "backslashreplace").decode("utf-8")  # names of files may be any bytes


def is_page(file: Path) -> bool:
    """Whether a file is a page that :func:`frame` made."""
    with file.open("rb") as stream:
        return _MARK.encode() in stream.read(2**12)


def text_list(lines: Sequence[str | FoldedList], kind: str = "") -> str:
    """Lines of text as a list; empty without lines. What stands between ` is code.

    Args:
        kind: its class: ``notes`` are set apart, ``lines`` have no bullets.
    """
    items = "".join(f"<li>{_item(line)}</li>" for line in lines)
    return f'<ul class="{kind}">{items}</ul>' if lines else ""


def _item(line: str | FoldedList) -> str:
    if isinstance(line, str):
        return _prose(line)
    lines = "".join(f"<li>{escape(each)}</li>" for each in line.lines)
    return f"<details><summary>{_prose(line.text)}</summary><ul>{lines}</ul></details>"


def _prose(text: str) -> str:
    """Text in HTML, what stands between ` as code."""
    return re.sub(r"`([^`\n]+)`", r"<code>\1</code>", escape(text))


def script_data(key: str, value: Any) -> str:
    """A value in JSON for scripts of the page, under an id; no text in it ends the element."""
    text = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script id="{key}" type="application/json">{text}</script>'


def _section(section: Section) -> str:
    remark = f'<p class="how">{_prose(section.remark)}</p>' if section.remark else ""
    heading = f"<h2>{escape(section.heading)}</h2>"
    return f'<section id="{section.key}">{heading}{remark}\n{section.body}\n</section>'


def _asset(name: str) -> str:
    return files("contrastive.pages").joinpath(name).read_text("utf-8")
