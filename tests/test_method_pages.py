"""Pages, diagrams and tables of methods are what scripts/method_pages.py writes."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import method_pages
import pytest
from method_diagram import LOSS, WIDTH, diagram
from method_results import measured_results

from contrastive.commands.outline import Outline
from contrastive.recipe import FAMILIES, load_recipe, shipped_methods
from contrastive.registry import load_registry

SVG = "{http://www.w3.org/2000/svg}"


def drawing(name: str, sets: dict | None = None) -> ElementTree.Element:
    recipe = load_recipe(name, sets or {}, load_registry())
    return ElementTree.fromstring(diagram(Outline(recipe), name))


def words(svg: ElementTree.Element) -> list[str]:
    return ["".join(text.itertext()) for text in svg.iter(f"{SVG}text")]


@pytest.mark.ci
def test_files_are_what_the_script_writes():
    for path, text in method_pages.files().items():
        assert path.is_file(), f"{path.name} is missing: run scripts/method_pages.py"
        assert path.read_text("utf-8") == text, f"{path.name}: run scripts/method_pages.py"
    assert method_pages.stale_files() == []


def test_every_family_has_a_table_on_one_page():
    texts = [path.read_text("utf-8") for path in method_pages.FOLDER.glob("*.md")]
    families = [family for text in texts for family in re.findall(r"^<!-- methods: (\w+) -->$", text, re.M)]
    assert sorted(families) == sorted(FAMILIES)


@pytest.mark.ci
def test_text_outside_of_the_marks_stays():
    name, entry = next(iter(shipped_methods().items()))
    text = f"# Title\n\n{method_pages._MARKS}\nNotes by hand.\n"
    page = method_pages.page(name, entry, text)
    assert page.startswith("# Title\n\n<!-- method -->\n")
    assert page.endswith("<!-- /method -->\n\nNotes by hand.\n")
    assert method_pages.page(name, entry, page) == page


# -- diagrams -----------------------------------------------------------------------------------------


def test_a_diagram_follows_its_recipe():
    assert "stop-gradient" not in words(drawing("simclr"))
    assert "stop-gradient" in words(drawing("simclr", {"target": "stop_grad"}))
    assert words(drawing("byol")).count("predictor") == 1
    assert "predictor" not in words(drawing("byol", {"predictor": "none", "allow": ["collapse"]}))
    assert {"8,192 keys of earlier", "queue"} <= {*words(drawing("moco_v2", {"negatives.size": 8192}))}
    assert "frozen network" in words(drawing("distill"))
    assert "follows" in words(drawing("moco_v2"))
    assert "own_pixels" in words(drawing("mae"))


def test_a_diagram_has_a_panel_for_every_objective():
    svg = drawing("dinov2_gram")
    panels = [shape for shape in svg.iter(f"{SVG}rect") if shape.get("class") == "panel"]
    assert len(panels) == 4
    titles = [text.split()[0] for text in words(svg) if " · " in text]
    assert titles == ["whole", "patch", "koleo", "gram"]


def test_hidden_patches_leave_holes_or_tokens():
    def kinds(name: str) -> set[str | None]:
        return {shape.get("class") for shape in drawing(name).iter(f"{SVG}path")}

    assert "hole" in kinds("mae")
    assert "token" in kinds("simmim")
    assert not {"hole", "token", "faded"} & kinds("simclr")


@pytest.mark.parametrize("name", shipped_methods())
def test_shapes_stay_within_the_page_and_apart(name):
    svg = drawing(name)
    height = float(svg.get("height", 0))
    boxes = [shape for shape in svg.iter(f"{SVG}rect") if "box" in (shape.get("class") or "")]
    for box in boxes:
        x, y, w, h = (float(box.get(key, 0)) for key in ("x", "y", "width", "height"))
        assert 0 < x < x + w <= LOSS[1] < WIDTH
        assert 0 < y < y + h < height
    corners = [(float(box.get("x", 0)), float(box.get("y", 0))) for box in boxes]
    assert len(corners) == len({*corners})


def test_a_diagram_is_the_same_every_time():
    assert diagram(Outline(load_recipe("ibot", (), load_registry())), "x") == diagram(
        Outline(load_recipe("ibot", (), load_registry())), "x"
    )


# -- results ------------------------------------------------------------------------------------------

RESULTS = """# Results

## Sample: `recipes/simclr.yaml`

| seed | kNN: trained | untrained | linear: trained | untrained |
|---|---|---|---|---|
| 0 | 77.0 | 46.0 | 85.0 | 54.4 |
| 1 | 76.0 | 44.0 | 86.0 | 54.6 |
| mean (least to greatest) | 76.5 (76.0 to 77.0) | 45.0 | 85.5 | 54.5 |

## Others

| recipe | kNN: trained | untrained |
|---|---|---|
| `mae`, which is short | 67.2 | 45.1 |
| `nobody` | 1.0 | 2.0 |

<!-- study: vit -->
| recipe | knn top1 | to mae | linear top1 |
| --- | --- | --- | --- |
| `dino-vit-cifar10-cpu` | 29.0 % ± 0.2 | -4.8 | 37.6 % ± 1.7 |

knn top1 of 5,000 images of test, 3 seeds; untrained 25.5 %.
<!-- /study: vit -->
"""


def test_results_are_read_from_tables_of_runs_and_of_comparisons():
    results = measured_results(RESULTS)
    assert set(results) == {"simclr", "mae", "dino"}
    (simclr,), (mae,), (dino,) = results["simclr"], results["mae"], results["dino"]
    assert (simclr.recipe, simclr.seeds) == ("simclr", 2)
    assert (simclr.knn, simclr.linear) == ("76.5 (76.0 to 77.0)", "85.5")
    assert (mae.section, mae.seeds, mae.knn, mae.linear) == ("Others", 1, "67.2", None)
    assert (dino.recipe, dino.seeds) == ("cifar10/dino-vit-cpu", 3)
    assert (dino.knn, dino.linear) == ("29.0 ± 0.2", "37.6 ± 1.7")


def test_the_page_of_results_has_every_anchor_that_pages_link():
    anchors = {
        method_pages.anchor(line)
        for line in re.findall(r"^##+ (.+)$", (method_pages.DOCS / "results.md").read_text(), re.M)
    }
    for path in method_pages.FOLDER.glob("*.md"):
        assert {*re.findall(r"\.\./results\.md#([^)]+)", path.read_text("utf-8"))} <= anchors, path.name
