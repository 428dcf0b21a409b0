"""Runs whose data moved to another path, and maps of which a space is missing."""

from __future__ import annotations

import shutil
from pathlib import Path

from inputs.case import (
    RUN,
    Cases,
    Judge,
    Outcome,
    Step,
    Verdict,
    both,
    either,
    mentions,
    refuses,
    shorten,
    succeeds,
)
from inputs.writing import (
    CAMERA,
    SMALL,
    Builder,
    classes,
    fill,
    folder_recipe,
    labelled_table,
    recipe,
    saved_data_set,
    together,
)

CASES = Cases()

# -- 4d: data at another path -------------------------------------------------------------------------


def images(folder: Path) -> None:
    """Twenty images; two epochs of two steps, with a schedule that may be lengthened."""
    classes(folder / "d", ("cat", "dog"), 10)
    folder_recipe(folder, train="epochs: 1")
    text = (folder / "r.yaml").read_text()
    (folder / "r.yaml").write_text(text.replace("warmup_epochs: 0", "warmup_epochs: 0, schedule: constant"))


def remember(folder: Path) -> None:
    """Keep recipe.yaml as it is before the run continues."""
    shutil.copy(folder / "o/recipe.yaml", folder / "before.yaml")


def move(source: str, target: str) -> Builder:
    def change(folder: Path) -> None:
        remember(folder)
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        (folder / source).rename(folder / target)

    return change


def longer(*settings: str) -> tuple[str, ...]:
    """The same run for one more epoch."""
    pairs = [part for setting in ("train.epochs=2", *settings) for part in ("--set", setting)]
    return (*RUN, *pairs)


def continues(outcome: Outcome) -> Verdict:
    """The second command continues the run of the first."""
    call = outcome.call()
    steps = [line["step"] for line in outcome.metrics() if "loss" in line]
    right = call.code == 0 and "continuing from step 2" in call.text and steps == [1, 2, 3, 4]
    return Verdict(right, f"exit {call.code}, steps {steps}: {shorten(call.text)}")


def same_recipe(outcome: Outcome) -> Verdict:
    """recipe.yaml still names the data by the path it had."""
    before, now = (outcome.folder / name for name in ("before.yaml", "o/recipe.yaml"))
    if not before.is_file():
        return Verdict(False, "no run")
    lines = [
        [line for line in path.read_text().splitlines() if "root:" in line or "train: t" in line]
        for path in (before, now)
    ]
    return Verdict(lines[0] == lines[1], f"recipe.yaml: {lines}")


CONTINUATION = both(continues, same_recipe)


def add_move(name: str, build: Builder, judge: Judge, *steps: Step) -> None:
    CASES.add("4d", name, build, judge, RUN, *steps)


add_move("an image folder was renamed", images, CONTINUATION, move("d", "e"), longer("dataset.root=e"))
add_move(
    "to a folder deep below, by an absolute path",
    images,
    CONTINUATION,
    move("d", "archive/2026/images"),
    lambda folder: (folder / "link").symlink_to(folder / "archive/2026/images"),
    longer("dataset.root=link"),
)


def tables(folder: Path) -> None:
    images(folder)
    labelled_table(folder / "t.parquet", 20)
    text = (folder / "r.yaml").read_text()
    (folder / "r.yaml").write_text(
        text.replace("{name: image_folder, root: d}", "{name: parquet, train: t.parquet}")
    )


add_move(
    "a table", tables, CONTINUATION, move("t.parquet", "u/t.parquet"), longer("dataset.train=u/t.parquet")
)


def part(folder: Path) -> None:
    images(folder)
    text = (folder / "r.yaml").read_text()
    (folder / "r.yaml").write_text(
        text.replace(
            "{name: image_folder, root: d}", "{name: subset, of: {name: image_folder, root: d}, train: 16}"
        )
    )


add_move("a subset of a folder", part, CONTINUATION, move("d", "e"), longer("dataset.of.root=e"))
add_move(
    "a finished run",
    images,
    both(mentions("already finished", code=0), same_recipe),
    move("d", "e"),
    (*RUN, "--set", "dataset.root=e"),
)


