"""The files of a data set of tables: those of each split, and what lies next to them."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from contrastive.datasets.folder_listing import printable
from contrastive.datasets.split_names import split_of_name
from contrastive.errors import DataError
from contrastive.parts import Split
from contrastive.paths import user_path
from contrastive.text import quantity

#: The end of the name of a shard: its number and how many there are.
_SHARD = re.compile(r"[-_.](\d+)-of-(\d+)\.parquet$")
_EXTENSIONS = (".parquet", ".pq", ".parq")


def split_files(sources: Mapping[Split, Path]) -> dict[Split, list[Path]]:
    """The parquet files of each split: of a file, a folder or a pattern.

    Raises:
        DataError: there is none, a folder holds tables of several splits, or two splits share a file.
    """
    files = {split: _files_of(split, user_path(source)) for split, source in sources.items()}
    for split, other in combinations(files, 2):
        common = {os.path.realpath(path) for path in files[split]} & {
            os.path.realpath(path) for path in files[other]
        }
        if common:
            raise DataError(
                f"{min(common)}: would be read as both {split} and {other}. Set dataset.{split} or "
                f"dataset.{other} to other files."
            )
    return files


def _files_of(split: Split, source: Path) -> list[Path]:
    if os.path.isfile(source):
        return [source]
    is_folder = os.path.isdir(source)
    paths = sorted(Path(path) for path in glob.glob(_pattern(source), recursive=True) if os.path.isfile(path))
    if not paths:
        problem = "the folder holds no *.parquet file" if is_folder else "there is no such file"
        raise DataError(
            f"{source}: {problem}. Set dataset.{split} to a parquet file, or a folder or pattern of them."
        )
    if is_folder:
        _check_one_split(split, source, paths)
    return paths


def _pattern(source: Path) -> str:
    """The pattern of a folder's tables, or of a pattern whose folder may have a name with brackets."""
    if os.path.isdir(source):
        return os.path.join(glob.escape(str(source)), "*.parquet")
    folder, name = os.path.split(source)
    return os.path.join(glob.escape(folder), name) if os.path.isdir(folder) else str(source)


def _check_one_split(split: Split, folder: Path, paths: Iterable[Path]) -> None:
    """Raise DataError if the tables of a folder are named like other splits: ``test-00000-of-00001``."""
    by_split: dict[Split, str] = {}
    for path in paths:
        word = re.match(r"[A-Za-z]*", path.name)
        other = split_of_name(word.group()) if word else None
        if word and other is not None:
            by_split.setdefault(other, word.group())
    if by_split.keys() <= {split}:
        return
    settings = ", ".join(f"dataset.{other}: {folder / word}*.parquet" for other, word in by_split.items())
    raise DataError(
        f"{folder}: its tables are named like the splits {', '.join(by_split)}, and all would be read as "
        f"{split}. Set {settings}; to read them all, set dataset.{split}: {folder / '*.parquet'}."
    )


def source_title(source: Path, paths: Sequence[Path]) -> str:
    """A split as the recipe names it, with the number of its files if there are several."""
    title = printable(str(source))
    return title if len(paths) == 1 else f"{title}, {quantity(len(paths), 'file')}"


def missing_shards(paths: Iterable[Path]) -> list[str]:
    """What is missing of tables in numbered files: ``1 of 3 files of data/train``."""
    numbers: dict[tuple[str, int], set[int]] = {}
    for path in paths:
        if shard := _SHARD.search(str(path)):
            numbers.setdefault((str(path)[: shard.start()], int(shard[2])), set()).add(int(shard[1]))
    return [
        f"{total - len(present):,} of {quantity(total, 'file')} of {printable(name)}"
        for (name, total), present in sorted(numbers.items())
        if len(present) < total
    ]


def unread_tables(folders: Iterable[Path], paths: Iterable[Path]) -> list[str]:
    """The tables in or below folders that belong to no split."""
    split_paths = {os.path.realpath(path) for path in paths}
    return sorted(
        printable(str(path))
        for folder in {*folders}
        for path in folder.rglob("*")
        if path.suffix.lower() in _EXTENSIONS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and os.path.realpath(path) not in split_paths
    )


def label_folder_of(paths: Iterable[Path]) -> str | None:
    """The first folder around tables that is named like a label: ``label=cat``; None if there is none."""
    names = (part for path in paths for part in path.parts[:-1])
    return next((printable(name) for name in names if name.startswith("label=")), None)
