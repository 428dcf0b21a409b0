"""An encoder in scikit-learn: the features of ``embed``, in pipelines, clones and pickles."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks as checks

from contrastive.backbones import Timm
from contrastive.commands.embed import embed
from contrastive.errors import UsageError
from contrastive.sklearn import Encoder
from tests.support.hub_cache import HubCache
from tests.support.tiny import CLASSES, image

STOCK = "resnet10t.c3_in1k"


def embedded(encoder: Path | str, out: Path, **overrides: Any) -> tuple[list[str], np.ndarray]:
    """Names and features of the test split, as ``embed`` writes them."""
    embed(encoder, out, overrides=overrides)
    table = pq.read_table(out, filters=[("split", "=", "test")])
    return table["name"].to_pylist(), np.array(table["features"].to_pylist(), np.float32)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """An exported encoder of RGB images of 16 pixels."""
    torch.manual_seed(0)
    folder = tmp_path / "export"
    Timm(3, 16, "resnet10", stem="small", options={"width": 0.125}).export(str(folder))
    return folder


@pytest.fixture
def files(tiny_data: Path) -> list[Path]:
    return sorted((tiny_data / "test").rglob("*.png"))


def test_features_of_a_run_and_of_its_export_equal_those_of_embed(
    tiny_run: Path, tiny_data: Path, tmp_path: Path
):
    """Bit for bit: they are read, batched and computed equally."""
    names, expected = embedded(tiny_run, tmp_path / "features.parquet")
    files = [tiny_data / name for name in names]
    for encoder in (tiny_run, tiny_run / "backbone"):
        features = Encoder(encoder).fit_transform(files)
        assert features.dtype == np.float32
        np.testing.assert_array_equal(features, expected)
    without_export = shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("backbone"))
    np.testing.assert_array_equal(Encoder(without_export).transform(files), expected)


def test_a_run_that_shrinks_images_does_so_here(tiny_run: Path, tmp_path: Path):
    rng, root = np.random.default_rng(0), tmp_path / "large"
    for split in ("train", "test"):
        (root / split).mkdir(parents=True)
        for number in range(3):
            image(CLASSES[number], rng, size=50).save(root / split / f"{number}.png")
    run = shutil.copytree(tiny_run, tmp_path / "run")
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("shrink: null", "shrink: {short_side: 20, quality: 50}"))
    names, expected = embedded(run, tmp_path / "features.parquet", **{"dataset.root": str(root)})
    features = Encoder(run).transform([root / name for name in names])
    np.testing.assert_array_equal(features, expected)
    assert not np.array_equal(features, Encoder(tiny_run).transform([root / name for name in names]))


def test_every_form_of_an_encoder_is_one(tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch):
    state = HubCache(tmp_path / "hub", monkeypatch)
    weights = tmp_path / "weights.pt"
    torch.save({k: v for k, v in state.add(STOCK).items() if not k.startswith("fc.")}, weights)
    names, expected = embedded(
        STOCK, tmp_path / "f.parquet", dataset={"name": "image_folder", "root": str(tiny_data)}
    )
    files = [tiny_data / name for name in names]
    for encoder in (
        Encoder(STOCK),
        Encoder(f"hf_hub:timm/{STOCK}"),
        Encoder(weights, overrides={"backbone.model": "resnet10t"}),
    ):
        np.testing.assert_array_equal(encoder.transform(files), expected)


def test_paths_pictures_and_arrays_are_equal_images(weights: Path, files: list[Path]):
    encoder = Encoder(weights)
    expected = encoder.transform([str(file) for file in files])
    pictures = [Image.open(file) for file in files]
    arrays = [np.array(picture) for picture in pictures]
    assert expected.shape == (len(files), 64)
    for images in (
        files,
        iter(pictures),
        arrays,
        np.stack(arrays),
        np.array([[str(file)] for file in files]),
        np.array(files, dtype=object),
    ):
        np.testing.assert_array_equal(encoder.transform(images), expected)
    grey = arrays[0][..., 0]
    as_rgb = np.repeat(grey[..., None], 3, 2)
    with_alpha = np.dstack([as_rgb, np.full(grey.shape, 255, np.uint8)])
    first, *others = encoder.transform([as_rgb, grey, grey[..., None], with_alpha])
    assert all(np.array_equal(first, other) for other in others)


def test_a_column_of_a_table_is_a_list_of_paths(weights: Path, files: list[Path]):
    class Column:
        def to_numpy(self) -> np.ndarray:
            return np.array([str(file) for file in files], dtype=object)

    encoder = Encoder(weights)
    np.testing.assert_array_equal(encoder.transform(Column()), encoder.transform(files))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("one.png", r"put the one image into a list"),
        ([], r"one image or more, not an empty list"),
        ([3], r"image 0 is a int; give a path, an image of Pillow or an array"),
        (["absent.png"], r"^1 image \(absent\.png: no such file or directory\) cannot be read; repair"),
        (["."], r"^1 image \(\.: is a directory\) cannot be read"),
        ([np.zeros((4, 4))], r"image 0: float64 \[4, 4\], not uint8"),
        (np.zeros((2, 3), np.uint8), r"2 images \(image 0: uint8 \[3\], not uint8 \[H, W\]"),
        ([np.zeros((4, 4, 2), np.uint8)], r"image 0: uint8 \[4, 4, 2\], not uint8"),
    ],
)
def test_what_is_no_image_is_named_in_one_sentence(
    weights: Path, images: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        Encoder(weights).transform(images)


def test_a_broken_file_is_named(weights: Path, files: list[Path], tmp_path: Path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(files[0].read_bytes()[:100])
    with pytest.raises(UsageError, match=rf"^1 image \({broken}: .*\) cannot be read"):
        Encoder(weights).transform([files[0], broken])
    with pytest.raises(UsageError, match=r"^1 image \(image 1: .*\) cannot be read"):
        Encoder(weights).transform([files[0], Image.open(broken)])


def test_what_is_no_encoder_is_refused(weights: Path):
    with pytest.raises(UsageError, match="there is no encoder absent; name a run folder"):
        Encoder("absent").transform([np.zeros((4, 4), np.uint8)])
    with pytest.raises(UsageError, match="this has no effect; remove it"):
        Encoder(weights, overrides={"train.epochs": 2}).fit()


def test_it_works_in_a_pipeline_with_a_grid(weights: Path, files: list[Path]):
    labels = [file.parent.name for file in files]
    pipeline = make_pipeline(Encoder(weights), StandardScaler(), LogisticRegression(max_iter=500))
    pipeline.fit(files, labels)
    assert pipeline.score(files, labels) > 0.9
    assert list(pipeline[:-1].get_feature_names_out())[:2] == ["encoder0", "encoder1"]
    search = GridSearchCV(pipeline, {"logisticregression__C": [0.1, 1.0]}, cv=2).fit(files, labels)
    assert len(search.predict(files)) == len(files)


def test_names_of_features_need_no_fit(weights: Path):
    assert Encoder(weights).get_feature_names_out().tolist() == [f"encoder{i}" for i in range(64)]


def test_clones_and_pickles_hold_the_name_alone(weights: Path, files: list[Path]):
    encoder = Encoder(str(weights))
    features = encoder.transform(files)
    content = pickle.dumps(encoder)
    assert len(content) < 1000
    for copy in (pickle.loads(content), clone(encoder)):
        assert copy.get_params() == encoder.get_params()
        np.testing.assert_array_equal(copy.transform(files), features)


def test_another_encoder_is_loaded_when_the_parameter_changes(
    weights: Path, files: list[Path], tmp_path: Path
):
    torch.manual_seed(1)
    Timm(3, 16, "resnet10", stem="small", options={"width": 0.25}).export(str(tmp_path / "other"))
    encoder = Encoder(weights)
    assert encoder.transform(files[:1]).shape == (1, 64)
    assert encoder.set_params(encoder=tmp_path / "other").transform(files[:1]).shape == (1, 128)


@pytest.mark.parametrize(
    "check",
    [
        checks.check_estimator_tags_renamed,
        checks.check_valid_tag_types,
        checks.check_estimator_repr,
        checks.check_no_attributes_set_in_init,
        checks.check_do_not_raise_errors_in_init_or_set_params,
        checks.check_mixin_order,
        checks.check_get_params_invariance,
        checks.check_set_params,
        checks.check_estimator_cloneable,
    ],
    ids=lambda check: check.__name__,
)
def test_the_checks_of_scikit_learn_that_call_no_fit_on_a_table_of_numbers(weights: Path, check: Any):
    """All others do, and rows of numbers are not images; ``check_estimator`` leaves them out for the tag
    ``two_d_array``."""
    check("Encoder", Encoder(weights))


def test_contrastive_loads_without_scikit_learn_and_says_what_is_missing():
    code = (
        "import sys; import contrastive; assert 'sklearn' not in sys.modules and 'torch' not in sys.modules\n"
        "sys.modules['sklearn'] = None\n"
        "try:\n    import contrastive.sklearn\nexcept ModuleNotFoundError as error:\n    print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == (
        "contrastive.sklearn needs scikit-learn: pip install 'contrastive-framework[sklearn]'.\n"
    )
