"""Which module of a package imports which, read from the source without importing anything.

Every import counts: at the top of a file, in a function, and under ``if TYPE_CHECKING``. A name that a
package lists in its ``__init__.pyi`` counts as an import of the module that defines it. That Python runs
the ``__init__.py`` of every package on the way to a module does not count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

Graph = Mapping[str, set[str]]


@dataclass(frozen=True)
class Import:
    """One imported name: ``from module import name``, or ``import module`` with an empty name."""

    module: str
    name: str = ""


def imports(path: Path) -> Iterator[Import]:
    """Every import of a Python file. Raises ValueError for a relative one."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{path}:{node.lineno}: write absolute imports")
            yield from (Import(node.module or "", alias.name) for alias in node.names)


class Package:
    """The modules of a package below one folder.

    Attributes:
        folder: where its ``__init__.py`` is.
        files: dotted name of every module, packages included -> its file.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.files = {self.module(path): path for path in sorted(folder.rglob("*.py"))}

    def module(self, path: Path) -> str:
        """``a/losses/margin.py`` -> ``a.losses.margin``; an ``__init__.py`` -> its package."""
        parts = path.relative_to(self.folder.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def targets(self, line: Import) -> set[str]:
        """The modules of this package that one import reaches; empty for an import of another package."""
        if line.module.split(".")[0] != self.folder.name:
            return set()
        if not line.name:
            return {line.module}
        module = f"{line.module}.{line.name}"
        if module in self.files:
            return {module}
        defined_in = self._reexports(line.module).get(line.name)
        return {line.module, defined_in} if defined_in else {line.module}

    def graph(self) -> dict[str, set[str]]:
        """Module -> the modules of this package that it imports."""
        return {
            module: set().union(*(self.targets(line) for line in imports(path))) - {module}
            for module, path in self.files.items()
        }

    def _reexports(self, package: str) -> dict[str, str]:
        """Public name -> module that defines it, as the ``__init__.pyi`` of a package lists them."""
        path = self.files.get(package)
        stub = path.with_suffix(".pyi") if path and path.name == "__init__.py" else None
        if stub is None or not stub.exists():
            return {}
        homes: dict[str, str] = {}
        for node in ast.walk(_tree(stub)):
            if isinstance(node, ast.ImportFrom):
                home = f"{package}.{node.module}" if node.level else node.module
                homes.update({alias.asname or alias.name: str(home) for alias in node.names})
        return homes


def circles(graph: Graph) -> list[list[str]]:
    """The groups of modules that reach each other (strongly connected components of two or more), sorted."""
    reach = {module: reachable(graph, module) for module in graph}
    groups = {
        tuple(sorted({other for other in reach[module] if module in reach.get(other, ())}))
        for module in graph
        if module in reach[module]
    }
    return sorted(list(group) for group in groups)


def reachable(graph: Graph, start: str) -> set[str]:
    """All modules that a module imports, directly or through others; itself only if a circle leads back."""
    members: set[str] = set()
    queue = [start]
    while queue:
        for module in graph.get(queue.pop(), ()):
            if module not in members:
                members.add(module)
                queue.append(module)
    return members


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
