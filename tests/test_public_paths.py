"""Paths that were public once keep working, and today's are in the plugin guide."""

from __future__ import annotations

import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path
from types import ModuleType

import public_paths
import pytest

from contrastive import moved
from contrastive.moved import NEW_PATHS

ROOT = Path(__file__).parents[1]
#: Public at commit 1a738a1, and fixed for good.
PATHS = (Path(__file__).parent / "support" / "public_paths.txt").read_text().split()
DOORS = sorted(path.parent for path in (ROOT / "contrastive").rglob("__init__.pyi"))


def look_up(path: str) -> object:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name) if name else import_module(module)


@pytest.mark.parametrize("path", PATHS)
def test_a_public_path_works_and_warns_only_if_it_has_moved(path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = look_up(path)
    deprecations = [str(warning.message) for warning in caught if warning.category is DeprecationWarning]
    if path in NEW_PATHS:
        module, _, name = NEW_PATHS[path].partition(":")
        assert value is look_up(NEW_PATHS[path])
        assert deprecations == [
            f"{path.replace(':', '.')} has moved; import it as: from {module} import {name}"
        ]
    else:
        assert not [text for text in deprecations if "has moved" in text]


def test_every_moved_name_leads_to_one_that_has_not_moved():
    for new in NEW_PATHS.values():
        assert new not in NEW_PATHS
        look_up(new)


def test_a_module_that_is_gone_can_be_imported_as_a_whole():
    code = "import contrastive.compare.statistics as statistics; print(statistics.holm.__module__)"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert run.stdout == "contrastive.commands.compare.significance\n"


def test_a_name_that_was_never_public_is_refused_as_ever():
    with pytest.raises(AttributeError, match="has no attribute 'nobody'"):
        moved.follow("contrastive.compare.statistics", "nobody")
    with pytest.raises(ModuleNotFoundError):
        import_module("contrastive.compare.plots")
    with pytest.raises(ImportError):
        from contrastive.losses import Nobody  # noqa: F401


@pytest.mark.parametrize("folder", DOORS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_every_name_of_a_door_resolves_and_is_no_module(folder):
    package = import_module(".".join(folder.relative_to(ROOT).parts))
    assert package.__all__
    assert dir(package) == sorted(package.__all__)
    modules = {path.stem for path in folder.iterdir()}
    for name in package.__all__:
        assert name not in modules, f"{package.__name__}.{name} would be the module of that name"
        assert not isinstance(getattr(package, name), ModuleType)


def test_the_plugin_guide_lists_todays_public_paths():
    match = public_paths.MARKS.search(public_paths.PAGE.read_text())
    assert match
    listed = match[0].partition("-->\n")[2].rpartition("<!--")[0]
    assert listed == public_paths.page_list(public_paths.public_paths(ROOT)), (
        "run python scripts/public_paths.py --page"
    )


@pytest.mark.parametrize("path", public_paths.public_paths(ROOT))
def test_every_listed_path_can_be_imported(path):
    look_up(path)


def test_paths_are_found_in_prose_and_tables():
    text = (
        "Return `contrastive.parts.ReducedImage(pixels)`, see `contrastive.testing`, `decode_image`.\n\n"
        "| what | is |\n|---|---|\n| `contrastive.kinds.InFeatures`, `InChannels`, or a `Target` | x |\n"
        "| `Annotated[str, contrastive.kinds.SpansRun(('a',))]` | `contrastive run`, `contrastive.run` |\n\n"
        "| member of `contrastive.datasets.decoding` | is |\n|---|---|\n"
        "| `EncodedTable.file_bytes(index)` | `bytes` |\n| `one(x)`, `two` | y |\n\n"
        "| a part of `contrastive.parts` is no header | `Loss` |\n"
    )
    assert sorted(public_paths.paths_in_text(text, ROOT)) == [
        "contrastive.datasets.decoding:EncodedTable",
        "contrastive.datasets.decoding:one",
        "contrastive.datasets.decoding:two",
        "contrastive.kinds:InChannels",
        "contrastive.kinds:InFeatures",
        "contrastive.kinds:SpansRun",
        "contrastive.parts:ReducedImage",
        "contrastive:run",
    ]


def test_paths_are_found_in_code():
    code = (
        "import contrastive\nfrom contrastive.losses import NTXent\n"
        "from contrastive.parts import (\n    Loss,\n    Head as H,\n)\nfrom contrastive_focal import Focal\n"
        "run = contrastive.run('simclr')\n"
    )
    assert sorted(public_paths.paths_in(code)) == [
        "contrastive.losses:NTXent",
        "contrastive.parts:Head",
        "contrastive.parts:Loss",
        "contrastive:run",
    ]
