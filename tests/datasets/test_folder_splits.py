"""Which folders of an image folder are its splits: parameters, the guess by names, and what is not read."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import pytest

from contrastive.datasets import ImageFolder, Subset, skipped_kinds, skipped_messages
from contrastive.datasets.folder_splits import split_of_name
from contrastive.errors import DataError
from contrastive.parts import ImageTable


def write(root: Path, *paths: str) -> Path:
    """Files at paths such as ``train/cat/2``, which makes two images of them; no image is decoded here."""
    for path in paths:
        folder, _, count = path.rpartition("/")
        (root / folder).mkdir(parents=True, exist_ok=True)
        for n in range(int(count)):
            (root / folder / f"{n}.png").write_bytes(b"%d" % n)
    return root


def table_of(dataset: ImageFolder, split: str) -> ImageTable:
    table = dataset.table(split)  # type: ignore[arg-type]
    assert table is not None
    return table


def refusal(dataset: ImageFolder) -> str:
    with pytest.raises(DataError) as error_info:
        dataset.table("train")
    return str(error_info.value)


LABELLED = ("train/cat/3", "train/dog/3")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((name, "train") for name in ("train", "TRAIN", "Training", "train2017", "training_1", "Train 2")),
        *((name, "validation") for name in ("val", "Valid", "VALIDATION", "dev", "eval", "val2017", "dev-2")),
        *((name, "test") for name in ("test", "Testing", "test1", "TEST.2")),
        *(
            (name, None)
            for name in ("trains", "test_tube", "2017", "1train", "evaluate", "contest", "", "te st")
        ),
    ],
)
def test_names_of_splits(name, split):
    assert split_of_name(name) == split


@pytest.mark.parametrize(
    ("paths", "parameters", "reading"),
    [
        # names in any case, with digits at the end
        (
            ("Training/cat/2", "Training/dog/2", "Testing/cat/1"),
            {},
            "train: Training/ (4 images, 2 classes); test: Testing/ (1, labelled)",
        ),
        (
            ("train2017/2", "test2017/1"),
            {},
            "train: train2017/ (2 images, no labels); test: test2017/ (1, no labels)",
        ),
        ((*LABELLED, "dev/cat/1"), {}, "train: train/ (6 images, 2 classes); test: dev/ (1, labelled)"),
        # labels decide between two candidates for the test split
        (
            (*LABELLED, "val/cat/1", "val/dog/1", "test/5"),
            {},
            "train: train/ (6 images, 2 classes); test: val/ (2, labelled); not read: test/ (5, no labels)",
        ),
        (
            (*LABELLED, "val/4", "test/5"),
            {},
            "train: train/ (6 images, 2 classes); test: test/ (5, no labels); not read: val/ (4, no labels)",
        ),
        (
            (*LABELLED, "val/4", "test/cat/5"),
            {},
            "train: train/ (6 images, 2 classes); test: test/ (5, labelled); not read: val/ (4, no labels)",
        ),
        (
            (*LABELLED, "val/dog/4", "test/cat/5"),
            {},
            "train: train/ (6 images, 2 classes); validation: val/ (4, labelled); test: test/ (5, labelled)",
        ),
        (
            ("train/3", "val/cat/4", "test/dog/5"),
            {},
            "train: train/ (3 images, no labels); test: test/ (5, no labels); not read: val/ (4, no labels)",
        ),
        ((*LABELLED, "val/4"), {}, "train: train/ (6 images, 2 classes); test: val/ (4, no labels)"),
        # tiny-imagenet: every image of a split in one folder
        (
            ("train/n1/images/2", "train/n2/images/2", "val/images/3", "test/images/4"),
            {},
            "train: train/ (4 images, 2 classes); "
            "test: test/ (4, no labels: images/ is not a class of train); "
            "not read: val/ (3, no labels: images/ is not a class of train)",
        ),
        # classes
        (("bus/2", "car/2"), {}, "train: ./ (4 images, 2 classes)"),
        # classes that are named a little like splits
        (("train station/2", "harbour/2"), {}, "train: ./ (4 images, 2 classes)"),
        (("test tube/2", "validity/2"), {}, "train: ./ (4 images, 2 classes)"),
        (("train_set/2", "test_set/2"), {"train": "."}, "train: ./ (4 images, 2 classes)"),
        (
            ("train/cat/2", "train/test/2", "test/cat/1", "test/test/1"),
            {},
            "train: train/ (4 images, 2 classes); test: test/ (2, labelled)",
        ),
        (
            ("train/cat/2", "train/val/2", "test/cat/1"),
            {"train": "train"},
            "train: train/ (4 images, 2 classes); test: test/ (1, labelled)",
        ),
        # why a split has no labels
        (
            ("train/cat/2", "train/dog/2", "train/1"),
            {},
            "train: train/ (5 images, no labels: 0.png lies next to its sub-folders)",
        ),
        (
            (*LABELLED, "test/cat/2", "test/2"),
            {},
            "train: train/ (6 images, 2 classes); "
            "test: test/ (4, no labels: 0.png, 1.png lie next to its sub-folders)",
        ),
        (("photos/2",), {}, "train: ./ (2 images, no labels: photos/ is the only folder)"),
        # folders that are no classes
        (("2024-01/2", "2024-02/2"), {"labels": False}, "train: ./ (4 images, no labels)"),
        (
            (*LABELLED, "val/cat/1"),
            {"labels": False},
            "train: train/ (6 images, no labels); test: val/ (1, no labels)",
        ),
        (
            ("train/cat/2", "test/cat/1"),
            {},
            "train: train/ (2 images, no labels: cat/ is the only folder); test: test/ (1, no labels)",
        ),
        (("bus/2", "car/2", "test/0"), {}, "train: ./ (4 images, 2 classes)"),
        (("bus/2", "car/2", "train/2"), {"train": "."}, "train: ./ (6 images, 3 classes)"),
        (
            ("bus/2", "car/2", "train/2"),
            {"train": "train"},
            "train: train/ (2 images, no labels); not read: bus/ (2), car/ (2)",
        ),
        (
            ("bus/2", "car/2", "train/2"),
            {"train": "./car/"},
            "train: car/ (2 images, no labels); not read: bus/ (2), train/ (2)",
        ),
        (
            ("bus/2", "car/2", "test/1"),
            {"test": "test"},
            "train: ./ (4 images, 2 classes); test: test/ (1, no labels)",
        ),
        (
            ("bus/2", "car/2", "test/car/1"),
            {"train": ".", "test": "test"},
            "train: ./ (4 images, 2 classes); test: test/ (1, labelled)",
        ),
        # parameters
        (
            (*LABELLED, "val/cat/1", "test/5"),
            {"test": "test"},
            "train: train/ (6 images, 2 classes); validation: val/ (1, labelled); test: test/ (5, no labels)",
        ),
        (
            (*LABELLED, "val/cat/1"),
            {"test": "none"},
            "train: train/ (6 images, 2 classes); validation: val/ (1, labelled)",
        ),
        (
            (*LABELLED, "val/cat/1"),
            {"test": None, "validation": None},
            "train: train/ (6 images, 2 classes); not read: val/ (1)",
        ),
        (
            (*LABELLED, "val/cat/1", "test/dog/1"),
            {"validation": "none"},
            "train: train/ (6 images, 2 classes); test: test/ (1, labelled); not read: val/ (1)",
        ),
        (
            (*LABELLED, "val/cat/1"),
            {"validation": "none"},
            "train: train/ (6 images, 2 classes); test: val/ (1, labelled)",
        ),
        (
            (*LABELLED, "val/1"),
            {"validation": "val"},
            "train: train/ (6 images, 2 classes); validation: val/ (1, no labels)",
        ),
        (
            (*LABELLED, "held/cat/1"),
            {"test": "held"},
            "train: train/ (6 images, 2 classes); test: held/ (1, labelled)",
        ),
        (
            (*LABELLED, "more/9"),
            {"train": "train"},
            "train: train/ (6 images, 2 classes); not read: more/ (9)",
        ),
        (
            ("data/train/2", "data/test/1", "old/train/3"),
            {"train": "data/train", "test": "data/test"},
            "train: data/train/ (2 images, no labels); test: data/test/ (1, no labels); not read: old/ (3)",
        ),
        (
            ("data/train/2", "data/test/1", "data/2"),
            {"train": "data/train"},
            "train: data/train/ (2 images, no labels); "
            "not read: data/ (2 next to its folders), data/test/ (1)",
        ),
        # what is not read
        ((*LABELLED, "/3"), {}, "train: train/ (6 images, 2 classes); not read: ./ (3 next to its folders)"),
        ((*LABELLED, "test/0"), {}, "train: train/ (6 images, 2 classes); not read: test/ (no images)"),
        (
            ("train/1", *(f"{n}/1" for n in range(7))),
            {"train": "train"},
            "train: train/ (1 image, no labels); "
            "not read: 0/ (1), 1/ (1), 2/ (1), 3/ (1), 4/ (1), 5/ (1), 6/ (1)",
        ),
        ((*LABELLED, ".cache/test/9"), {}, "train: train/ (6 images, 2 classes)"),
    ],
)
def test_reading(tmp_path, paths, parameters, reading):
    dataset = ImageFolder(write(tmp_path, *paths), **parameters)
    assert dataset.reading() == reading
    for split in ("train", "validation", "test"):
        table = dataset.table(split)
        assert (table is not None) == (split in dataset.splits())
        if table is not None:
            folder, count, kind = re.search(
                rf"{split}: (\S+)/ \(([\d,]+)(?: images?)?, ([^)]+)\)", reading
            ).groups()
            assert len(table) == int(count)
            assert (table.labels is None) == kind.startswith("no labels")
            assert all(table.name(i).startswith("" if folder == "." else folder) for i in range(len(table)))


@pytest.mark.parametrize(
    ("paths", "parameters", "words"),
    [
        (
            ("bus/1", "car/1", "train/1"),
            {},
            [
                "train/ has the name of a split, bus/, car/ not",
                "all 3 folders are classes, set dataset.train: .",
                "dataset.train: train (bus/, car/ will not be read)",
            ],
        ),
        (
            ("cat/1", "dog/1", "Test1/1"),
            {},
            ["dataset.train: .", "dataset.test: Test1 (the train split is then cat/, dog/)"],
        ),
        (("cat/1", "val/1"), {}, ["dataset.train: .", "dataset.test: val"]),
        (
            ("cat/1", "val/1", "test/1"),
            {},
            ["test/, val/ have the names of splits", "dataset.test: test and dataset.validation: val"],
        ),
        (("train/1", "training/1"), {}, ["train/, training/", "dataset.train: train"]),
        (("train/1", "val/1", "dev/1"), {}, ["dev/, val/", "dataset.validation"]),
        (("train/1", "test1/1", "test2/1"), {}, ["test1/, test2/", "dataset.test"]),
        (("test/1", "val/1"), {}, ["only test/, val/, but no folder to train on", "dataset.train"]),
        (("train/0", "test/1"), {}, ["train: the folder is empty"]),
        (
            ("data/train/1", "data/test/1"),
            {},
            ["data/test/ is named like a split", "dataset.root: ", "/data;", "dataset.train: ."],
        ),
        (("cat/train/1", "cat/test/1", "dog/train/1"), {}, ["cat/test/", "dataset.train: ."]),
        (
            ("train_set/cat/1", "train_set/dog/1", "test_set/cat/1"),
            {},
            [
                "train_set/, test_set/ may be splits or classes",
                "set dataset.train: train_set, dataset.test: test_set",
                "set dataset.train: . (a dot)",
            ],
        ),
        (
            ("trainA/1", "trainB/1", "testA/1", "testB/1"),
            {},
            ["set dataset.train: trainA, dataset.test: testA"],
        ),
        (("my_train/1", "my-val/1"), {}, ["set dataset.train: my_train, dataset.test: my-val"]),
        (("Training Set/1", "Test Set/1"), {}, ["dataset.train: Training Set, dataset.test: Test Set"]),
        (("Trainingsdaten/1", "Testdaten/1"), {}, ["dataset.test: Testdaten"]),
        (("01_train/1", "02_TESTSET/1"), {}, ["dataset.test: 02_TESTSET"]),
        (("cat/train_images/1", "cat/test_images/1"), {}, ["cat/test_images/", "dataset.train: ."]),
        (
            ("train/cat/1", "train/dog/1", "train/val/1", "test/cat/1"),
            {},
            ["train/val/ is named like a split", "Move it out of train/", "set dataset.train: train"],
        ),
        (("train/cat/train/1", "train/cat/val/1", "test/1"), {}, ["train/cat/val/", "dataset.train: train"]),
        (("train/1", "test/1"), {"train": ""}, ["train is empty", "dataset.train to a folder, or to auto"]),
        (("train/1", "test/1"), {"test": " "}, ["test is empty", "dataset.test to a folder, or to auto"]),
        (("cat/1", "dog/old/Val/1"), {}, ["dog/old/Val/", "train/ and test/", "dataset.train: ."]),
        (
            ("train/1",),
            {"test": "tests"},
            ["tests: there is no such folder; there are train/", "dataset.test"],
        ),
        (("train/1", "Test/1"), {"test": "Tests"}, ["Did you mean 'Test'", "dataset.test"]),
        (("train/1",), {"train": "train/0.png"}, ["is a file", "dataset.train"]),
        (("train/1",), {"train": "none"}, ["dataset.train"]),
        (("train/1",), {"test": "../elsewhere"}, ["a folder below the root"]),
        (("train/1",), {"test": "/tmp"}, ["a folder below the root"]),
        (("train/1",), {"validation": "."}, ["a folder below the root"]),
        (("train/1", "test/0"), {"test": "test"}, ["test: the folder is empty. Set dataset.test"]),
        ((*LABELLED, "test/cats/1"), {}, ["test/cats", "Did you mean 'cat'?", "dataset.test"]),
        ((*LABELLED, "test/bus/1", "test/car/1"), {}, ["test/bus", "no class 'bus'"]),
        (
            (*LABELLED, "test/cat/1", "val/cow/1", "val/dog/1"),
            {},
            ["val/cow", "dataset.validation to another folder or to none"],
        ),
        (
            ("train/1", "test/1"),
            {"train": "train", "test": "train"},
            ["train/ would be read as both train and test"],
        ),
    ],
)
def test_refusals_name_every_reading_and_a_remedy(tmp_path, paths, parameters, words):
    message = refusal(ImageFolder(write(tmp_path, *paths), **parameters))
    assert str(tmp_path) in message
    assert [word for word in words if word not in message] == []


def test_without_labels_folders_are_no_classes(tmp_path):
    write(tmp_path, "2024-01/2", "2024-02/2")
    dataset = ImageFolder(tmp_path, labels=False)
    assert dataset.classes is None
    assert dataset.table("train").labels is None
    assert dataset.label_hint is None
    assert dataset.fingerprint() == ImageFolder(tmp_path).fingerprint()  # the images are the same


def test_a_link_never_lets_test_images_into_training(tmp_path):
    root = write(tmp_path, "train/cat/1", "train/dog/1")
    (root / "test").mkdir()
    (root / "test" / "cat").symlink_to(root / "train" / "cat")
    assert "test/cat/ and train/cat/ would be read as both train and test" in refusal(ImageFolder(root))


def test_linked_splits_are_read_and_their_targets_are_not_counted_again(tmp_path):
    root = write(tmp_path, "all/cat/1", "all/dog/1", "all/cow/2")
    (root / "train").mkdir()
    for name in ("cat", "dog"):
        (root / "train" / name).symlink_to(root / "all" / name)
    (root / "circle").symlink_to(root)
    reading = "train: train/ (2 images, 2 classes); not read: all/ (2)"
    assert ImageFolder(root, train="train").reading() == reading


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_named_if_it_is_not_needed(tmp_path):
    root = write(tmp_path, *LABELLED, "lost+found/1")
    (root / "lost+found").chmod(0)
    try:
        assert ImageFolder(root).reading().endswith("; not read: lost+found/ (cannot be read)")
    finally:
        (root / "lost+found").chmod(0o700)


def test_classes_keep_their_order_if_a_split_lacks_some(tmp_path):
    root = write(tmp_path, "train/a/1", "train/b/1", "train/c/1", "val/c/1", "test/b/2", "test/c/1")
    dataset = ImageFolder(root)
    assert dataset.classes == ["a", "b", "c"]
    assert table_of(dataset, "validation").labels.tolist() == [2]
    assert table_of(dataset, "test").labels.tolist() == [1, 1, 2]


# -- fingerprints --------------------------------------------------------------------------------------------


def listing(root: Path, *folders: str) -> str:
    """SHA-256 over the sorted relative paths and sizes of all images below some folders."""
    paths = sorted(path.relative_to(root).as_posix() for f in folders for path in (root / f).rglob("*.png"))
    lines = [f"{path}\0{(root / path).stat().st_size}\n" for path in paths]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@pytest.mark.parametrize(
    ("paths", "parameters", "folders"),
    [
        ((*LABELLED, "test/cat/1"), {}, ["train", "test"]),
        ((*LABELLED, "val/cat/1"), {}, ["train", "val"]),
        ((*LABELLED, "val/9", "test/cat/1"), {}, ["train", "test"]),
        ((*LABELLED, "/2"), {}, ["train"]),
        ((*LABELLED, "more/2"), {"train": "train"}, ["train"]),
        (("bus/2", "car/2"), {}, ["."]),
        (("bus/2", "car/2", "test/2"), {"train": "."}, ["."]),
        (("holiday/2", "/3"), {}, ["."]),
    ],
)
def test_a_reading_that_did_not_change_keeps_its_fingerprint(tmp_path, paths, parameters, folders):
    root = write(tmp_path, *paths)
    assert ImageFolder(root, **parameters).fingerprint() == listing(root, *folders)


@pytest.mark.parametrize(
    ("paths", "parameters", "former"),
    [
        (("Training/cat/2", "Testing/cat/1"), {}, ["."]),
        ((*LABELLED, "val/cat/1", "test/5"), {}, ["train", "test"]),
        ((*LABELLED, "val/cat/1", "test/dog/5"), {}, ["train", "test"]),
        ((*LABELLED, "dev/cat/1"), {}, ["train"]),
        ((*LABELLED, "test/cat/1"), {"test": "none"}, ["train", "test"]),
        (("bus/2", "car/2", "train/2"), {"train": "."}, ["train"]),
        (("bus/2", "car/2", "test/2"), {"test": "test"}, ["."]),
    ],
)
def test_a_reading_that_changed_has_another_fingerprint(tmp_path, paths, parameters, former):
    root = write(tmp_path, *paths)
    dataset = ImageFolder(root, **parameters)
    before = listing(root, *former)
    assert dataset.former_fingerprint() == before != dataset.fingerprint()
    assert re.fullmatch("[0-9a-f]{64}", dataset.fingerprint())
    whole = Subset(dataset, train=1)
    assert whole.reading() == dataset.reading()
    subset_before = hashlib.sha256(f"{before} subset 1 None".encode()).hexdigest()
    assert whole.former_fingerprint() == subset_before != whole.fingerprint()


def test_the_same_images_in_other_splits_have_another_fingerprint(tmp_path):
    root = write(tmp_path, "train/1", "a/1", "b/1")
    sets = [
        {},
        {"test": "a"},
        {"test": "b"},
        {"test": "a", "validation": "b"},
        {"test": "b", "validation": "a"},
    ]
    prints = [ImageFolder(root, train="train", **parameters).fingerprint() for parameters in sets]
    assert len(set(prints)) == len(sets)


def test_an_image_that_a_link_puts_into_two_splits_is_refused(tmp_path):
    root = write(tmp_path, "train/cat/1", "train/dog/1", "test/cat/0")
    (root / "test/cat/other.png").symlink_to(root / "train/cat/0.png")
    assert "test/cat/other.png and train/cat/0.png would be read as both train and test" in refusal(
        ImageFolder(root)
    )


def test_folders_of_systems_are_no_images_and_are_named(tmp_path):
    root = write(tmp_path, "cat/1", "dog/1", "cat/@eaDir/0.png/2", "@eaDir/3", "#recycle/cat/1")
    dataset = ImageFolder(root)
    assert dataset.reading() == "train: ./ (2 images, 2 classes)"
    assert table_of(dataset, "train").skipped == ["#recycle/", "@eaDir/", "cat/@eaDir/"]
    messages = skipped_messages(["#recycle/", "@eaDir/", "cat/@eaDir/"])
    assert "skipped 2 @eaDir/ folders (written by a system, not by you): @eaDir/, cat/@eaDir/" in messages
    write(root, "train/cat/1", "train/dog/1")
    parted = ImageFolder(root, train="train")
    assert parted.reading().endswith("#recycle/ (written by a system), @eaDir/ (written by a system)")


def test_broken_links_are_named_as_such(tmp_path):
    root = write(tmp_path, *LABELLED)
    (root / "test").symlink_to(root / "nowhere")
    (root / "train" / "owl").symlink_to(root / "nowhere")
    dataset = ImageFolder(root)
    assert dataset.reading() == "train: train/ (6 images, 2 classes); not read: test (broken link)"
    assert table_of(dataset, "train").skipped == ["train/owl (broken link)"]
    assert skipped_kinds(["train/owl (broken link)"]) == ["1 broken link"]


def test_a_class_is_read_under_its_own_name_rather_than_that_of_a_link(tmp_path):
    root = write(tmp_path, "train/cat/1", "train/dog/1", "test/cat/1")
    (root / "train" / "Katze").symlink_to(root / "train" / "cat")
    assert ImageFolder(root).classes == ["cat", "dog"]
    write(root, "test/Katze/1")
    assert "train/Katze holds no images of its own" in refusal(ImageFolder(root))


def test_a_class_without_images_in_train_is_named_as_that(tmp_path):
    root = write(tmp_path, *LABELLED, "train/owl/0", "test/owl/1", "test/cat/1")
    message = refusal(ImageFolder(root))
    assert "train/owl holds no images of its own. Put images there, or remove the folder" in message


def test_two_forms_of_unicode_are_one_class(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    root = write(
        tmp_path, f"train/{composed}/1", "train/dog/1", f"train/{decomposed}/1", f"test/{decomposed}/1"
    )
    dataset = ImageFolder(root)
    assert dataset.classes == [composed, "dog"]
    assert table_of(dataset, "test").labels.tolist() == [0]
