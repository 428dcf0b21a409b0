"""Inputs of a stranger: what the authors of the other cases did not think of."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from inputs.case import (
    RUN,
    Cases,
    Judge,
    Outcome,
    Verdict,
    both,
    either,
    mentions,
    reads,
    refuses,
    shorten,
    silent_about,
    succeeds,
)
from inputs.weights import checkpoint, loads, network
from inputs.writing import (
    SCORES,
    Builder,
    classes,
    encode,
    fill,
    folder_recipe,
    hub_folder,
    labelled_table,
    picture,
    png,
    recipe,
    table,
    together,
    write,
)

CASES = Cases()


ANIMALS = ("cat", "dog")
TABLES = "{name: parquet, train: t.parquet, test: e.parquet}"


def splits(train: str, test: str, *, count: int = 8, parameters: str = "", **options: Any) -> Builder:
    """Two folders of classes below ``d``: 2 * count images to train on, and 8 to test on."""

    def build(folder: Path) -> None:
        classes(folder / "d" / train, ANIMALS, count)
        classes(folder / "d" / test, ANIMALS, 4, 1)
        folder_recipe(folder, parameters, **options)

    return build


def link(path: str, target: str) -> Builder:
    """A symbolic link at a path."""

    def build(folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(target, folder / path)

    return build


def labels(train: Sequence[Any], test: Sequence[Any]) -> Builder:
    """Two tables with these labels."""

    def build(folder: Path) -> None:
        table(folder / "t.parquet", image=[png(n, 60 * (n % 2)) for n in range(len(train))], label=train)
        table(folder / "e.parquet", image=[png(500 + n, 60 * (n % 2)) for n in range(len(test))], label=test)
        recipe(folder, TABLES, evaluate=SCORES)

    return build


def tables(dataset: str, *paths: str) -> Builder:
    """Tables of 16 images each at these paths."""

    def build(folder: Path) -> None:
        for seed, path in enumerate(paths):
            labelled_table(folder / path, 16, seed)
        recipe(folder, dataset)

    return build


def never(judge: Judge, *patterns: str) -> Judge:
    """The judge is satisfied, and the output matches none of the patterns."""
    return both(judge, silent_about(*patterns))


# -- 1: splits and labels -----------------------------------------------------------------------------

CASES.add(
    "1a",
    "splits called train_set and test_set",
    splits("train_set", "test_set"),
    either(refuses("test_set"), reads(train=16, test=8, labels=True)),
)
CASES.add(
    "1b",
    "a folder val among the class folders of train",
    splits("train", "train/val"),
    either(refuses("train/val"), both(reads(train=16), mentions(r"\bval\b"))),
)


def thumbnails(folder: Path) -> None:
    """Two classes, as a NAS serves them: every folder has the thumbnails of its images."""
    classes(folder / "d", ANIMALS, 8)
    for name in ANIMALS:
        for n in range(8):
            thumbnail = encode(picture(n, side=8), "JPEG")
            write(folder / "d" / name / "@eaDir" / f"{n}.png" / "SYNOPHOTO_THUMB_M.jpg", thumbnail)
    folder_recipe(folder)


CASES.add("1b", "thumbnails of a NAS in @eaDir", thumbnails, either(reads(train=16), mentions("@eaDir")))
CASES.add(
    "1c",
    "the test folder is a broken link",
    together(
        lambda folder: classes(folder / "d/train", ANIMALS, 8),
        link("d/test", "/mnt/of/another/machine"),
        folder_recipe,
    ),
    either(refuses("test", "link"), mentions(r"\btest\b.{0,80}link|link.{0,80}\btest\b")),
)
CASES.add(
    "1a",
    "names of classes in two forms of Unicode",
    together(
        lambda folder: classes(folder / "d/train", (unicodedata.normalize("NFC", "café"), "dog"), 8),
        lambda folder: classes(folder / "d/test", (unicodedata.normalize("NFD", "café"), "dog"), 4, 1),
        folder_recipe,
    ),
    either(reads(train=16, test=8, labels=True), refuses(r"unicode|NF[CD]|normali[sz]|decomposed")),
)
CASES.add(
    "1e",
    "an image next to the class folders of test",
    together(
        splits("train", "test", evaluate=SCORES, count=20),
        lambda folder: write(folder / "d/test/contact_sheet.png", png(99)),
    ),
    mentions(r"contact_sheet|next to (the|its) (class )?folders"),
    RUN,
)
CASES.add(
    "1e",
    "a third of the test images has a class that train lacks",
    labels([ANIMALS[n % 2] for n in range(40)], [("cat", "dog", "owl")[n % 3] for n in range(30)]),
    mentions(r"\bowl\b|10 (of|images|labels|rows|test)"),
    RUN,
)
CASES.add(
    "1e",
    "classes -1, 0 and 1",
    labels([n % 3 - 1 for n in range(60)], [n % 3 - 1 for n in range(30)]),
    mentions(r"negative (label|number|class)|(label|class) -1|unknown|10 (of|images|labels|rows|test)"),
    RUN,
)


def overlapping(folder: Path) -> None:
    tables("{name: parquet, train: 'd/*.parquet', test: d/test.parquet}", "d/a.parquet", "d/test.parquet")(
        folder
    )


CASES.add(
    "1b",
    "the pattern of train matches the table of test",
    overlapping,
    either(refuses(r"test\.parquet"), mentions(r"test\.parquet"), reads(train=16, test=16)),
)
CASES.add(
    "1b",
    "a folder of tables, one of them in a folder below",
    tables("{name: parquet, train: d}", "d/a.parquet", "d/more/b.parquet"),
    either(reads(train=32), mentions(r"\bmore\b|b\.parquet|below")),
)
CASES.add(
    "1b",
    "the folder of a hub data set as train",
    together(
        lambda folder: hub_folder(folder, train=20, test=10),
        lambda folder: recipe(folder, "{name: parquet, train: data}"),
    ),
    either(reads(train=20), refuses("test-00000|data/test")),
)


def without_rows(folder: Path) -> None:
    """A table, and one that pandas wrote without rows: its columns have null type."""
    import pyarrow as pa

    labelled_table(folder / "d/a.parquet", 16)
    table(folder / "d/b.parquet", image=pa.array([], pa.null()), label=pa.array([], pa.null()))
    recipe(folder, "{name: parquet, train: d}")


CASES.add(
    "1i",
    "a table without rows and types next to another",
    without_rows,
    never(
        either(reads(train=16), refuses(r"b\.parquet", r"no rows|without rows|empty")), "every row is null"
    ),
)
CASES.add(
    "1d",
    "square brackets in the folder of a pattern",
    tables("{name: parquet, train: 'photos [2019]/train-*.parquet'}", "photos [2019]/train-0.parquet"),
    either(reads(train=16), refuses(r"bracket|\[\[\]|escape")),
)

# -- 2: files, formats and paths ----------------------------------------------------------------------

CASES.add(
    "2h",
    "--set with a path that holds ' #'",
    together(
        lambda folder: classes(folder / "photos #1", ANIMALS, 8),
        lambda folder: classes(folder / "photos", ANIMALS, 12),
        folder_recipe,
    ),
    either(reads(train=16, labels=True), refuses(r"#|comment|quote")),
    ("check", "r.yaml", "--json", "--set", "dataset.root=photos #1"),
)


def keeps(file: str) -> Judge:
    """``embed`` does not replace a file that is none of its tables."""

    def judge(outcome: Outcome) -> Verdict:
        call, start = outcome.call(1), (outcome.folder / file).read_bytes()[:4]
        return Verdict(start != b"PAR1", f"exit {call.code}: {shorten(call.text)}; {file} begins {start!r}")

    return judge


CASES.add(
    "2f",
    "embed onto the recipe of its run",
    splits("train", "test"),
    keeps("o/recipe.yaml"),
    RUN,
    ("embed", "o", "--out", "o/recipe.yaml"),
)

# -- 4: weights and data from elsewhere ---------------------------------------------------------------


def tensors(change: Callable[[Any], Any]) -> Callable[[], dict[str, Any]]:
    """The weights of a network whose kernels are changed."""

    def make() -> dict[str, Any]:
        return {name: change(value) if value.ndim == 4 else value for name, value in network().items()}

    return make


def int8(value: Any) -> Any:
    import torch

    return (value * 127).round().clamp(-128, 127).to(torch.int8)


CASES.add(
    "4a",
    "kernels as whole numbers of 8 bits, without their scales",
    checkpoint(tensors(int8)),
    refuses(r"int8|integer|whole number|quanti[sz]ed"),
)
CASES.add(
    "4a",
    "a web page that was saved as a checkpoint",
    together(
        checkpoint(network), lambda folder: write(folder / "w.pth", "<!DOCTYPE html><html>Sign in</html>")
    ),
    never(refuses(r"w\.pth"), "weights_only"),
)
CASES.add(
    "4b",
    "register tokens that the file lacks",
    checkpoint(lambda: network("test_vit"), model="test_vit", options="options: {reg_tokens: 4}"),
    never(refuses(r"reg_token|register"), "no square"),
)


def lose_images(folder: Path) -> None:
    for n in range(10):
        (folder / f"d/train/cat/{n}.png").unlink()


CASES.add(
    "4d",
    "evaluate after some images were deleted",
    splits("train", "test", count=20, evaluate=SCORES),
    either(
        refuses(r"differ|changed|other data"),
        mentions(r"differ|changed|other data|not the data|train 30|no longer"),
    ),
    RUN,
    lose_images,
    ("evaluate", "o"),
)
CASES.add(
    "1e",
    "compare a run whose held-out tenth is one image",
    together(
        lambda folder: classes(folder / "d", ANIMALS, 10),
        lambda folder: folder_recipe(folder, evaluate=SCORES),
    ),
    succeeds(),
    RUN,
    ("compare", "o"),
)

# -- of less harm -------------------------------------------------------------------------------------

CASES.add(
    "1b",
    "train is an empty text",
    splits("train", "test", parameters="train: ''"),
    either(refuses(r"\btrain\b"), reads(train=16, test=8)),
)
CASES.add(
    "1a",
    "folders train_images and test_images without classes",
    together(
        lambda folder: fill(folder / "d/train_images", 10),
        lambda folder: fill(folder / "d/test_images", 5, 1),
        folder_recipe,
    ),
    either(refuses("test_images"), reads(train=10, test=5, labels=False)),
)
CASES.add(
    "1a",
    "a link gives a class a second name",
    together(splits("train", "test"), link("d/train/Katze", "cat")),
    either(reads(train=16, test=8, labels=True), refuses("Katze")),
)
CASES.add(
    "1b",
    "train and test link to the same files",
    together(
        lambda folder: classes(folder / "all", ANIMALS, 8),
        *(
            link(f"d/{split}/{name}/{n}.png", f"../../../all/{name}/{n}.png")
            for split, count in (("train", 8), ("test", 4))
            for name in ANIMALS
            for n in range(count)
        ),
        folder_recipe,
    ),
    either(refuses(r"\btest\b"), mentions(r"both|same file")),
)
CASES.add(
    "1b",
    "a table called .PARQUET in a folder of tables",
    tables("{name: parquet, train: d}", "d/a.parquet", "d/b.PARQUET"),
    either(reads(train=32), mentions(r"b\.PARQUET|1 file")),
)
CASES.add(
    "1e",
    "no class of test is one of train",
    labels([f"bird{n % 4}" for n in range(60)], [f"fish{n % 4}" for n in range(20)]),
    both(silent_about("test split has no labels"), mentions(r"none of the classes|train lacks|fish")),
    RUN,
)
CASES.add(
    "1g",
    "labels in the names of folders, as Hive writes them",
    together(
        lambda folder: table(folder / "d/label=cat/p.parquet", image=[png(n) for n in range(8)]),
        lambda folder: table(folder / "d/label=dog/p.parquet", image=[png(n, 60) for n in range(8)]),
        lambda folder: recipe(folder, "{name: parquet, train: 'd/*/*.parquet'}"),
    ),
    either(reads(train=16, labels=True), mentions(r"label=|partition")),
)
CASES.add(
    "1g",
    "the test table calls its labels otherwise",
    together(
        lambda folder: labelled_table(folder / "t.parquet", 40),
        lambda folder: labelled_table(folder / "e.parquet", 16, 1, column="labels"),
        lambda folder: recipe(folder, TABLES, evaluate=SCORES),
    ),
    either(refuses("e.parquet", "label"), mentions(r"column '?labels|labels'? column|label_column")),
    RUN,
)
CASES.add(
    "1a",
    "a class folder of train is empty",
    together(
        lambda folder: classes(folder / "d/train", ANIMALS, 8),
        lambda folder: (folder / "d/train/owl").mkdir(),
        lambda folder: classes(folder / "d/test", (*ANIMALS, "owl"), 4, 1),
        folder_recipe,
    ),
    refuses(r"train/owl|owl.{0,60}(no images|empty)"),
)
CASES.add(
    "2f",
    "check: a class folder that is a broken link",
    together(
        lambda folder: classes(folder / "d", ANIMALS, 8),
        link("d/owl", "/mnt/of/another/machine"),
        folder_recipe,
    ),
    mentions(r"broken link|\bowl\b", code=0),
)
CASES.add(
    "2f",
    "embed onto a table of its data set",
    together(
        lambda folder: labelled_table(folder / "t.parquet", 40),
        lambda folder: recipe(folder, "{name: parquet, train: t.parquet}"),
    ),
    succeeds(),
    RUN,
    ("embed", "o", "--out", "t.parquet"),
    ("check", "r.yaml"),
)
CASES.add(
    "4a",
    "kernels that are not numbers",
    checkpoint(tensors(lambda value: value * float("nan"))),
    refuses(r"NaN|not finite|finite"),
)


def queue() -> dict[str, Any]:
    """A network with the parameters of a method at the top of the same map."""
    import torch

    return {
        **network(),
        "queue": torch.zeros(8, 8),
        "queue_ptr": torch.zeros(1),
        "logit_scale": torch.tensor(1.0),
    }


CASES.add("4a", "a queue and a scale at the top of the map", checkpoint(queue), loads("queue"))
CASES.add(
    "4a",
    "safetensors under the name .pth",
    together(
        checkpoint(network, "w.safetensors", weights="w.pth"),
        lambda folder: (folder / "w.safetensors").rename(folder / "w.pth"),
    ),
    either(succeeds(), never(refuses("safetensors"), "weights_only")),
)
CASES.add(
    "4a",
    "a repository of two shards",
    together(
        checkpoint(network, "w.pth", weights="w"),
        lambda folder: write(folder / "w/model-00001-of-00002.safetensors", b""),
        lambda folder: write(folder / "w/model.safetensors.index.json", "{}"),
    ),
    refuses(r"shard|several files|model-00001|index\.json"),
)


def other_weights(folder: Path) -> None:
    import torch

    torch.save({name: value + 0.1 for name, value in network().items()}, folder / "w.pth")


CASES.add(
    "4d",
    "the initial weights are another file under the same name",
    together(checkpoint(network), lambda folder: fill(folder / "d", 40)),
    silent_about("same recipe and seed", index=2),
    RUN,
    other_weights,
    ("run", "r.yaml", "--out", "p"),
    ("compare", "o", "p"),
)
