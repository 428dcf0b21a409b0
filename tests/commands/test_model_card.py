"""The model card of an export: true, without paths of this machine, and with code that runs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from contrastive.backbones import Timm
from contrastive.commands.embed import embed
from contrastive.commands.export import export
from contrastive.commands.origins import metrics_text, without_paths
from contrastive.files import read_map
from tests.support.hub_cache import HubCache

STOCK = "resnet10t.c3_in1k"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    return HubCache(tmp_path / "hub", monkeypatch)


def card_of(folder: Path) -> ModelCard:
    return ModelCard((folder / "README.md").read_text(encoding="utf-8"))


def section(card: ModelCard, name: str) -> str:
    return re.split(r"^## ", card.text.partition(f"\n## {name}\n")[2], flags=re.MULTILINE)[0]


def features_by_card(folder: Path, image: Path, **replacements: str) -> list[np.ndarray]:
    """What ``features`` is after each block of the card's code that sets it."""
    values: dict[str, Any] = {}
    results = []
    for code in BLOCK.findall(card_of(folder).text):
        for old, new in {"PATH/TO/THIS/FOLDER": str(folder), "IMAGE": str(image), **replacements}.items():
            code = code.replace(old, new)
        values.pop("features", None)
        with torch.no_grad():
            exec(code, values)
        if "features" in values:
            results.append(np.asarray(values["features"]).reshape(1, -1))
    return results


def embedded(encoder: Path, out: Path, name: str, **overrides: Any) -> np.ndarray:
    embed(encoder, out, overrides=overrides)
    table = pq.read_table(out)
    return np.array(table["features"][table["name"].to_pylist().index(name)].as_py(), np.float32)[None]


#: What a run as a user's records of views; runs of tests end without them.
VIEWS = {
    "id": "views/1",
    "images": 30,
    "trained": {"recall_1": 0.7, "median_rank": 1.0},
    "untrained": {"recall_1": 0.5, "median_rank": 2.0},
}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """An exported encoder that no run trained."""
    Timm(3, 16, "resnet10", stem="small", options={"width": 0.125}).export(str(tmp_path / "source"))
    return tmp_path / "source"


@pytest.fixture
def copy_of_run(tiny_run: Path, tmp_path: Path) -> Path:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    summary = read_map(run / "summary.json")
    (run / "summary.json").write_text(json.dumps({**summary, "views": VIEWS}))
    return run


#: The export as ONNX takes seconds.
ONNX = pytest.mark.ci


@pytest.mark.parametrize(("library", "count"), [("timm", 2), pytest.param("onnx", 1, marks=ONNX)])
def test_the_code_of_a_run_s_card_gives_the_features_of_embed(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, library: str, count: int
):
    folder = export(tiny_run, tmp_path / "encoder", library)
    expected = embedded(tiny_run, tmp_path / "features.parquet", "test/disc/0.png")
    results = features_by_card(folder, tiny_data / "test" / "disc" / "0.png")
    assert len(results) == count
    for features in results:
        np.testing.assert_allclose(features, expected, atol=1e-4)


@pytest.mark.parametrize("library", ["timm", pytest.param("onnx", marks=ONNX)])
def test_a_run_s_card_has_data_recipe_metrics_and_no_path(
    copy_of_run: Path, tiny_data: Path, tmp_path: Path, library: str
):
    folder = export(copy_of_run, tmp_path / "encoder", library)
    card = card_of(folder)
    data = card.data.to_dict()
    assert data["library_name"] == library
    assert data["pipeline_tag"] == "image-feature-extraction"
    assert data["tags"] == [library, "contrastive-framework", "self-supervised-learning"]
    assert data.keys() <= {"library_name", "pipeline_tag", "tags"}  # no licence, data set or base is known
    training, metrics = section(card, "Training"), section(card, "Metrics")
    assert "- Data set: `image_folder` (`tiny`), 120 images of train." in training
    assert "- Labels: the losses did not use them." in training
    assert "- Length: 3 epochs, 21 steps of 16 images, seed 0." in training
    assert "loss: {name: nt_xent, temperature: 0.2" in training
    summary = read_map(copy_of_run / "summary.json")
    value, floors = summary["trained"]["knn_top1"], [summary[f]["knn_top1"] for f in ("untrained", "pixels")]
    assert f"| knn top1 | {' | '.join(f'{100 * v:.1f} %' for v in (value, *floors))} |" in metrics
    assert "| recall at 1 | 70.0 % | 50.0 % |" in metrics
    assert all(f"- {sentence}\n" in metrics for sentence in summary["verdict"]["sentences"])
    assert section(card, "Licence").strip() == "Not stated."
    assert "16 x 16 pixels" in section(card, "Images")
    for file in folder.iterdir():
        assert str(tiny_data.parent).encode() not in file.read_bytes()
        assert str(tmp_path).encode() not in file.read_bytes()


