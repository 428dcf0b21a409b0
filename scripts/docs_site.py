"""The documentation site: what mkdocs cannot know of this repository (``hooks`` in mkdocs.yml).

README, CONTRIBUTING, CHANGELOG and the READMEs of the plugins become pages without being copied, the
examples become one page, and every public module gets a reference page with all its public names. A link
to a page is corrected for the site. A link to a file that has no page becomes plain text.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import os
import pkgutil
import posixpath
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import contrastive
from contrastive.recipe import shipped_methods

ROOT = Path(__file__).resolve().parent.parent
#: A Markdown link or image (the text of a link may contain an image), or the source of an HTML image.
_LINK = re.compile(
    r"(?P<text>!?\[(?:[^\[\]]|\[[^\]]*\](?:\([^)]*\))?)*\])\((?P<to>[^)\s]+)\)"
    r'|(?<=src=")(?P<source>[^"]+)'
)
#: Files whose imports from the framework make them public.
_USERS = ("*.md", "docs/**/*.md", "plugins/*/*.py")
_FENCE = re.compile(r"^(?P<fence>```+|~~~+).*?^(?P=fence)\s*$", re.MULTILINE | re.DOTALL)
_IMPORT = re.compile(r"^\s*(?:from|import) (contrastive(?:\.\w+)*)\b", re.MULTILINE)


# -- pages ------------------------------------------------------------------------------------------


def repository_pages() -> dict[str, str]:
    """The pages whose text is outside docs/: page of the site -> file of the repository."""
    readmes = sorted(ROOT.glob("plugins/*/README.md"))
    return {
        "index.md": "README.md",
        "contributing.md": "CONTRIBUTING.md",
        "changelog.md": "CHANGELOG.md",
        "plugins/packages.md": "plugins/README.md",
        **{f"plugins/{readme.parent.name}.md": readme.relative_to(ROOT).as_posix() for readme in readmes},
    }


def generated_pages() -> dict[str, str]:
    """The pages that are written by code: page of the site -> Markdown."""
    return {"examples.md": examples_page(), **reference_pages()}


def examples_page() -> str:
    """Every example with its code."""
    sections = ["# Examples", "Each runs in a checkout, on a CPU, with images that ship with the package."]
    for path in sorted((ROOT / "examples").glob("*.py")):
        title = path.stem.replace("_", " ")
        sections.append(f'## {title}\n\n```python title="examples/{path.name}"\n{path.read_text("utf-8")}```')
    return "\n\n".join(sections) + "\n"


# -- links ------------------------------------------------------------------------------------------


def with_site_links(markdown: str, page: str) -> str:
    """The text of a page with links that lead to pages of the site.

    Args:
        markdown: the text, whose links are relative to its file in the repository.
        page: its address on the site, such as ``plugins/loss.md``.
    """

    def replace(match: re.Match[str]) -> str:
        text = _LINK.sub(replace, match["text"] or "")  # the text of a link may contain an image
        link = site_link(match["to"] or match["source"], page)
        if link is None:
            return text.removeprefix("!")[1:-1] if text else match[0]
        return f"{text}({link})" if text else link

    return _outside_code(markdown, lambda prose: _LINK.sub(replace, prose))


def site_link(link: str, page: str) -> str | None:
    """A link of a page as the site has it, or None if it leads to a file that has no page.

    Links within the page, to other sites and to nothing stay as they are; mkdocs reports the last.
    """
    sources = repository_pages()
    path, hash_sign, anchor = link.partition("#")
    target = posixpath.normpath(posixpath.join(posixpath.dirname(sources.get(page, f"docs/{page}")), path))
    if not path or ":" in path or not (ROOT / target).exists():
        return link
    addresses = {source: address for address, source in sources.items()}
    if target in addresses:
        address = addresses[target]
    elif target.partition("/")[0] == "examples":
        address = "examples.md"
    elif target.startswith("docs/"):
        address = target.removeprefix("docs/")
    else:
        return None
    return posixpath.relpath(address, posixpath.dirname(page) or ".") + hash_sign + anchor


def _outside_code(markdown: str, change: Callable[[str], str]) -> str:
    parts: list[str] = []
    end = 0
    for fence in _FENCE.finditer(markdown):
        parts += [change(markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(markdown[end:])])


# -- reference --------------------------------------------------------------------------------------


def public_modules() -> list[str]:
    """Every public module, in order: packages with an ``__all__``, and what docs and plugins import."""
    packages = [
        name
        for _, name, is_package in pkgutil.iter_modules(contrastive.__path__, "contrastive.")
        if is_package and getattr(importlib.import_module(name), "__all__", ())
    ]
    files = (path for pattern in _USERS for path in ROOT.glob(pattern))
    texts = [path.read_text("utf-8") for path in files]
    user_modules = [name for text in texts for name in _IMPORT.findall(text)]
    return sorted({"contrastive", *packages, *user_modules})


def public_names(module: ModuleType) -> list[str]:
    """The names in ``__all__``; without it those of classes, functions and values that the module defines."""
    names = getattr(module, "__all__", None) or _definitions(module)
    names = [name for name in names if hasattr(module, name)]  # timm adds the names of models to __all__
    return sorted(name for name in names if not inspect.ismodule(getattr(module, name)))


def _definitions(module: ModuleType) -> list[str]:
    names: list[str] = []
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in names if not name.startswith("_")]


def reference_pages() -> dict[str, str]:
    """A page for every public module, and an index: page of the site -> Markdown.

    An object that several modules offer is described once, in the first of them that is not ``contrastive``.
    """
    modules = {name: importlib.import_module(name) for name in public_modules()}
    homes: dict[str, str] = {}
    for name in sorted(modules, key=lambda name: name == "contrastive"):
        for public in public_names(modules[name]):
            homes.setdefault(_path(modules[name], public), name)
    pages = {f"reference/{name}.md": _module_page(module, homes) for name, module in modules.items()}
    return {"reference/index.md": _index(modules, homes), **pages}


def _path(module: ModuleType, name: str) -> str:
    """Where the object behind a public name is defined; the public path of a value that does not know."""
    value = getattr(module, name)
    home = str(getattr(value, "__module__", ""))
    if home.partition(".")[0] == "contrastive" and (inspect.isclass(value) or inspect.isfunction(value)):
        return f"{home}.{value.__qualname__}"
    return f"{module.__name__}.{name}"


def _module_page(module: ModuleType, homes: dict[str, str]) -> str:
    sections = [f"# {module.__name__}", plain(inspect.getdoc(module) or "")]
    for name in public_names(module):
        path = _path(module, name)
        if homes[path] == module.__name__:
            sections.append(f"::: {path}\n    options:\n      heading: {name}\n      toc_label: {name}")
        else:
            sections.append(f"## {name}\n\nIs [`{homes[path]}.{name}`]({homes[path]}.md#{path}).")
    return "\n\n".join(sections) + "\n"


def _index(modules: dict[str, ModuleType], homes: dict[str, str]) -> str:
    sections = ["# Reference"]
    for name, module in modules.items():
        links = []
        for public in public_names(module):
            path = _path(module, public)
            links.append(f"[`{public}`]({homes[path]}.md#{path})")
        sections.append(f"**[{name}]({name}.md)**: {_summary(module)}<br>{' · '.join(links)}")
    return "\n\n".join(sections) + "\n"


def _summary(module: ModuleType) -> str:
    return plain((inspect.getdoc(module) or "").partition("\n\n")[0]).replace("\n", " ")


def add_methods(nav: list[Any]) -> None:
    """Add the pages of methods to a navigation, by family."""
    (methods,) = [entry["Methods"] for entry in nav if "Methods" in entry]
    (pages,) = [entry for entry in methods if "One page per method" in entry]
    families = itertools.groupby(shipped_methods().items(), lambda method: method[1].family)
    pages["One page per method"] = [
        {family.capitalize(): [{entry.title: f"methods/{name}.md"} for name, entry in members]}
        for family, members in families
    ]


def plain(docstring: str) -> str:
    """A docstring without the marks of reStructuredText that Markdown does not know."""
    docstring = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", docstring)
    return re.sub(r"::$", ":", docstring, flags=re.MULTILINE)


# -- hooks of mkdocs --------------------------------------------------------------------------------


def on_config(config: Any) -> Any:
    """Anchors as on GitHub, and the pages of reference and of methods in the navigation."""
    from pymdownx.slugs import slugify

    sys.path.append(os.fspath(ROOT / "scripts"))  # for docs_docstrings.py, which griffe loads
    config["mdx_configs"]["toc"]["slugify"] = slugify(case="lower")
    (reference,) = [entry for entry in config["nav"] if "Reference" in entry]
    reference["Reference"] = ["reference/index.md", *(f"reference/{name}.md" for name in public_modules())]
    add_methods(config["nav"])
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not in docs/."""
    from mkdocs.structure.files import File

    for page, source in repository_pages().items():
        files.append(File.generated(config, page, abs_src_path=os.fspath(ROOT / source)))
    for page, text in generated_pages().items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Correct the links of a page."""
    return with_site_links(markdown, page.file.src_uri)