def hub_images(folder: Path) -> None:
    images(folder)
    saved_data_set(folder / "h", train=20)
    text = (folder / "r.yaml").read_text()
    (folder / "r.yaml").write_text(
        text.replace("{name: image_folder, root: d}", "{name: hugging_face, path: ./h}")
    )


add_move("a saved data set", hub_images, continues, move("h", "g"), longer("dataset.path=./g"))
add_move(
    "other images at the other path",
    images,
    both(refuses("data|images"), same_recipe),
    move("d", "e"),
    lambda folder: fill(folder / "e/cat", 12, 77),  # more files: a fingerprint holds names and sizes
    longer("dataset.root=e"),
)


def records_folder(outcome: Outcome) -> Verdict:
    """environment.json names the folder that the relative paths of recipe.yaml refer to."""
    values = str(outcome.environment())
    return Verdict(str(outcome.folder.resolve()) in values, shorten(values))


add_move("environment.json has the folder of relative paths", images, records_folder)


def records_path(outcome: Outcome) -> Verdict:
    """Where the data was read from is recorded."""
    values = str(outcome.environment()) + str(outcome.summary())
    verdict = continues(outcome)
    return verdict if not verdict.right else Verdict("moved_here" in values, shorten(values))


add_move(
    "the other path is recorded",
    images,
    records_path,
    move("d", "moved_here"),
    longer("dataset.root=moved_here"),
)
add_move(
    "--resume must",
    images,
    CONTINUATION,
    move("d", "e"),
    (*longer("dataset.root=e"), "--resume", "must"),
)
add_move(
    "the recipe names the other path",
    images,
    CONTINUATION,
    move("d", "e"),
    lambda folder: (
        (folder / "r.yaml").write_text((folder / "r.yaml").read_text().replace("root: d", "root: e")) and None
    ),
    longer(),
)

# -- 4e: maps without a space -------------------------------------------------------------------------

SPACE = r"space|': '|\": \""


def plain(folder: Path) -> None:
    fill(folder / "d", 16)
    folder_recipe(folder)


def setting(name: str, value: str, *patterns: str) -> None:
    """``--set`` with a map in which a space is missing."""
    CASES.add(
        "4e", name, plain, refuses(*(patterns or (SPACE,))), ("check", "r.yaml", "--json", "--set", value)
    )


setting("options of a backbone", "backbone.options={width:0.5}", "width", SPACE)
setting("the second of two options", "backbone.options={width: 0.5,stem_stride:2}", "stem_stride", SPACE)
setting("a part", "optimizer={name: sgd,lr:0.1}", "lr", f"{SPACE}|unknown|no parameter|has no")
setting("a data set", "dataset={name: image_folder,root:d}", "root", f"{SPACE}|unknown|no parameter|has no")
setting("settings of train", "train={epochs: 1,batch_size:8}", "batch_size", f"{SPACE}|unknown|no key|has no")
setting("a protocol", "evaluate={knn: {k:3}}", "k", f"{SPACE}|unknown|no parameter|has no")
setting("an option that the model never uses", "backbone.options={widht: null}", "widht")
setting("a null that nobody asked for", "backbone.options={drop_rate}", "drop_rate")


def in_file(backbone: str) -> Builder:
    return together(lambda folder: fill(folder / "d", 16), lambda f: folder_recipe(f, backbone=backbone))


CASES.add(
    "4e", "in the recipe itself", in_file(SMALL.replace("width: 0.25", "width:0.25")), refuses("width", SPACE)
)
CASES.add(
    "4e",
    "options of a model of torchvision",
    in_file("{name: torchvision, model: resnet18, options: {width_per_group:32}}"),
    refuses("width_per_group", f"{SPACE}|unexpected|has no|argument"),
)
CASES.add(
    "4e",
    "options of torchvision's data set",
    together(
        lambda folder: classes(folder / "d/country211/train", ("AD", "AE"), 10),
        lambda folder: recipe(
            folder, "{name: torchvision, dataset: Country211, root: d, options: {transform:1}}"
        ),
    ),
    refuses("transform", f"{SPACE}|no option"),
)
CASES.add(
    "4e",
    "a null that a model accepts",
    in_file(CAMERA.replace("pos_embed: none", "pos_embed: none, pre_norm: null")),
    either(succeeds(), refuses("pre_norm")),
)