def test_the_method_of_a_recipe_is_named_with_its_paper(copy_of_run: Path, tmp_path: Path):
    recipe = copy_of_run / "recipe.yaml"
    recipe.write_text(
        recipe.read_text()
        .replace("name: tiny\n", "name: simclr\n")
        .replace("positives: image", "positives: label")
    )
    card = card_of(export(copy_of_run, tmp_path / "encoder"))
    training = section(card, "Training")
    assert "named as the method SimCLR (Chen et al. 2020, [" in training
    assert "https://arxiv.org/abs/2002.05709" in training
    assert "- Labels: training used them." in training
    assert card.data.tags == ["timm", "contrastive-framework", "simclr"]


def test_a_run_without_labels_shows_what_was_measured_instead(copy_of_run: Path, tmp_path: Path):
    file = copy_of_run / "summary.json"
    summary = json.loads(file.read_text())
    summary |= {"trained": {}, "untrained": {}, "pixels": {}, "split": None}
    summary["omitted"] = dict.fromkeys(("knn", "linear"), "no labels")
    file.write_text(json.dumps(summary))
    metrics = section(card_of(export(copy_of_run, tmp_path / "encoder")), "Metrics")
    assert "With labels: none (no labels)." in metrics
    assert "knn top1 |" not in metrics
    assert metrics.count("| metric |") == 1
    assert "| recall at 1 |" in metrics


def test_a_run_without_a_final_evaluation_has_no_table(copy_of_run: Path, tmp_path: Path):
    (copy_of_run / "summary.json").unlink()
    card = card_of(export(copy_of_run, tmp_path / "encoder"))
    assert section(card, "Metrics").strip() == "None: the run had no final evaluation when it was exported."
    assert "number of images not recorded" in section(card, "Training")
    assert "| metric |" not in card.text


def test_nothing_of_the_metrics_is_empty():
    summary = {
        "trained": {},
        "protocols": {},
        "images": {"train": 3},
        "views": {},
        "verdict": {"sentences": []},
    }
    assert metrics_text(summary) == "With labels: none (the recipe has no protocols)."
    summary = {
        "trained": {"knn_top1": 0.5, "embedding_std": 1},
        "untrained": {"knn_top1": 0.25},
        "split": "test",
    }
    text = metrics_text(summary | {"omitted": {"linear": "one class"}, "starts_from_weights": True})
    assert (
        "| metric | trained | before training |\n| --- | ---: | ---: |\n| knn top1 | 50.0 % | 25.0 % |"
        in text
    )
    assert "embedding" not in text
    assert "`linear`: not measured, because one class." in text


