"""``contrastive report`` of a file of features: embed's own, a stranger's, and files without pictures."""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageFilter

from contrastive.cli import main
from contrastive.commands.image_outputs import with_pictures
from contrastive.commands.report.command import report
from contrastive.commands.report.images import read_images, read_images_of
from contrastive.commands.report.predictions import (
    Predictions,
    knn_of,
    predict,
    query_part_of,
    query_part_of_encoder,
)
from contrastive.curation import open_features
from contrastive.errors import DataError
from contrastive.registry import load_registry
from contrastive.runs import load_encoder
from tests.support.command_line import json_of, refused
from tests.support.curation import picture, scene, write_scenes

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Scenes of two classes in train and test; one of train is also in test, one is twice in train."""
    root = tmp_path / "photos"
    write_scenes(root, train=24, test=6)
    shutil.copy(root / "train/disc/3.png", root / "test/checks/leak.png")
    shutil.copy(root / "train/disc/5.png", root / "train/disc/twice.png")
    return root


@pytest.fixture
def embedded(tiny_run: Path, photos: Path) -> list[str]:
    """``f.parquet``, as embed writes it of the photos, and the options that name its data set."""
    assert main(["embed", str(tiny_run), "--set", f"dataset.root={photos}", "--out", "f.parquet"]) == 0
    return ["f.parquet", "--set", dataset(photos)]


def dataset(root: Path) -> str:
    return f"dataset={{name: image_folder, root: {root}}}"


def of_paths(files: list[Path], **columns: list[object]) -> str:
    """``s.parquet``: ids that are texts, paths as names, and features of noise."""
    ids, features = [f"photo {n}" for n in range(len(files))], torch.randn(len(files), 6).tolist()
    pq.write_table(
        pa.table({"id": ids, "name": [*map(str, files)], "features": features, **columns}), "s.parquet"
    )
    return "s.parquet"


def headings(page: str) -> list[str]:
    return re.findall("<h2>(.*?)</h2>", page)


def words(page: str) -> str:
    without_style = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]*>", " ", without_style)))


def pictures_in(page: str, key: str) -> list[str]:
    """Titles and captions of the pictures of a section, in order."""
    section = re.search(rf'<section id="{key}">.*?</section>', page, re.DOTALL)
    return re.findall(r'title="(.*?)"', section[0], re.DOTALL) if section else []


def names_in(page: str, key: str) -> set[str]:
    return {title.partition("\n")[0].split("/")[-1] for title in pictures_in(page, key)}


def test_a_page_of_embed_s_file_shows_what_the_page_of_its_encoder_shows(
    tiny_run: Path, photos: Path, embedded: list[str], capsys: pytest.CaptureFixture[str]
):
    outcome = json_of(capsys, "report", *embedded)
    assert outcome["report"] == "f-report.html"
    assert outcome["images"] == 62
    page = Path("f-report.html").read_text()
    assert outcome["bytes"] == len(page.encode())
    report(tiny_run, {"dataset.root": str(photos)}, out="encoder.html")
    other = Path("encoder.html").read_text()
    for key in ("neighbours", "outliers", "duplicates"):
        assert pictures_in(page, key) == pictures_in(other, key) != [], key
    assert {"3.png", "leak.png", "5.png", "twice.png"} == names_in(page, "duplicates")
    assert headings(page) == [
        "Nearest neighbours", "Map", "Outliers", "Likely duplicates",
        "Blurred images, or images of smooth things", "Classes", "Confusion matrix",
    ]  # fmt: skip
    text = words(page)
    assert (
        "This page is about the features in f.parquet, of width 64, and 62 images that they are of." in text
    )
    assert re.search(r"Metrics need the encoder:\s+contrastive evaluate ENCODER", text)
    assert "kNN on features of the file predicts 13 images of test by the votes of 49 labelled images" in text
    assert "features h" not in text
    assert "encoder reads" not in text
    assert "The metrics above" not in text


def test_without_a_data_set_names_that_are_paths_give_the_pictures(
    photos: Path, embedded: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    message = refused(capsys, "report", "f.parquet")
    assert "f.parquet holds no images, and not every name in it is the path of a file" in message
    assert "so a page has no pictures to show; set the data set that the features are of" in message
    json_of(capsys, "report", *embedded, "--out", "set.html")
    file, out = Path("f.parquet").resolve(), Path("paths.html").resolve()
    monkeypatch.chdir(photos)
    assert json_of(capsys, "report", str(file), "--out", str(out))["images"] == 62
    pages = [(out.parent / name).read_text() for name in ("set.html", "paths.html")]
    neighbours, others = (pictures_in(page, "neighbours") for page in pages)
    assert [re.sub(r"checks|disc", "", title) for title in neighbours] != []
    assert [title.partition("\n")[0] for title in neighbours] == [
        title.partition("\n")[0] for title in others
    ]
    assert "class 1" in words(pages[1])  # its labels are numbers


def test_a_stranger_s_photographs_of_all_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    sizes = [(40, 30), (700, 90), (64, 900), (1500, 1000), *[(200, 150)] * 20]
    files = [tmp_path / f"{n}.png" for n in range(len(sizes))]
    for n, (file, size) in enumerate(zip(files, sizes, strict=True)):
        picture(scene(n, *size[::-1])).save(file)
    grey, soft, small, broken = (tmp_path / f"{name}.png" for name in ("grey", "soft", "small", "broken"))
    Image.open(files[9]).convert("L").save(grey)
    Image.open(files[10]).filter(ImageFilter.GaussianBlur(25)).save(soft)
    Image.open(soft).resize((32, 24)).save(small)
    Image.new("RGB", (300, 200), (3, 3, 3)).save(tmp_path / "night.png")
    broken.write_bytes(b"no image")
    source = of_paths([*files, grey, soft, small, broken, tmp_path / "night.png"])
    assert json_of(capsys, "report", source, "--map", "pca", "--out", "p.html")["images"] == len(sizes) + 4
    page = Path("p.html").read_text()
    text = words(page)
    assert headings(page)[:3] == ["Nearest neighbours", "Map", "Outliers"]
    assert "1 image could not be read: " in text
    assert "broken.png" in text
    assert "No table of classes: the images have no labels." in text
    assert "another class" not in text
    assert "soft.png" in names_in(page, "blur")
    assert "small.png" not in names_in(page, "blur"), "it is below 64 px, so its blur is not measured"
    assert names_in(page, "blank") == {"night.png"}
    assert "both of the whole picture and of the square in the middle, at 128 px." in text


def test_blur_is_not_measured_if_all_images_are_small(tiny_data: Path):
    report(of_paths(sorted(tiny_data.rglob("*.png"))[:9]), out="p.html")
    text = words(Path("p.html").read_text())
    assert "Blur is not measured: all images are below 64 px." in text
    assert "blurred" not in text


def test_classes_need_a_split_that_votes_and_one_that_is_scored(photos: Path):
    files = sorted(photos.rglob("*.png"))
    labels = [file.parent.name for file in files]

    def page(**columns: list[object]) -> str:
        report(of_paths(files, label=labels, **columns), out="p.html")
        return words(Path("p.html").read_text())

    assert "No table of classes: no split is called train, by whose labels those of other" in page()
    text = page(split=["train"] * len(files))
    assert "No table of classes: no labelled image is called test or validation, and none of train is" in text
    text = page(split=[file.relative_to(photos).parts[0].replace("test", "validation") for file in files])
    assert "predicts 13 images of validation by the votes of 49 labelled images" in text
    assert re.search(r"checks 24 7 .* disc 25 6 ", text)
    assert "Confusion matrix" in text


@pytest.mark.parametrize("splits", [("train", "test"), ("train",)])
def test_predictions_are_those_of_the_encoder_s_page(
    tiny_run: Path, tiny_data: Path, splits: tuple[str, ...]
):
    for split in splits:
        shutil.copytree(tiny_data / split, Path("own") / split)
    assert main(["embed", str(tiny_run), "--set", "dataset.root=own", "--out", "f.parquet"]) == 0
    loaded = load_encoder(tiny_run, load_registry(), {"dataset.root": "own"})
    images = read_images(loaded)
    table = open_features("f.parquet", load_registry(), {"dataset": {"name": "image_folder", "root": "own"}})
    own = read_images_of(table)
    assert [own.name(n) for n in range(len(own))] == [images.name(n) for n in range(len(images))]
    torch.testing.assert_close(own.features, images.features)
    knn = knn_of(loaded)
    expected, predictions = (
        predict(images, query_part_of_encoder(loaded), knn),
        predict(own, query_part_of(table), knn),
    )
    assert isinstance(expected, Predictions)
    assert isinstance(predictions, Predictions)
    assert np.array_equal(predictions.matrix, expected.matrix)
    assert predictions.split == expected.split == ("test" if "test" in splits else "validation")
    assert predictions.matrix.sum() == (30 if "test" in splits else table.held_out.sum())


def test_a_sample_is_that_of_the_encoder_s_page(
    tiny_run: Path, photos: Path, embedded: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("contrastive.commands.report.images.MOST_IMAGES", 7)
    images = read_images(load_encoder(tiny_run, load_registry(), {"dataset.root": str(photos)}))
    table = open_features("f.parquet", load_registry(), [dataset(photos)])
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    own = read_images_of(with_pictures(shuffled, "f.parquet"))
    assert [own.name(n) for n in range(7)] == [images.name(n) for n in range(7)]
    assert (len(own), own.total) == (7, 62)
    report("f.parquet", [dataset(photos)], out="p.html")
    text = words(Path("p.html").read_text())
    assert "Neighbours, map, outliers, duplicates and classes are of 7 of 62 images, chosen by a hash" in text
    assert "so they may differ" not in text


def test_numbers_that_are_labels_may_be_large(photos: Path):
    files = sorted(photos.rglob("*.png"))
    labels = [10**12 + len(file.parent.name) for file in files]
    report(of_paths(files, label=labels), out="p.html")
    assert '["class 1000000000004","class 1000000000006"]' in Path("p.html").read_text()


def test_what_has_no_effect_or_would_replace_something_is_refused(
    photos: Path, embedded: list[str], capsys: pytest.CaptureFixture[str]
):
    own = ["report", *embedded]
    assert "optimizer.lr: f.parquet holds features, so this has no effect; remove it." in refused(
        capsys, *own, "--set", "optimizer.lr=1"
    )
    assert "is read without images, so --set has no effect" in refused(
        capsys, "report", "f.parquet", "--set", "train.workers=0"
    )
    Path("mine.html").write_text("<html>mine</html>")
    assert "exists and is not a page that contrastive wrote" in refused(capsys, *own, "--out", "mine.html")
    assert "is not a page that contrastive wrote" in refused(capsys, *own, "--out", "f.parquet")
    assert "belongs to the data set" in refused(capsys, *own, "--out", str(photos / "p.html"))
    assert "absent.parquet does not exist" in refused(capsys, "report", "absent.parquet")
    for _ in range(2):
        assert main([*own, "--out", "p.html"]) == 0


def test_files_that_cannot_be_read_are_an_error_and_no_page(tmp_path: Path):
    files = [tmp_path / f"{n}.png" for n in range(3)]
    for file in files:
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match="no image can be read"):
        report(of_paths(files), out="p.html")
    assert not Path("p.html").exists()
