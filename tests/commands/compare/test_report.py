"""report.html: what it says, that it needs nothing from outside, and how a browser shows it."""

from __future__ import annotations

import html
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import contrastive
from contrastive.cli import main
from contrastive.commands.compare.candidates import gather, plan
from contrastive.commands.compare.findings import analyse
from contrastive.commands.compare.plots import charts
from contrastive.commands.compare.report import render, sentences
from contrastive.commands.compare.tables import tables
from contrastive.registry import load_registry
from tests.support.browser import needs_chromium, on_a_phone
from tests.support.fake_runs import write_run

PICTURE = {
    "name": "base",
    "seed": 0,
    "points": np.array([[0.0, 0.1], [0.2, 0.3], [0.1, 0.0]]),
    "labels": [0, 1, -1],
    "names": ["a.png", "b.png", "</script><b>&"],
    "ids": [7, 8, 9],
    "classes": {0: "cat", 1: "</script><b>&", -1: "no label"},
    "explained": 0.5,
    "neighbours": [[0, 1, 2]],
    "miniatures": np.zeros((3, 1, 24, 24), np.uint8),
    "thumbnails": {index: Image.new("L", (30, 40), index) for index in range(3)},
}


@pytest.fixture(scope="module")
def page(comparison) -> str:
    return render(comparison, [PICTURE])


def body(page: str) -> str:
    """The page without its scripts and style."""
    return re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)


def test_findings_are_sentences(comparison):
    assert sentences(comparison)[0].startswith(
        "worse is worse than base in knn top1 by 9.7 points (95 % interval -13.5 to -5.9, p 0.008"
    )


@pytest.fixture
def clusters(runs) -> dict:
    """A comparison of a metric that is a plain number; the first run is of a time without declared units."""
    protocol = {"id": "clusters/1", "version": 1, "feature": "h"}
    folders = []
    for name, values in (("base", [-0.16, -0.15, -0.17]), ("better", [0.25, 0.26, 0.27])):
        for seed, value in enumerate(values):
            units = {} if name == "base" else {"metric_units": {"ari": "number"}}
            summary = {
                "trained": {"clusters_ari": value},
                "untrained": {"clusters_ari": -0.5},
                "protocols": {"clusters": {**protocol, **units}},
            }
            folders.append(str(write_run(runs, name, seed, value, summary=summary)))
    candidates = plan(folders, 1, load_registry())
    return analyse(candidates, gather(candidates))


def test_a_plain_number_is_no_percentage_in_tables_sentences_and_plots(clusters):
    (table, _) = tables(clusters)
    console = io.StringIO()
    Console(file=console, width=160).print(table)
    text = console.getvalue()
    assert "-0.160 ± 0.025" in text
    assert "+0.420 ± 0.043 better" in text
    assert "-0.500" in text
    assert "%" not in text
    assert "by 0.420 (95 % interval +0.377 to +0.463" in sentences(clusters)[0]
    page = render(clusters, [])
    assert "-16.0" not in page
    data = json.loads(json.dumps(charts(clusters)))
    intervals = next(chart for chart in data if chart["title"] == "clusters ari")
    assert intervals["figure"]["layout"]["xaxis"]["title"]["text"] == "clusters ari"
    assert intervals["figure"]["data"][0]["x"] == [-0.16, -0.15, -0.17]


def test_json_holds_the_same_numbers_whatever_their_unit(clusters):
    base = clusters["recipes"][0]["figures"]["clusters_ari"]
    assert base["mean"] == pytest.approx(-0.16)
    assert base["sampling_error"] is None  # binomial, so only of fractions
    assert clusters["protocols"]["clusters"]["metric_units"] == {"ari": "number"}


def test_everything_is_inside_and_nothing_breaks_out(page):
    assert re.findall(r'(?:src|href)="(?!data:)', body(page)) == []
    assert "</script><b>&" not in page
    assert html.escape("</script><b>&") in page
    assert page.count("<script") == page.count("</script>") == 5  # three of data


def test_every_section_has_something_to_show(page):
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert headings == [
        "Metrics", "What differs", "Costs and monitors", "Accuracy", "Accuracy against compute", "Training",
        "Features", "Nearest neighbours", "Where the metrics come from",
    ]  # fmt: skip
    assert body(page).count('class="thumbnail pictures-0') == 3


