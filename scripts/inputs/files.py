"""Files that are left out, formats of phones and cameras, and variables in paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inputs.case import (
    RUN,
    Call,
    Cases,
    Judge,
    Outcome,
    Verdict,
    either,
    mentions,
    number,
    reads,
    refuses,
    shorten,
)
from inputs.writing import (
    SCORES,
    Builder,
    classes,
    fill,
    folder_recipe,
    hub_folder,
    labelled_table,
    png,
    recipe,
    table,
    together,
    write,
)

CASES = Cases()
PLAIN_CHECK = ("check", "r.yaml")
EMBED = ("embed", "o", "--out", "f.parquet")


def folders(folder: Path) -> None:
    classes(folder / "d/train", ("cat", "dog"), 20)
    classes(folder / "d/test", ("cat", "dog"), 6, 1)
    folder_recipe(folder, evaluate=SCORES)


def later(**contents: bytes) -> Builder:
    """A change of the folder after the run: files with these contents, ``__`` for a slash."""

    def change(folder: Path) -> None:
        for name, content in contents.items():
            write(folder / "d" / (name.replace("__", "/") + ".png"), content)

    return change


# -- 2f: files left out, by command -------------------------------------------------------------------


def add_damage(name: str, pattern: str, step: tuple[str, ...], **contents: bytes) -> None:
    """A file that is damaged after the run must be named by a later command."""
    CASES.add("2f", name, folders, mentions(pattern, code=0), RUN, later(**contents), step)


add_damage("embed: an empty file", r"empty\.png", EMBED, train__cat__empty=b"")
add_damage("embed: a truncated file of the test split", r"half\.png", EMBED, test__dog__half=png(3)[:70])
add_damage("evaluate: a text called .png", r"page\.png", ("evaluate", "o"), test__cat__page=b"<html></html>")
add_damage(
    "evaluate --json: named next to the object",
    r"bad\.png",
    ("evaluate", "o", "--json"),
    test__cat__bad=b"\x89PNG",
)
add_damage(
    "embed: six of them, counted",
    number(6),
    EMBED,
    **{f"train__cat__bad{n}": b"damage" for n in range(6)},
)
CASES.add(
    "2f",
    "embed: a damaged row of a table",
    together(
        lambda folder: labelled_table(folder / "t.parquet", 20),
        lambda folder: table(folder / "u.parquet", image=[*(png(n) for n in range(11)), b"damage"]),
        lambda folder: recipe(folder, "{name: parquet, train: t.parquet}"),
    ),
    mentions(r"row 11", code=0),
    RUN,
    (*EMBED, "--set", "dataset.train=u.parquet"),
)
CASES.add(
    "2f",
    "embed: files that are not images",
    together(folders, lambda folder: write(folder / "d/train/cat/notes.txt", "a note")),
    mentions(r"notes\.txt|\.txt", code=0),
    RUN,
    EMBED,
)


def others(*names: str, build: Builder = folders) -> Builder:
    """Files of these names that are not images, in a class folder of train."""
    return together(
        build, lambda folder: [write(folder / "d/train/cat" / name, b"data") for name in names][-1]
    )


for _name, _files, _patterns in (
    ("check: text files", [f"{n}.txt" for n in range(9)], (r"9\D{0,12}\.txt",)),
    ("check: two kinds", ["a.json", "b.json", "c.xml"], (r"\.json", r"\.xml")),
    ("check: files without an ending", ["README", "LICENSE"], ("without (an )?(ending|extension)|README",)),
    ("check: endings in capitals", [f"{n}.MOV" for n in range(3)], (r"\.mov",)),
):
    CASES.add("2f", _name, others(*_files), mentions(*_patterns, code=0), PLAIN_CHECK)


def broken_links(folder: Path) -> None:
    folders(folder)
    for n in range(4):
        (folder / f"d/train/cat/x{n}.png").symlink_to(f"nowhere{n}.png")


CASES.add(
    "2f", "check: links to nothing", broken_links, mentions(r"x0\.png|broken link", code=0), PLAIN_CHECK
)

# -- 2g: phone and camera formats ---------------------------------------------------------------------

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64
HEIF = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + b"\0" * 64
RAW = b"II*\0\x10\0\0\0CR\2\0" + b"\0" * 64
EXTRA = r"pillow-heif|\[heif\]|extra"
CAMERA_RAW = r"\braw\b|camera|convert|export|rawpy"


def photos(content: bytes, *names: str, plain: int = 10) -> Builder:
    """A folder of photographs: some plain ones, and files with this content."""

    def build(folder: Path) -> None:
        fill(folder / "d", plain)
        for name in names:
            write(folder / "d" / name, content)
        folder_recipe(folder)

    return build


def photo_names(ending: str, count: int) -> list[str]:
    return [f"IMG_{n:04}.{ending}" for n in range(count)]


def heif(ending: str, count: int) -> Judge:
    """The files are named with the extra that reads them, or they are among the images: it is installed."""
    return either(mentions(ending, EXTRA), mentions(rf'train"?: {count}\b'))


CASES.add("2g", "9 .heic", photos(HEIC, *photo_names("heic", 9)), heif(r"9\D{0,12}\.heic", 19), PLAIN_CHECK)
CASES.add("2g", ".HEIC alone", photos(HEIC, *photo_names("HEIC", 9), plain=0), heif(r"none of .*\.heic", 9))
CASES.add("2g", ".heif", photos(HEIF, *photo_names("heif", 5)), heif(r"\.heif", 15), PLAIN_CHECK)
CASES.add("2g", ".hif of a camera", photos(HEIF, *photo_names("HIF", 5)), heif(r"\.hif", 15), PLAIN_CHECK)
CASES.add("2g", ".cr2", photos(RAW, *photo_names("CR2", 5)), mentions(r"\.cr2", CAMERA_RAW), PLAIN_CHECK)
CASES.add(
    "2g",
    ".nef and .arw",
    photos(RAW, *photo_names("nef", 3), *photo_names("arw", 3)),
    mentions(r"\.nef", r"\.arw", CAMERA_RAW),
    PLAIN_CHECK,
)
CASES.add(
    "2g",
    ".dng alone",
    photos(RAW, *photo_names("dng", 3), plain=0),
    refuses(r"\.dng", CAMERA_RAW),
    PLAIN_CHECK,
)
CASES.add(
    "2g",
    "run: .heic next to .jpg",
    photos(HEIC, *photo_names("heic", 9), plain=16),
    either(mentions(r"\.heic", EXTRA, code=0), refuses(r"\.heic", "read")),  # these are damaged
    RUN,
)


def unreadable(*patterns: str) -> Judge:
    """``embed --json`` or its messages give a reason that matches the patterns."""

    def judge(outcome: Outcome) -> Verdict:
        call = outcome.call()
        reasons = [str(reason) for reason in call.json().get("unreadable", ())] or [call.text]
        right = any(mentions(*patterns)(_outcome_of(reason)).right for reason in reasons)
        return Verdict(right and call.code in (0, 2), shorten("; ".join(reasons)))

    def _outcome_of(text: str) -> Outcome:
        return Outcome(Path(), [Call((), 0, text, "")])

    return judge


CASES.add(
    "2g",
    "HEIC under the name .jpg",
    photos(b"", plain=16),
    unreadable("heic|heif"),
    RUN,
    lambda folder: write(folder / "d/IMG_0001.jpg", HEIC),
    (*EMBED, "--json"),
)
CASES.add(
    "2g",
    "HEIC in a table",
    together(
        lambda folder: labelled_table(folder / "t.parquet", 20),
        lambda folder: table(folder / "u.parquet", image=[png(1), HEIC, png(2)]),
        lambda folder: recipe(folder, "{name: parquet, train: t.parquet}"),
    ),
    unreadable("heic|heif"),
    RUN,
    (*EMBED, "--json", "--set", "dataset.train=u.parquet"),
)

# -- 2h: variables in paths ---------------------------------------------------------------------------

VARIABLES = (("DATA", "{folder}/d"), ("BASE", "{folder}"), ("NAME", "d"))
AS_VARIABLE = r"environment variable|variable"


def expands(**counts: int) -> Judge:
    return either(reads(**counts), refuses(AS_VARIABLE))


def variable(name: str, build: Builder, judge: Judge, *steps: Any) -> None:
    CASES.add("2h", name, build, judge, *steps, variables=VARIABLES)


def folder_at(root: str) -> Builder:
    return together(folders, lambda folder: recipe(folder, f"{{name: image_folder, root: '{root}'}}"))


variable("$DATA", folder_at("$DATA"), expands(train=40, test=12))
variable("${BASE}/d", folder_at("${BASE}/d"), expands(train=40, test=12))
variable("$BASE/$NAME/train", folder_at("$BASE/$NAME/train"), expands(train=40))
variable("a variable that is not set", folder_at("$NO_SUCH_PLACE/d"), refuses("NO_SUCH_PLACE", AS_VARIABLE))
variable(
    "by --set",
    folders,
    expands(train=40, test=12),
    ("check", "r.yaml", "--json", "--set", "dataset.root=$DATA"),
)
variable(
    "a pattern of tables",
    together(
        lambda folder: labelled_table(folder / "d/train-0.parquet", 20),
        lambda folder: recipe(folder, "{name: parquet, train: '$DATA/train-*.parquet'}"),
    ),
    expands(train=20),
)
variable(
    "data files of the hub",
    together(
        lambda folder: hub_folder(folder / "d", train=20, test=8),
        lambda folder: recipe(folder, "{name: hugging_face, path: $DATA}"),
    ),
    expands(train=20, test=8),
)
variable(
    "a root of torchvision",
    together(
        lambda folder: [classes(folder / "d/country211" / s, ("AD", "AE"), 10) for s in ("train", "test")][
            -1
        ],
        lambda folder: recipe(folder, "{name: torchvision, dataset: Country211, root: $DATA}"),
    ),
    expands(train=20, test=20),
)
variable(
    "weights",
    together(
        folders,
        lambda folder: folder_recipe(folder, backbone="{name: timm, model: resnet18, weights: $BASE/w.pth}"),
    ),
    either(
        refuses(AS_VARIABLE),
        lambda outcome: Verdict(
            "$BASE" not in outcome.call().text and "w.pth" in outcome.call().text,
            shorten(outcome.call().text),
        ),
    ),
)


def cache_in_variable(outcome: Outcome) -> Verdict:
    call = outcome.call()
    literal = [path.name for path in outcome.folder.iterdir() if path.name.startswith("$")]
    return Verdict(not literal and "$BASE" not in call.output, f"folders {literal} {shorten(call.text)}")


variable(
    "a cache folder",
    together(
        folders,
        lambda folder: folder_recipe(
            folder, train="epochs: 1, max_steps: 1, memory_limit: 0, cache: $BASE/cache"
        ),
    ),
    either(refuses(AS_VARIABLE), cache_in_variable),
    RUN,
)