def test_a_stock_encoder_s_card_names_licence_and_source(cache: HubCache, tmp_path: Path):
    cache.add(STOCK)
    image = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)).save(image)
    folders = {library: export(STOCK, tmp_path / library, library) for library in ("timm", "onnx")}
    for library, folder in folders.items():
        card = card_of(folder)
        assert card.data.to_dict() == {
            "library_name": library,
            "pipeline_tag": "image-feature-extraction",
            "tags": [library, "contrastive-framework"],
            "license": "apache-2.0",
            "base_model": "timm/resnet10t.c3_in1k",
        }
        assert (
            f"These are the weights `{STOCK}` (https://huggingface.co/timm/{STOCK}), unchanged." in card.text
        )
        assert "| metric |" not in card.text
        assert card.text.count("under this licence: apache-2.0.") == 1
    by_timm, by_contrastive = features_by_card(folders["timm"], image)
    (by_onnx,) = features_by_card(folders["onnx"], image)
    np.testing.assert_allclose(by_contrastive, by_timm, atol=1e-4)
    np.testing.assert_allclose(by_onnx, by_timm, atol=1e-4 * np.abs(by_timm).max())


@ONNX
@pytest.mark.parametrize(("crop_mode", "licence"), [("squash", "dinov3-license"), ("border", "unknown")])
def test_crops_that_are_not_central_and_licences_of_their_own(
    cache: HubCache, tmp_path: Path, crop_mode: str, licence: str
):
    cache.add(STOCK, crop_mode=crop_mode, license=licence)
    image = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)).save(image)
    name = f"hf_hub:timm/{STOCK}"
    folders = [export(name, tmp_path / library, library) for library in ("timm", "onnx")]
    by_timm, _ = features_by_card(folders[0], image)
    (by_onnx,) = features_by_card(folders[1], image)
    np.testing.assert_allclose(by_onnx, by_timm, atol=1e-4 * np.abs(by_timm).max())
    for folder in folders:
        data = card_of(folder).data
        own = {"license": "other", "license_name": licence} if licence != "unknown" else {}
        assert {key: data.get(key) for key in ("license", "license_name") if data.get(key)} == own
        stated = section(card_of(folder), "Licence").strip() != "Not stated."
        assert stated == bool(own)


@pytest.mark.parametrize("library", ["timm", pytest.param("onnx", marks=ONNX)])
def test_a_file_of_weights_is_named_without_its_path(tmp_path: Path, library: str):
    file = tmp_path / "private" / "mine.pt"
    file.parent.mkdir()
    torch.save(Timm(3, 32, "resnet10t").net.state_dict(), file)
    folder = export(file, tmp_path / "encoder", library, {"backbone.model": "resnet10t"})
    text = card_of(folder).text
    assert "# mine.pt\n" in text
    assert "the weights in the file `mine.pt`, of timm's architecture `resnet10t`, unchanged." in text
    for written in folder.iterdir():
        assert b"private" not in written.read_bytes()


@ONNX
def test_an_export_of_an_export_keeps_what_the_card_says(tiny_run: Path, tmp_path: Path):
    first = export(tiny_run, tmp_path / "first")
    second = export(first, tmp_path / "second", "onnx")
    third = export(tiny_run / "backbone", tmp_path / "third")
    expected = card_of(first)
    for folder, library in ((second, "onnx"), (third, "timm")):
        card = card_of(folder)
        assert card.text.startswith("\n# tiny\n")
        assert card.data.tags == [library, *expected.data.tags[1:]]
        for name in ("Training", "Metrics"):
            assert section(card, name) == section(expected, name)


@pytest.mark.parametrize(
    "text", ["---\n: [\n---\n# x\n", "---\n- a\n---\n# x\n", "---\ntags: [timm]\n---\n# x\n"]
)
def test_a_card_of_another_hand_is_not_carried_on(weights: Path, tmp_path: Path, text: str):
    (weights / "README.md").write_text(text)
    training = section(card_of(export(weights, tmp_path / "encoder")), "Training")
    assert "the weights in the folder `source`, of timm's architecture `resnet10_small`" in training


def test_paths_are_shown_by_their_last_component():
    value = {
        "root": "/home/me/photos",
        "list": ["~/a/b.pt", "C:\\x\\y"],
        "path": "some/one",
        "own": "data/cats",
    }
    assert without_paths(value, ["own"]) == {
        "root": "photos", "list": ["b.pt", "y"], "path": "some/one", "own": "cats",
    }  # fmt: skip
