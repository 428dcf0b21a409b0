"""``contrastive list encoder``: the pretrained weights that timm loads by name, with their licences."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from contrastive.commands.docstrings import print_lines
from contrastive.errors import UsageError
from contrastive.text import quantity


def list_encoders(pattern: str | None = None) -> list[dict[str, Any]]:
    """Name, side of the images in pixels and licence of every encoder whose name matches.

    Args:
        pattern: with ``*`` and ``?``: ``vit_small*dino*``; default: all.

    Raises UsageError if none matches.
    """
    import timm
    from timm.models import list_pretrained

    names = list_pretrained(pattern or "*")
    if not names:
        raise UsageError(f"timm has no pretrained weights called '{pattern}'; a pattern may have * and ?.")
    encoders = []
    for name in names:
        cfg = timm.get_pretrained_cfg(name)
        assert cfg is not None
        encoders.append({"name": name, "size": cfg.input_size[-1], "licence": cfg.license or "unknown"})
    return encoders


def render_encoders(encoders: list[dict[str, Any]], console: Console | None = None) -> None:
    """Print what :func:`list_encoders` returns, a line each."""
    console = console or Console()
    width = max(len(encoder["name"]) for encoder in encoders)
    for encoder in encoders:
        line = f"{encoder['name']:<{width}}  {encoder['size']:>4} px  {encoder['licence']}"
        print_lines(console, line)
    console.print(
        f"\n[dim]{quantity(len(encoders), 'encoder')}; licences as timm records them. "
        "They are downloaded on first use.[/dim]",
        highlight=False,
    )