def test_pictures_have_the_names_of_classes_and_images(page):
    text = body(page)
    frames = re.findall(r'class="thumbnail pictures-0 (\w*)" role="img" aria-label="(.*?)"', text, re.DOTALL)
    assert frames == [
        ("query", "a.png\ncat"),
        ("other", "b.png\n" + html.escape("</script><b>&")),
        ("", html.escape("</script><b>&")),
    ]
    assert re.findall(r'<button type="button" data-class="(\d)">.*?</i>(.*?)</button>', text) == [
        ("0", "cat"),
        ("1", html.escape("</script><b>&")),
    ]
    assert "class 0" not in text


def test_maps_of_several_recipes_share_the_thumbnails_of_their_images(comparison):
    other = {**PICTURE, "name": "worse", "ids": [9, 8, 5]}
    page = render(comparison, [PICTURE, other])
    data = [json.loads(text) for text in re.findall(r'<script id="map-\d-data"[^>]*>(.*?)</script>', page)]
    assert [each["thumbnails"] for each in data] == [[0, 1, 2], [2, 1, 3]]
    assert page.count("data:image/webp") == 3  # one of the maps, two of the neighbours


def test_only_what_differs_is_told(page):
    told = re.search(r'id="differing">(.*?)</section>', page, re.DOTALL)[1]
    assert re.findall("<code>(.*?)</code>", told) == ["loss.temperature", "loss.note"]


def test_a_single_recipe_of_a_single_seed_can_be_shown(tmp_path):
    candidates = plan([str(write_run(tmp_path, "alone", 0, 0.8))], 1, load_registry())
    found = analyse(candidates, gather(candidates))
    assert sentences(found) == []
    assert "Nearest neighbours" not in render(found, [])


PROBE = """\
const heading = document.querySelectorAll(".sortable th")[2];
const names = () => [...heading.closest("table").tBodies[0].rows].map((row) => row.cells[0].textContent);
heading.firstChild.click(); const down = names();
heading.firstChild.click(); const up = names();
const answer = {
  errors, down, up, sort: heading.getAttribute("aria-sort"),
  width: document.documentElement.scrollWidth, window: innerWidth,
  plots: document.querySelectorAll(".plot").length,
  drawn: [...document.querySelectorAll(".plot")].filter((plot) => plot.querySelector("svg.main-svg")).length,
  background: getComputedStyle(document.body).backgroundColor,
  text: getComputedStyle(document.querySelector(".plot text")).fill,
};
"""


@pytest.mark.ci
@needs_chromium
def test_a_browser_without_a_network_shows_it_dark_and_on_a_phone(page, tmp_path):
    seen = on_a_phone(page, tmp_path, PROBE)
    assert seen["errors"] == []
    assert seen["drawn"] == seen["plots"] > 8
    assert (seen["down"], seen["up"], seen["sort"]) == (["base", "worse"], ["worse", "base"], "ascending")
    assert seen["width"] <= seen["window"]
    assert seen["background"] == "rgb(20, 24, 30)"
    assert seen["text"] == "rgb(228, 232, 238)"


def test_a_picture_that_there_is_none_of_is_explained(comparison):
    absence = {"name": "base", "seed": 0, "absence": "a map needs 3 images, and there is 1"}
    text = body(render(comparison, [absence]))
    assert "No picture of the features of base: a map needs 3 images, and there is 1." in text
    assert 'id="features"' not in text
    assert 'id="neighbours"' not in text


def test_a_run_on_too_few_images_for_a_map_is_compared(tiny_recipe, tmp_path, tiny_data, capsys):
    shutil.copytree(tiny_data / "train", tmp_path / "d/train")
    (tmp_path / "d/test").mkdir()
    shutil.copytree(tiny_data / "test/disc", tmp_path / "d/test/disc")
    for extra in sorted((tmp_path / "d/test/disc").iterdir())[1:]:
        extra.unlink()
    sets = {"dataset.root": str(tmp_path / "d"), "train.epochs": 1}
    run = contrastive.run(tiny_recipe, sets, out=tmp_path / "one")
    assert main(["compare", str(run.folder), "--out", "c"]) == 0
    assert "a map needs 3 images, and there is 1" in (tmp_path / "c/report.html").read_text()


def test_a_folder_with_another_comparison_json_is_not_taken(runs, capsys):
    folder = write_run(runs, "base", 0, 0.8)
    (runs.parent / "mine").mkdir()
    (runs.parent / "mine/comparison.json").write_text('{"recipes": "of my grandmother"}')
    assert main(["compare", str(folder), "--out", "mine"]) == 2
    assert "holds files that no comparison wrote" in capsys.readouterr().err
