"""``--html`` of ``duplicates``, ``labels``, ``select``, ``search`` and ``predict``: pages of pictures."""

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
from PIL import Image

from contrastive.cli import main
from contrastive.commands import duplicates, predict, search
from contrastive.commands.image_outputs import MOST_PICTURES, notes_on
from contrastive.commands.thumbnails import Thumbnails
from contrastive.pages import FoldedList, Group, Section, gallery, gallery_page
from tests.support.browser import needs_chromium, on_a_phone
from tests.support.command_line import json_of, refused
from tests.support.curation import Pixels, picture, scene, write_scenes

pytestmark = pytest.mark.usefixtures("elsewhere", "own_cache")


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    """Scenes of two classes: one of train is also in test with another label, one is twice in train."""
    write_scenes(tmp_path / "photos")
    shutil.copy(tmp_path / "photos/train/disc/3.png", tmp_path / "photos/test/checks/leak.png")
    shutil.copy(tmp_path / "photos/train/disc/5.png", tmp_path / "photos/train/disc/twice.png")
    return ["--set", f"dataset.root={tmp_path / 'photos'}"]


def page_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The page that a command writes."""
    assert json_of(capsys, *arguments, "--html", "p.html")["html"] == "p.html"
    return Path("p.html").read_text()


def groups_of(page: str) -> list[str]:
    return re.findall("<figure>.*?</figure>", page, re.DOTALL)


def titles(part: str) -> list[str]:
    """The first line of each picture's title: what image it is."""
    return [
        html.unescape(title.partition("\n")[0]) for title in re.findall(r'title="(.*?)"', part, re.DOTALL)
    ]


def captions(part: str) -> list[str]:
    texts = re.findall("<small.*?>(.*?)</small>", part)
    return [html.unescape(re.sub("</?i>", "", text)) for text in texts]


def headings(page: str) -> list[str]:
    return re.findall("<h2>(.*?)</h2>", page)


def words(page: str) -> str:
    without_style = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]*>", " ", without_style)))


def test_groups_of_duplicates_stand_side_by_side_leaks_first(
    tiny_run: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
):
    page = page_of(capsys, "duplicates", str(tiny_run), *photos, "--out", "d.parquet")
    assert "Leaks between splits" in headings(page)[0]
    leak, *others = groups_of(page)
    leak_row, *other_rows = pq.read_table("d.parquet").to_pylist()
    assert titles(leak) == [
        f"train: train/disc/3.png, id {leak_row['id_a']}, disc",
        f"test: test/checks/leak.png, id {leak_row['id_b']}, checks",
    ]
    assert captions(leak) == ["train", "3.png", "test", "equal", "leak.png"]
    assert "labels differ" in leak
    assert f"<li>train: train/disc/3.png, id {leak_row['id_a']}, disc</li>" in leak
    assert len(others) == len(other_rows) == 1
    assert {title.partition(",")[0] for title in titles(others[0])} == {
        "train: train/disc/5.png",
        "train: train/disc/twice.png",
    }
    assert "labels differ" not in others[0]
    assert "34 images · 2 pairs · equal 2" in words(page)
    assert "not verified" not in words(page)


