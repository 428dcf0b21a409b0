"""What commands on images write: a table of all rows, and a page that shows images of the first ones."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from contrastive.commands.parquet_files import require_folder, require_writable, write_columns
from contrastive.commands.thumbnails import Thumbnails
from contrastive.curation import FeatureTable, ImageRows, PathTable, SplitSource
from contrastive.errors import UsageError
from contrastive.files import require_replaceable, writable_by_user, write_whole
from contrastive.pages import FoldedList, Mark, Picture, is_page
from contrastive.text import quantity

#: Names of images that could not be read which a page shows without a click, and most that it holds.
_FEW_NAMES, MOST_NAMES = 5, 1000
#: Most thumbnails of a page, so that it has less than 3 MB even if they are noise.
MOST_PICTURES = 300


@dataclass(frozen=True)
class Outputs:
    """The files that a command is to write.

    Attributes:
        table: of ``--out``, a parquet file; None if there is none.
        page: of ``--html``.
    """

    table: Path | None
    page: Path | None

    @classmethod
    def of(
        cls, out: str | Path | None, html: str | Path | None, command: str, columns: Collection[str]
    ) -> Outputs:
        """The files as the user named them, checked before the work.

        Args:
            out, html: the table and the page.
            command: its name.
            columns: of its tables.

        Raises UsageError if a folder does not exist, or anything but an earlier table or page is there.
        """
        table = None if out is None else require_writable(out, command, columns)
        page = None if html is None else require_folder(html)
        if page is not None:
            require_replaceable(page, is_page, "a page that contrastive wrote", "--html")
        if table is not None and page is not None and os.path.realpath(table) == os.path.realpath(page):
            raise UsageError(f"--out and --html are both {page}; name two files.")
        return cls(table, page)

    @property
    def options(self) -> dict[str, Path]:
        """Option -> the file that it names."""
        files = {"--out": self.table, "--html": self.page}
        return {option: path for option, path in files.items() if path is not None}

    @property
    def record(self) -> dict[str, str | None]:
        """The files, for the result of a command: ``out`` and ``html``."""
        files = {"out": self.table, "html": self.page}
        return {key: None if path is None else str(path) for key, path in files.items()}

    def write_table(self, columns: Mapping[str, Any]) -> None:
        """Write columns of equal length, arrays of Arrow. Raises UsageError if that fails."""
        assert self.table is not None
        write_columns(self.table, columns)

    def write_page(self, text: str) -> None:
        """Write HTML. Raises UsageError if that fails."""
        assert self.page is not None
        with writable_by_user(self.page, "--html"):
            write_whole(self.page, text)


def with_pictures(table: FeatureTable, source: str | Path) -> FeatureTable:
    """The table with its images: those of its data set, or else the files that its names are paths of.

    Args:
        table: of features.
        source: what it was read from.

    Raises UsageError if there is neither.
    """
    if table.images is not None:
        return table
    files = [Path(name) for name in table.names.tolist()]
    if not all(file.is_file() for file in files):
        raise UsageError(
            f"{source} holds no images, and not every name in it is the path of a file, so a page has no "
            "pictures to show; set the data set that the features are of, such as "
            "--set 'dataset={name: image_folder, root: DIR}'."
        )
    images = SplitSource(PathTable(files, 3))
    splits = dict.fromkeys(table.splits.tolist(), images)
    return replace(table, images=ImageRows(splits, np.arange(len(files))))


@dataclass(frozen=True)
class RowPictures:
    """Pictures of the rows of a table.

    Attributes:
        table: with its images.
        thumbnails: of the page.
    """

    table: FeatureTable
    thumbnails: Thumbnails = field(default_factory=Thumbnails)

    def picture(self, row: int, captions: Sequence[str] = (), mark: Mark = "") -> Picture:
        """The image of a row."""
        images, split = self.table.images, str(self.table.splits[row])
        assert images is not None
        own = images.splits[split].table
        title, short = self.title(row), short_name(str(self.table.names[row]))
        return self.thumbnails.picture(own, int(images.rows[row]), title, captions, mark, short)

    @cached_property
    def has_splits(self) -> bool:
        """Whether the rows are of several splits."""
        return len(np.unique(self.table.splits.astype(str))) > 1

    def title(self, row: int) -> str:
        """``train: disc/3.png, id 3, disc``: split, name, id and class of a row, without what is unknown,
        repeats the name, or is the only split."""
        name, key = str(self.table.names[row]), str(self.table.ids[row])
        split = f"{self.table.splits[row]}: " if self.has_splits else ""
        facts = [f"{split}{name}", f"id {key}" if key != name else ""]
        facts.append(self.table.class_name(int(self.table.labels[row])) or "")
        return ", ".join(filter(None, facts))


def short_name(name: str) -> str:
    """The last part of a name that is a path."""
    return name.rstrip("/").rpartition("/")[2]


def notes_on(unreadable: Sequence[str]) -> list[str | FoldedList]:
    """What a page says first: which images could not be read. More than a few names are folded up."""
    if not unreadable:
        return []
    note = f"{quantity(len(unreadable), 'image')} could not be read"
    if len(unreadable) <= _FEW_NAMES:
        return [f"{note}: {'; '.join(unreadable)}."]
    more = len(unreadable) - MOST_NAMES
    names = [*unreadable[:MOST_NAMES], *([f"and {more:,} more"] if more > 0 else [])]
    return [FoldedList(f"{note}; their names:", names)]
