"""Plugin packages as tests need them: installed in a folder, and counted."""

from __future__ import annotations

import ast
import os
import shutil
import tomllib
from pathlib import Path

import pytest


def install(package: Path, site: Path) -> None:
    """Put the modules of a package into ``site``, with the metadata that pip would write next to them."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    for module in package.glob("*.py"):
        shutil.copy(module, site)
    for code in package.glob("*/__init__.py"):
        shutil.copytree(code.parent, site / code.parent.name)
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    heading = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(heading)
    points = project["entry-points"]["contrastive"]
    (info / "entry_points.txt").write_text(
        "[contrastive]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
    )


def on_path(site: Path, patch: pytest.MonkeyPatch) -> None:
    """Make what is installed in ``site`` importable, here and in processes to come."""
    patch.syspath_prepend(str(site))
    patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")])))


def code_lines(path: Path) -> int:
    """Lines that hold code: neither empty, nor a comment, nor part of a docstring."""
    text = path.read_text()
    silent = {number for number, line in enumerate(text.splitlines(), 1) if line.strip()[:1] in ("", "#")}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            silent.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(text.splitlines()) - len(silent)