def test_what_does_not_fit_into_a_page_of_duplicates_is_said(
    tiny_run: Path, photos: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(duplicates, "MOST_PICTURES", 2)
    page = page_of(capsys, "duplicates", str(tiny_run), *photos)
    assert len(groups_of(page)) == 1
    assert len(headings(page)) == 2
    assert "1 group, equal and most similar images first; the first 0 are shown." in words(page)
    assert "None is shown: a page has at most 2 pictures." in words(page)


def test_a_large_group_shows_some_of_its_images_and_says_how_many(
    tiny_run: Path, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for n in range(20):
        shutil.copy(tmp_path / "photos/train/disc/5.png", tmp_path / f"photos/train/disc/again{n}.png")
    page = page_of(capsys, "duplicates", str(tiny_run), *photos)
    assert "22 images, 12 shown" in groups_of(page)[1]
    assert len(titles(groups_of(page)[1])) == 12


def test_a_page_without_duplicates_says_so(tiny_run: Path, tmp_path: Path, capsys):
    for n in range(4):
        (tmp_path / "few/train/a").mkdir(parents=True, exist_ok=True)
        picture(scene(n)).save(tmp_path / f"few/train/a/{n}.png")
    page = page_of(capsys, "duplicates", str(tiny_run), "--set", f"dataset.root={tmp_path / 'few'}")
    assert headings(page) == ["Duplicates"]
    assert "None among 4 images." in words(page)


def test_a_suspicious_label_stands_next_to_images_of_both_classes(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(tiny_data, tmp_path / "photos")
    (tmp_path / "photos/train/disc/5.png").rename(tmp_path / "photos/train/stripes/wrong.png")
    dataset = ("--set", f"dataset.root={tmp_path / 'photos'}")
    page = page_of(capsys, "labels", str(tiny_run), *dataset, "--out", "l.parquet")
    rows, groups = pq.read_table("l.parquet").to_pylist(), groups_of(page)
    assert len(groups) == MOST_PICTURES // 6
    assert "The first 50 of 150 labelled images, the most suspicious label first." in words(page)
    for row, group in zip(rows, groups, strict=False):
        own, *neighbours = titles(group)
        assert own == f"{row['split']}: {row['name']}, id {row['id']}, {row['class']}"
        assert [name.rpartition(", ")[2] for name in neighbours] == [
            *[row["class"]] * 2,
            *[row["suggestion_class"]] * 3,
        ]
        assert own not in neighbours
        heading = f"{row['rank']}. label {row['class']} ({100 * row['probability']:.1f} %), suggested"
        assert heading in words(group)
    assert "train: train/stripes/wrong.png" in " ".join(titles("".join(groups[:5])))


def test_a_selection_is_shown_in_its_order(
    tiny_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("contrastive.commands.selection.MOST_PICTURES", 5)
    page = page_of(capsys, "select", str(tiny_run), "--n", "7", "--out", "s.parquet")
    rows = pq.read_table("s.parquet").to_pylist()[:5]
    assert [title.partition(", id")[0] for title in titles(page)] == [f"train: {row['name']}" for row in rows]
    texts = [[str(row["order"]), f"{row['distance'] or 0:.3f}", row["name"].split("/")[-1]] for row in rows]
    del texts[0][1]  # the first image has no distance
    assert captions(page) == [text for own in texts for text in own]
    assert "The first 5 of 7 are shown" in words(page)
    assert "7 images of 120 · every image is within" in words(page)


def test_a_query_is_followed_by_the_images_nearest_to_it(
    tiny_run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
):
    files = [str(tiny_data / "test/disc/4.png"), str(tiny_data / "train/checks")]
    command = ("search", str(tiny_run), *files, "--neighbours", "3", "--out", "s.parquet")
    page = page_of(capsys, *command)
    rows, groups = pq.read_table("s.parquet").to_pylist(), groups_of(page)
    assert len(groups) == 41
    assert titles(groups[0]) == [
        files[0],
        *(f"{row['split']}: {row['name']}, id {row['id']}, {row['name'].split('/')[1]}" for row in rows[:3]),
    ]
    assert captions(groups[0])[:5] == ["query", "4.png", "1.000", "disc", "4.png"]


def test_many_queries_and_neighbours_are_shown_in_part(
    tiny_run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(search, "MOST_PICTURES", 36)
    page = page_of(capsys, "search", str(tiny_run), str(tiny_data / "train/checks"), "--neighbours", "20")
    assert [len(titles(group)) for group in groups_of(page)] == [12] * 3
    assert "The first 3 of 40 queries are shown. Of 20 neighbours of each, 11 are shown." in words(page)
    page = page_of(
        capsys, "search", str(tiny_run), str(tiny_data / "train/checks/3.png"), "--neighbours", "20"
    )
    assert [len(titles(group)) for group in groups_of(page)] == [21]
    assert "are shown" not in words(page)


def test_predictions_are_shown_by_class_the_least_certain_first(
    tiny_run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    command = ("predict", str(tiny_run), str(tiny_data / "test"))
    page = page_of(capsys, *command, "--out", "p.parquet")
    rows = pq.read_table("p.parquet").to_pylist()
    for group, name in zip(groups_of(page), ("checks", "disc", "stripes"), strict=True):
        own = sorted((row for row in rows if row["class"] == name), key=lambda row: row["probability"])
        assert f"{name}: {len(own)} images" in words(group)
        assert titles(group) == [row["name"] for row in own]
        assert captions(group)[::2] == [f"{100 * row['probability']:.1f} %" for row in own]
    monkeypatch.setattr(predict, "MOST_PICTURES", 12)
    page = page_of(capsys, *command)
    assert [len(titles(group)) for group in groups_of(page)] == [6, 6]
    assert "The first 2 of 3 predicted classes are shown." in words(page)
    assert re.search(r"checks: \d+ images, 6 shown", words(page))


def test_a_page_of_a_file_of_features_needs_its_images(
    tiny_run: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
):
    json_of(capsys, "embed", str(tiny_run), *photos, "--out", "f.parquet")
    for command in (["duplicates"], ["labels"], ["select", "--n", "3"]):
        message = refused(capsys, command[0], "f.parquet", *command[1:], "--html", "p.html")
        assert "so a page has no pictures to show; set the data set that the features are of" in message
    root = photos[1].partition("=")[2]
    dataset = ("--set", f"dataset={{name: image_folder, root: {root}}}")
    page = page_of(capsys, "select", "f.parquet", "--n", "3", *dataset)
    assert len(titles(page)) == 3
    query = f"{root}/train/disc/3.png"
    search_command = ("search", "f.parquet", query, "--encoder", str(tiny_run))
    assert "has no pictures to show" in refused(capsys, *search_command, "--html", "p2.html")
    page = page_of(capsys, *search_command, *dataset, "--neighbours", "2")
    assert {title.partition(",")[0] for title in titles(page)} == {
        query,
        "train: train/disc/3.png",
        "test: test/checks/leak.png",
    }


def test_a_stranger_s_file_whose_ids_are_paths_has_pictures(
    tmp_path: Path, photos: list[str], capsys: pytest.CaptureFixture[str]
):
    files = sorted(str(path) for path in (tmp_path / "photos/train/disc").glob("*.png"))
    vectors = torch.randn(len(files), 4, generator=torch.Generator().manual_seed(0))
    vectors[files.index(str(tmp_path / "photos/train/disc/twice.png"))] = vectors[5]
    pq.write_table(pa.table({"id": files, "features": vectors.tolist()}), "f.parquet")
    page = page_of(capsys, "select", "f.parquet", "--n", "4")
    assert all(title in files for title in titles(page))
    page = page_of(capsys, "duplicates", "f.parquet")
    assert "The pairs are not verified" in words(page)
    assert captions(groups_of(page)[0]) == [Path(files[5]).name, "cosine", "1.000", "twice.png"]


def test_an_image_that_is_gone_leaves_a_grey_square():
    thumbnails = Thumbnails()
    images = Pixels([scene(0), None])
    assert thumbnails.picture(images, 0, "a").name == "a"
    assert thumbnails.picture(images, 1, "b").name == "b: broken"
    assert thumbnails.sprite.picture().getpixel((96 + 40, 40)) == (128, 128, 128)
    assert thumbnails.picture(images, 0, "a").thumbnail == 0
    assert len(thumbnails.sprite) == 2


def test_images_that_could_not_be_read_are_named(
    tiny_run: Path, photos: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "photos/train/disc/broken.png").write_bytes(b"no image")
    page = page_of(capsys, "select", str(tiny_run), "--n", "2", *photos)
    assert re.search(r'<ul class="notes"><li>1 image could not be read: train/disc/broken.png: ', page)


def test_many_images_that_could_not_be_read_are_folded_up(monkeypatch: pytest.MonkeyPatch):
    names = [f"{n}.jpg: empty" for n in range(9)]
    assert notes_on(names[:5]) == [f"5 images could not be read: {'; '.join(names[:5])}."]
    assert notes_on(names) == [FoldedList("9 images could not be read; their names:", names)]
    monkeypatch.setattr("contrastive.commands.image_outputs.MOST_NAMES", 7)
    assert notes_on(names)[0].lines == [*names[:7], "and 2 more"]


def test_a_page_of_noise_with_long_names_is_below_three_megabytes():
    rng, thumbnails = np.random.default_rng(0), Thumbnails()
    noise = [
        torch.from_numpy(rng.integers(0, 256, (3, 96, 96), dtype=np.uint8)) for _ in range(MOST_PICTURES)
    ]
    images = Pixels(noise)
    name = f"train: {'x' * 250}.jpg, id 1234567890123456789, a class of birds"
    pictures = [thumbnails.picture(images, row, name, ["near 0.93", "train"]) for row in range(MOST_PICTURES)]
    body = gallery([Group([own], "labels differ", [name]) for own in pictures], thumbnails.sprite)
    page = gallery_page("t", "f", [(Section("a", "A", body), thumbnails.sprite)])
    assert 2_000_000 < len(page) < 3_000_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--html", "mine.html"], "mine.html exists and is not a page that contrastive wrote"),
        (["--html", "no/p.html"], "no does not exist; make the folder first"),
        (["--html", "folder"], "folder is a folder; name a file with --html"),
        (["--html", "PHOTOS/p.html"], "write it elsewhere with --html"),
        (["--html", "p", "--out", "./p"], "--out and --html are both p; name two files"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
@pytest.mark.parametrize("command", ["duplicates", "labels", "select", "search", "predict"])
def test_nothing_but_an_earlier_page_is_replaced(
    tiny_run: Path,
    photos: list[str],
    tmp_path: Path,
    command: str,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
):
    Path("mine.html").write_text("<html>mine</html>")
    Path("folder").mkdir()
    image = str(tmp_path / "photos/train/disc/3.png")
    rest = {"select": ["--n", "2"], "search": [image], "predict": [image]}.get(command, [])
    own = [text.replace("PHOTOS", str(tmp_path / "photos")) for text in options]
    assert message in refused(capsys, command, str(tiny_run), *rest, *photos, *own)


def test_a_page_replaces_an_earlier_one_and_stays_whole_if_that_fails(
    tiny_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    command = ["select", str(tiny_run), "--n", "2", "--html", "p.html"]
    for _ in range(2):
        assert main(command) == 0
    assert capsys.readouterr().out.endswith("p.html: a page of pictures\n")
    before = Path("p.html").read_text()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("contrastive.files.sync", fail)
    message = refused(capsys, *command)
    assert "p.html cannot be written (No space left on device); choose another path with --html" in message
    assert Path("p.html").read_text() == before


PROBE = """\
const answer = {
  width: document.documentElement.scrollWidth, window: innerWidth,
  background: getComputedStyle(document.body).backgroundColor,
  pictures: [...document.querySelectorAll(".thumbnail")].filter((each) => each.clientWidth > 10).length,
};
"""


@needs_chromium
@pytest.mark.parametrize("command", ["duplicates", "labels", "select", "search", "predict"])
def test_a_page_fits_a_phone_without_a_network(
    tiny_run: Path, photos: list[str], tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
):
    image = tmp_path / "photos/train/disc" / f"{'a long name ' * 12}.png"
    Image.new("RGB", (300, 20), (200, 30, 30)).save(image)
    rest = {"select": ["--n", "5"], "search": [str(image)], "predict": [str(image)]}.get(command, [])
    page = page_of(capsys, command, str(tiny_run), *rest, *photos)
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == []
    assert re.findall(r'url\("(?!data:)', page) == []
    told = on_a_phone(page, tmp_path, PROBE, milliseconds=2000)
    assert told["width"] <= told["window"]
    assert told["background"] == "rgb(20, 24, 30)"
    assert told["pictures"] == len(titles(page)) > 0
