"""``contrastive report``: what a page holds of a run, of other encoders, and of difficult data."""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import contrastive
from contrastive.cli import main
from contrastive.commands.report import command
from contrastive.commands.report.command import report
from contrastive.commands.report.images import read_images
from contrastive.commands.report.predictions import knn_of, predict, query_part_of_encoder
from contrastive.errors import DataError
from contrastive.registry import load_registry
from contrastive.runs import load_encoder
from tests.support.browser import needs_chromium, on_a_phone
from tests.support.command_line import json_of, refused
from tests.support.tiny import image

pytestmark = pytest.mark.usefixtures("elsewhere")
#: What ends a run soon, with the metrics of one protocol.
SHORT = ("--set", "train.max_steps=2", "--set", "evaluate.linear=null")


def body(page: str) -> str:
    """The page without its scripts and style."""
    return re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)


def headings(page: str) -> list[str]:
    return re.findall("<h2>(.*?)</h2>", page)


def words(page: str) -> str:
    return html.unescape(re.sub("<[^>]*>", " ", body(page)))


def folder_of(files: dict[str, Image.Image]) -> Path:
    """``d/train/...`` with these images."""
    for name, picture in files.items():
        path = Path("d/train") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    return Path("d")


def page_on(run: Path, root: Path) -> str:
    """The page of a run's encoder on another folder."""
    outcome = report(run, {"dataset.root": str(root)}, out="p.html")
    return Path(outcome["report"]).read_text()


def noise(number: int, size: int = 16) -> Image.Image:
    return image("disc", np.random.default_rng(number), size)


@pytest.fixture
def tiny_page(whole_run: Path) -> str:
    """The page with which ``contrastive run`` ends."""
    return (whole_run / "report.html").read_text()


def test_every_run_ends_with_a_page_of_all_sections(tiny_page: str):
    page = tiny_page
    assert headings(page) == [
        "Verdict", "Metrics", "Curves", "Views that training compared", "Nearest neighbours", "Map",
        "Outliers",
        *(["Likely duplicates"] if 'id="duplicates"' in page else []),
        "Classes", "Confusion matrix", "Cost", "Recipe", "Environment", "Not shown",
    ]  # fmt: skip
    for section in re.findall(r"<section.*?</section>", page, re.DOTALL):
        content = re.sub(r"<h2>.*?</h2>|<p class=\"how\">.*?</p>", "", section)
        assert re.search(r"<(td|svg|i|canvas|li|dd|pre)\b", content), section[:200]
    text = words(page)
    for name in ("stripes", "checks", "disc"):
        assert name in text
    assert "simclr" in text  # the recipe
    assert "without labels trained untrained" in " ".join(text.split())
    assert "Blur is not measured: the encoder reads images below 64 px." in text


def test_a_page_needs_nothing_from_outside(tiny_page: str):
    page = tiny_page
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == []
    without_data = re.sub(r"data:image/webp;base64,[A-Za-z0-9+/=]+", "", page)
    assert re.findall(r"(?:https?:)?//(?!/)[a-z]", body(without_data)) == []
    assert re.findall(r'url\("(?!data:)', page) == []
    assert len(page) < 300_000


