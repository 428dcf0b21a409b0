"""Generated sections of docs/, between ``<!-- mark -->`` and ``<!-- /mark -->``."""

from __future__ import annotations

import re


def put(page: str, mark: str, content: str) -> str:
    """``page`` with ``content``, which ends its last line, between the lines of a mark.

    Raises:
        ValueError: the page has no such mark.
    """
    between = re.compile(
        rf"(?<=^<!-- {re.escape(mark)} -->\n).*?(?=^<!-- /{re.escape(mark)} -->)", re.DOTALL | re.MULTILINE
    )
    new_page, count = between.subn(lambda _: content, page)
    if not count:
        raise ValueError(f"the page has no <!-- {mark} --> with a <!-- /{mark} --> below it")
    return new_page
