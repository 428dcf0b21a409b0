"""Which folders of a data set are its splits: those that parameters name, otherwise a guess by one rule."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from contrastive.datasets.folder_listing import (
    Identity,
    identity_of,
    is_image_name,
    is_system_folder,
    printable,
    walk,
)
from contrastive.datasets.split_names import AUTO, SPLITS, choose_splits, similar_split, split_of_name
from contrastive.errors import DataError, did_you_mean
from contrastive.parts import Split
from contrastive.text import abbreviate, quantity

NONE = "none"
#: The names that were looked for, in this order, before splits had parameters.
_FORMER_TEST_NAMES = ("test", "val", "valid", "validation")


@dataclass(frozen=True)
class SplitFolders:
    """The folders that may be splits.

    Attributes:
        root: of the data set.
        parameters: split -> ``auto``, ``none`` (or None), or a folder.
        explicit: split -> the folder that its parameter names.
        guess: split -> the folder whose name stands for it, if a parameter leaves that open.
        without_images: folders named like a split that hold no image.
    """

    root: Path
    parameters: Mapping[Split, str | None]
    explicit: Mapping[Split, Path]
    guess: Mapping[Split, Path]
    without_images: Sequence[Path] = ()

    @property
    def train(self) -> Path:
        return self.explicit.get("train") or self.guess["train"]

    def within(self, folder: Path) -> list[Path]:
        """The folders that lie in another one; their images do not belong to it."""
        return [other for other in (*self.explicit.values(), *self.guess.values()) if folder in other.parents]

    def choose(self, is_labelled: Callable[[Split, Path], bool]) -> dict[Split, Path]:
        """The folder of each split that exists."""
        explicit: dict[Split, Path] = {"train": self.train, **self.explicit}
        return choose_splits(self.parameters, explicit, self.guess, is_labelled)


def split_folders(root: Path, parameters: Mapping[Split, str | None]) -> SplitFolders:
    """The folders that parameters name, and a guess for those that are ``auto``.

    All top folders that hold images are named like splits: they are the splits. None is: they are classes,
    and the root is the train split. Folders that a parameter names are left out of this.

    Raises:
        DataError: a parameter names no folder below the root, or the names allow several readings.
    """
    explicit: dict[Split, Path] = {
        split: _folder(root, split, value)
        for split, value in parameters.items()
        if value is not None and value not in (AUTO, NONE)
    }
    if explicit.get("train") == root:
        return SplitFolders(root, parameters, explicit, {})
    if parameters["train"] == NONE:
        raise DataError(
            f"{root}: train is none, but a train split is needed. Set dataset.train to a folder, or to auto."
        )
    top = _top_folders(root, explicit.values())
    names = [name for name, holds_images in top.items() if holds_images]
    holders = {parent for folder in explicit.values() for parent in folder.parents}
    without_images = [
        root / name
        for name in top
        if name not in names and split_of_name(name) is not None and root / name not in holders
    ]
    if "train" not in explicit:
        others = [name for name in names if split_of_name(name) is None]
        if names == others:
            if similar := similar_names(names):
                raise DataError(_similar_folders(root, similar))
            return SplitFolders(root, parameters, explicit, {"train": root})
        if others:
            raise DataError(_both_readings(root, [name for name in names if name not in others], others))
    guess = _by_name(root, parameters, explicit, names)
    if "train" not in {**explicit, **guess}:
        guess["train"] = _train_without_images(root, names, without_images)
    return SplitFolders(root, parameters, explicit, guess, without_images)


def check_nested(root: Path, train: Path, images: Iterable[str], classes: Collection[str]) -> None:
    """Raise DataError if a guess would train on images of a deeper folder named like a test split.

    Args:
        root: of the data set.
        train: the folder of the train split.
        images: its images, relative to the root.
        classes: names of folders in the test or validation split, which stand for classes in train too.
    """
    top = len(train.relative_to(root).parts)
    names_in: dict[Path, set[str]] = {}
    for folder in sorted({os.path.dirname(path) for path in images}):
        parts = Path(folder).parts
        for depth in range(top if top else 1, len(parts)):
            is_class = depth == top and parts[depth] in classes
            if split_of_name(parts[depth]) in ("validation", "test") and not is_class:
                raise DataError(_deeper_split(root, train, Path(*parts[: depth + 1])))
            names_in.setdefault(Path(*parts[:depth]), set()).add(parts[depth])
    for holder, names in names_in.items():
        if similar := similar_names(sorted(names - {*classes})):
            raise DataError(_deeper_split(root, train, holder / similar[-1]))


def similar_names(names: Iterable[str]) -> list[str]:
    """The names that resemble those of a train and of another split, if both are there; train first."""
    by_split: dict[Split, list[str]] = {}
    for name in names:
        if split := similar_split(name):
            by_split.setdefault(split, []).append(name)
    if by_split.keys() <= {"train"} or "train" not in by_split:
        return []
    return [name for split in SPLITS for name in by_split.get(split, ())]


def unread_images(
    root: Path, splits: Collection[Path], visited_folders: Mapping[Identity, Path]
) -> dict[Path, int | None]:
    """Folder -> the number of its images that belong to no split; None if it cannot be read.

    The folders are the outermost ones that hold no split.
    """
    unreadable: list[Path] = []
    parents: dict[Path, int] = {}
    for entry in walk(root, dict(visited_folders), unreadable):
        if entry.is_file and is_image_name(entry.path.name):
            parents[entry.path.parent] = parents.get(entry.path.parent, 0) + 1
    counts: dict[Path, int | None] = {}
    for parent, count in parents.items():
        folder = _outermost_without_split(root, parent, splits)
        counts[folder] = (counts.get(folder) or 0) + count
    return {**counts, **dict.fromkeys(unreadable, None)}


def former_folders(root: Path) -> dict[Split, Path]:
    """The folders of the splits as they were read before splits had parameters."""
    if not os.path.isdir(root / "train"):
        return {"train": root}
    test = next((name for name in _FORMER_TEST_NAMES if os.path.isdir(root / name)), None)
    return {"train": root / "train", **({} if test is None else {"test": root / test})}


def folder_name(root: Path, folder: Path) -> str:
    """A folder as the user knows it: relative to the root, with a slash at its end."""
    return printable(f"{folder.relative_to(root).as_posix()}/")


def _folder(root: Path, split: Split, value: str) -> Path:
    """The folder that a parameter names."""
    if not value.strip():
        raise DataError(f"{root}: {split} is empty. Set dataset.{split} to a folder, or to auto for a guess.")
    relative = os.path.normpath(value)
    is_outside = os.path.isabs(relative) or relative.split(os.sep)[0] == os.pardir
    if is_outside or (relative == "." and split != "train"):
        where = "the root or a folder below it" if split == "train" else "a folder below the root"
        raise DataError(f"{root}: {split} is '{value}'. Set dataset.{split} to {where}, relative to it.")
    folder = root / relative
    if not os.path.isdir(folder):
        if os.path.exists(folder):
            raise DataError(f"{folder}: is a file, not a folder. Set dataset.{split} to a folder.")
        siblings = _subfolders(folder.parent) if os.path.isdir(folder.parent) else []
        names = f"; there are {_names(siblings)}" if siblings else ""
        raise DataError(
            f"{folder}: there is no such folder{names}.{did_you_mean(folder.name, siblings)} "
            f"Set dataset.{split} to a folder relative to {root}."
        )
    return folder


def _subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, without hidden ones and those of systems."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [
        name
        for name in names
        if not name.startswith(".") and not is_system_folder(name) and os.path.isdir(folder / name)
    ]


def _top_folders(root: Path, apart: Collection[Path]) -> dict[str, bool]:
    """Top folder -> whether it holds images, without the folders ``apart``.

    One that cannot be read raises DataError if it is named like a split; otherwise it holds none.
    """
    visited_folders = {identity_of(folder): folder for folder in apart}
    top: dict[str, bool] = {}
    for name in _subfolders(root):
        if root / name not in apart:
            unreadable: list[Path] | None = [] if split_of_name(name) is None else None
            entries = walk(root / name, dict(visited_folders), unreadable)
            top[name] = any(entry.is_file and is_image_name(entry.path.name) for entry in entries)
    return top


def _by_name(
    root: Path, parameters: Mapping[Split, str | None], explicit: Mapping[Split, Path], names: Iterable[str]
) -> dict[Split, Path]:
    """Split -> the one folder named like it, for the splits that parameters leave open."""
    is_test_open = parameters["test"] == AUTO
    is_open: dict[Split, bool] = {
        "train": parameters["train"] == AUTO,
        "validation": "validation" not in explicit and (parameters["validation"] == AUTO or is_test_open),
        "test": is_test_open,
    }
    by_split: dict[Split, list[str]] = {}
    for name in names:
        if (split := split_of_name(name)) is not None and is_open[split]:
            by_split.setdefault(split, []).append(name)
    for split, candidates in by_split.items():
        if len(candidates) > 1:
            raise DataError(
                f"{root}: {_names(candidates)} are all named like the {split} split. "
                f"Set dataset.{split} to one of them, such as dataset.{split}: {candidates[0]}."
            )
    return {split: root / candidates[0] for split, candidates in by_split.items()}


def _train_without_images(root: Path, names: Sequence[str], without_images: Sequence[Path]) -> Path:
    """A train folder that holds no image, if there is one, so that its listing reports that."""
    for folder in without_images:
        if split_of_name(folder.name) == "train":
            return folder
    raise DataError(
        f"{root}: of the splits there is only {_names(names)}, but no folder to train on. Set dataset.train "
        f"to the folder of the train split, or to . (a dot) to train on all images below {root}."
    )


def _both_readings(root: Path, split_names: Sequence[str], others: Sequence[str]) -> str:
    """Both readings of folders of which some are named like splits and some are not."""
    by_split = {str(split_of_name(name)): name for name in reversed(split_names)}
    if "train" in by_split:
        remedy = f"set dataset.train: {by_split['train']} ({_names(others)} will not be read)"
    else:
        if "test" not in by_split:
            by_split = {"test": by_split["validation"]}
        settings = " and ".join(f"dataset.{split}: {name}" for split, name in sorted(by_split.items()))
        remedy = f"set {settings} (the train split is then {_names(others)})"
    folders = f"{_names(split_names)} {'is a split' if len(split_names) == 1 else 'are splits'}"
    return (
        f"{root}: {_names(split_names)} {'has the name' if len(split_names) == 1 else 'have the names'} of "
        f"{'a split' if len(split_names) == 1 else 'splits'}, {_names(others)} not. If all "
        f"{quantity(len(split_names) + len(others), 'folder')} are classes, set dataset.train: . (a dot). "
        f"If {folders}, {remedy}."
    )


def _similar_folders(root: Path, names: Sequence[str]) -> str:
    """What to do about top folders that may be splits by their names."""
    settings: dict[str, str] = {}
    for name in names:
        settings.setdefault(str(similar_split(name)), name)
    if "test" not in settings:
        settings["test"] = settings.pop("validation")
    remedy = ", ".join(f"dataset.{split}: {name}" for split, name in settings.items())
    return (
        f"{root}: {_names(names)} may be splits or classes. If they are splits, set {remedy}. If they are "
        "classes, set dataset.train: . (a dot)."
    )


def _deeper_split(root: Path, train: Path, folder: Path) -> str:
    """What to do about a folder below the top that is named like a split."""
    siblings = _subfolders(root / folder.parent)
    if train != root:
        name = train.relative_to(root).as_posix()
        return (
            f"{root}: {printable(folder.as_posix())}/ is named like a split, and its images would be trained "
            f"on. Move it out of {printable(name)}/; to train on it, set dataset.train: {printable(name)}."
        )
    if any(split_of_name(name) == "train" for name in siblings):
        remedy = f"If {printable(folder.parent.as_posix())}/ holds the splits, set dataset.root: "
        remedy += printable(str(root / folder.parent))
    else:
        remedy = "Arrange the images as train/ and test/"
    return (
        f"{root}: {printable(folder.as_posix())}/ is named like a split, and its images would be trained on. "
        f"{remedy}; to train on all images below {root}, set dataset.train: . (a dot)."
    )


def _outermost_without_split(root: Path, folder: Path, splits: Collection[Path]) -> Path:
    """The outermost folder around a folder that holds no split; itself if it holds one."""
    parts = folder.relative_to(root).parts
    candidates = (root.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1))
    holders = {parent for split in splits for parent in (split, *split.parents)}
    return next((candidate for candidate in candidates if candidate not in holders), folder)


def _names(folders: Sequence[str]) -> str:
    """``a/, b/, c/, d/, e/, ...``, printable."""
    return abbreviate([printable(f"{name}/") for name in folders])