def test_the_page_changes_nothing_else_in_the_folder(tiny_run: Path):
    def digests() -> dict[str, str]:
        return {
            str(path.relative_to(tiny_run)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(tiny_run.rglob("*"))
            if path.is_file()
        }

    before = digests()
    assert main(["report", str(tiny_run), "--out", "mine.html"]) == 0
    assert digests() == before


def test_predictions_are_those_of_the_metric_when_all_images_are_read(tiny_run: Path):
    loaded = load_encoder(tiny_run, load_registry())
    images = read_images(loaded)
    predictions = predict(images, query_part_of_encoder(loaded), knn_of(loaded))
    assert predictions.accuracy == pytest.approx(contrastive.Run(tiny_run).summary["trained"]["knn_top1"])
    assert predictions.matrix.sum(1).tolist() == [10, 10, 10]
    assert predictions.bank_sizes.tolist() == [40, 40, 40]


def test_images_of_a_report_are_those_of_the_tables(tiny_run: Path):
    loaded = load_encoder(tiny_run, load_registry())
    images = read_images(loaded)
    assert len(images) == images.total == 150
    assert len({images.name(index) for index in range(150)}) == 150
    for index in (0, 17, 149):
        split, table, row = images.at(index)
        assert images.name(index) == table.name(row)
        assert images.class_name(int(images.labels[index])) in table.name(row)
        assert split in ("train", "test")
    first = {images.at(index)[0] for index in range(10)}
    assert first == {"train", "test"}  # any first ones have an even share of each split


def test_a_deadline_leaves_a_sample_and_the_page_says_so(tiny_run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("contrastive.commands.report.images.BATCH", 16)
    outcome = report(tiny_run, out="p.html", seconds=0.0)
    assert outcome["images"] == 16
    text = words(Path("p.html").read_text())
    assert "duplicates and classes are of 16 of 150 images, chosen by a hash of their ids." in text
    assert f"contrastive report {tiny_run} reads all of them." in re.sub(r"\s+", " ", text)


def test_a_sample_without_labels_has_no_classes(tiny_run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("contrastive.commands.report.images.BATCH", 4)
    root = folder_of({f"{n}.png": noise(n) for n in range(8)})
    report(tiny_run, {"dataset.root": str(root)}, out="p.html", seconds=0.0)
    assert "outliers and duplicates are of 4 of 8 images" in words(Path("p.html").read_text())


def test_images_that_the_run_could_not_read_are_named_though_the_page_reads_others(tiny_run: Path):
    shutil.copytree(tiny_run, "run")
    summary = json.loads(Path("run/summary.json").read_text())
    Path("run/summary.json").write_text(json.dumps({**summary, "unreadable": ["broken.png: empty file"]}))
    report("run")
    text = words(Path("run/report.html").read_text())
    assert "1 image could not be read: broken.png: empty file" in text


@pytest.mark.usefixtures("whole_ends")
def test_a_report_that_fails_leaves_a_finished_run(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(*_, **__):
        raise RuntimeError("of no importance")

    with monkeypatch.context() as patch:
        patch.setattr(command, "read_images", fail)
        assert main(["run", str(tiny_recipe), *SHORT, "--out", "out"]) == 0
    out = capsys.readouterr().out
    assert "warning: no report: of no importance" in out
    assert out.splitlines()[-1] == "out"
    assert contrastive.Run("out").summary["trained"]
    assert not Path("out/report.html").exists()
    assert main(["run", str(tiny_recipe), *SHORT, "--out", "out"]) == 0
    page = Path("out/report.html")
    assert page.exists(), "a finished run without a page gets one"
    written = page.stat().st_mtime_ns
    assert main(["run", str(tiny_recipe), *SHORT, "--out", "out"]) == 0
    assert page.stat().st_mtime_ns == written


@pytest.mark.usefixtures("whole_ends")
def test_the_data_set_is_not_opened_again_at_the_end_of_a_run(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
):
    counts = []

    def spy(encoder, registry, overrides, open_data_sets):
        before = len(open_data_sets)
        subject = load_encoder(encoder, registry, overrides, open_data_sets)
        counts.append((before, len(open_data_sets)))
        return subject

    monkeypatch.setattr(command, "load_encoder", spy)
    assert main(["run", str(tiny_recipe), *SHORT, "--out", "out"]) == 0
    assert counts == [(1, 1)]


@pytest.mark.usefixtures("whole_ends")
def test_ctrl_c_in_the_report_leaves_a_finished_run(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(
        command, "read_images", lambda *_: os.kill(os.getpid(), signal.SIGINT) or time.sleep(9)
    )
    assert main(["run", str(tiny_recipe), *SHORT, "--out", "out"]) == 130
    assert "interrupted; the run is finished, its report is not" in capsys.readouterr().err
    assert contrastive.Run("out").summary["trained"]


def test_a_moved_data_set_is_still_the_run_s_own_and_another_is_not(tiny_run: Path, tiny_data: Path):
    shutil.copytree(tiny_data, "moved")
    shutil.copytree(tiny_run, "run")
    report("run", {"dataset.root": str(Path("moved").resolve())})
    assert "Curves" in headings(Path("run/report.html").read_text())
    next(Path("moved").rglob("*.png")).unlink()
    outcome = report("run", {"dataset.root": str(Path("moved").resolve())})
    assert outcome["report"] == "tiny-report.html"
    assert "Curves" not in headings(Path("tiny-report.html").read_text())


def test_the_page_of_an_interrupted_run_says_so(tiny_run: Path):
    shutil.copytree(tiny_run, "half")
    (Path("half") / "summary.json").unlink()
    report("half")
    text = words(Path("half/report.html").read_text())
    assert "The run has not finished" in text
    assert "No metrics: the run has not finished." in text
    assert 'id="cost"' not in Path("half/report.html").read_text()


def test_an_export_on_a_folder_has_no_parts_of_a_run(tiny_run: Path, tiny_data: Path, capsys):
    dataset = f"dataset={{name: image_folder, root: '{tiny_data}'}}"
    outcome = json_of(
        capsys, "report", str(tiny_run / "backbone"), "--set", dataset, "--set", "augmentation.size=16"
    )
    page = Path(outcome["report"]).read_text()
    assert outcome["bytes"] == len(page.encode())
    assert headings(page)[:2] == ["Verdict", "Metrics"]
    assert not {"Curves", "Cost", "Recipe", "Views that training compared"} & {*headings(page)}
    assert "after the last epoch" not in page


def test_names_with_html_are_text(tiny_run: Path):
    names = ["<b>&x'.png", "</script><i>.png", "c.png"]
    page = page_on(tiny_run, folder_of({f"<u>/{name}": noise(n) for n, name in enumerate(names)}))
    assert "<b>&x" not in page
    assert "<u>" not in page
    assert page.count("<script") == page.count("</script>")
    assert "<b>&x'.png" in words(page) or html.escape("<b>&x'.png") in page


@pytest.mark.parametrize("labels", ["a/", ""])
def test_a_single_image(tiny_run: Path, labels: str):
    page = page_on(tiny_run, folder_of({f"{labels}one.png": noise(0)}))
    text = words(page)
    assert headings(page) == ["Metrics", "Not shown"]  # why there are no metrics
    assert "No neighbours, outliers and likely duplicates: the report has a single image." in text
    assert "No map: a map needs 3 images, and there is 1." in text


def test_images_without_labels_or_of_one_class_have_no_table_of_classes(tiny_run: Path):
    page = page_on(tiny_run, folder_of({f"{n}.png": noise(n) for n in range(8)}))
    assert "No table of classes: the images have no labels." in words(page)
    assert "No metrics of knn:" in words(page)
    assert "another class" not in words(page)
    shutil.rmtree("d")
    root = folder_of({f"only/{n}.png": noise(n) for n in range(8)})
    (root / "train/other").mkdir()
    (root / "train/other/broken.png").write_bytes(b"no image")
    page = page_on(tiny_run, root)
    assert "No table of classes: all labelled images have one class." in words(page)


def test_broken_files_are_named_and_a_folder_of_them_is_refused(tiny_run: Path):
    root = folder_of({f"{n}.png": noise(n) for n in range(8)})
    (root / "train/broken.png").write_bytes(b"no image")
    text = words(page_on(tiny_run, root))
    assert "1 image could not be read: train/broken.png" in text
    for file in root.rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match="can be read"):
        page_on(tiny_run, root)


def test_dark_blank_and_double_images_are_shown(tiny_run: Path):
    files = {f"{n}.png": noise(n) for n in range(30)}
    files |= {"copy.png": noise(4), "white.png": Image.new("RGB", (16, 16), "white")}
    files |= {"night.png": Image.fromarray(np.asarray(noise(40)) // 16)}
    page = page_on(tiny_run, folder_of(files))

    def names_in(key: str) -> set[str]:
        section = re.search(rf'<section id="{key}">.*?</section>', page, re.DOTALL)[0]
        return {name.split("/")[-1] for name in re.findall(r'title="(.*?)(?:\n.*?)?"', section)}

    assert names_in("blank") == {"white.png"}
    assert "night.png" in names_in("dark")
    assert {"4.png", "copy.png"} <= names_in("duplicates")


def test_a_page_replaces_only_pages(tiny_run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]):
    Path("mine.html").write_text("<html>mine</html>")
    message = refused(capsys, "report", str(tiny_run), "--out", "mine.html")
    assert "exists and is not a page that contrastive wrote" in message
    assert "belongs to the data set" in refused(
        capsys, "report", str(tiny_run), "--out", str(tiny_data / "p.html")
    )
    for _ in range(2):
        assert main(["report", str(tiny_run), "--out", "p.html"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "p.html"


PROBE = """\
const input = document.querySelector(".map input"), canvas = document.querySelector("canvas");
const type = (text) => { input.value = text; input.dispatchEvent(new Event("input")); };
type("disc"); const discs = document.querySelector(".map output").textContent;
type("no such name"); const none = document.querySelector(".map output").textContent;
type("");
const map = maps[0], [x, y] = map.places[5], box = canvas.getBoundingClientRect();
canvas.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + x, clientY: box.top + y }));
const heading = document.querySelectorAll("#classes th")[3];
const column = () => [...heading.closest("table").tBodies[0].rows].map((row) => row.cells[3].dataset.value);
heading.firstChild.click(); const down = column(); heading.firstChild.click(); const up = column();
const pen = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
const answer = {
  errors, discs, none, down, up, tip: document.querySelector(".tip").textContent,
  hidden: document.querySelector(".tip").hidden, drawn: pen.some((value) => value > 0),
  name: map.data.names[map.nearest(x, y)], width: document.documentElement.scrollWidth, window: innerWidth,
  background: getComputedStyle(document.body).backgroundColor,
};
"""


@pytest.mark.ci
@needs_chromium
def test_a_browser_without_a_network_searches_points_and_sorts_on_a_phone(tiny_page: str, tmp_path: Path):
    told = on_a_phone(tiny_page, tmp_path, PROBE)
    assert told["errors"] == []
    assert told["discs"].startswith("50 of 150: ")
    assert told["none"] == "0 of 150"
    assert told["drawn"]
    assert not told["hidden"]
    assert told["tip"].endswith(told["name"])
    down, up = ([float(value) for value in told[key]] for key in ("down", "up"))
    assert down == sorted(down, reverse=True)
    assert up == sorted(down)
    assert told["width"] <= told["window"]
    assert told["background"] == "rgb(20, 24, 30)"


@pytest.mark.slow
def test_a_page_over_ten_thousand_images_is_below_three_megabytes(tiny_run: Path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 9000), ("test", 1000)):
        for number in range(count):
            folder = Path("many") / split / f"class {number % 20}"
            folder.mkdir(parents=True, exist_ok=True)
            scene = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
            grain = rng.normal(0, 12, (96, 128, 3))
            pixels = np.asarray(scene.resize((128, 96), Image.Resampling.BICUBIC)) + grain
            name = folder / f"a photograph with a long name {number}.jpg"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(name, quality=85)
    outcome = report(tiny_run, {"dataset.root": "many", "evaluate.linear": None}, out="p.html")
    assert outcome["images"] == 10_000
    assert outcome["bytes"] < 3_000_000
    page = Path("p.html").read_text()
    assert (
        len(json.loads(re.search(r'<script id="features-data"[^>]*>(.*?)</script>', page)[1])["x"]) == 5_000
    )
