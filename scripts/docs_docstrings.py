"""Docstrings for the reference: griffe's extension of the documentation site (mkdocs.yml)."""

from __future__ import annotations

from typing import Any

import griffe
from docs_site import plain


class PlainDocstrings(griffe.Extension):
    """Removes from docstrings what Markdown does not know."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every object of the package."""
        if obj.docstring:
            obj.docstring.value = plain(obj.docstring.value)
