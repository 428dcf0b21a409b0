"""Encoders that no run trained: their features are those of timm's own pipeline, from a cache of the hub."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image, ImageOps

import contrastive
from contrastive.cli import main
from contrastive.commands.compare import candidates
from contrastive.commands.compare.findings import _add_differences, _stock_notes
from contrastive.commands.compare.outcome import compare
from contrastive.commands.compare.stock import StockEntry
from contrastive.commands.embed import embed
from contrastive.commands.evaluate import evaluate
from contrastive.errors import UsageError
from contrastive.registry import load_registry
from contrastive.runs import LoadedEncoder, load_encoder, stock_encoder
from tests.support.hub_cache import HubCache
from tests.support.tiny import write_data, write_recipe

QUICK = ["resnet10t.c3_in1k", "vit_tiny_patch16_224.augreg_in21k_ft_in1k"]
#: A network of timm's own tests, for whole data sets.
SMALL = "test_resnet.r160_in1k"
#: Several families, sizes, crops, interpolations, means and licences.
NAMES = [
    *QUICK,
    "resnet18.a1_in1k",
    "resnet26t.ra2_in1k",
    "mobilenetv3_small_050.lamb_in1k",
    "mobilenetv2_050.lamb_in1k",
    "deit_tiny_patch16_224.fb_in1k",
    "vit_small_patch14_dinov2.lvd142m",
    "vit_small_patch16_dinov3.lvd1689m",
    "efficientnet_lite0.ra_in1k",
    "convnext_atto.d2_in1k",
    "convnextv2_atto.fcmae",
    "regnetx_002.pycls_in1k",
    "regnety_002.pycls_in1k",
    "edgenext_xx_small.in1k",
    "ghostnet_100.in1k",
    "levit_128s.fb_dist_in1k",
    "xcit_nano_12_p16_224.fb_in1k",
    "eva02_tiny_patch14_224.mim_in22k",
    "swin_tiny_patch4_window7_224.ms_in1k",
    "vit_tiny_r_s16_p8_224.augreg_in21k",
]
SIZES = [(300, 200), (64, 64), (225, 500), (224, 224), (40, 90)]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    return HubCache(tmp_path / "hub", monkeypatch)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of several sizes in two classes, one of them turned by EXIF and one grey."""
    root, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for split in ("train", "test"):
        for number, (width, height) in enumerate(SIZES):
            folder = root / split / ("even" if number % 2 == 0 else "odd")
            folder.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
            exif = Image.Exif()
            if number == 0:
                exif[0x0112] = 6
            if number == 1:
                image = image.convert("L")
            image.save(folder / f"{number}.png", exif=exif)
    return root


def dataset(root: Path) -> dict[str, object]:
    return {"dataset": {"name": "image_folder", "root": str(root)}}


def timm_features(name: str, files: list[Path]) -> torch.Tensor:
    """The features of images by timm alone, as its documentation has it."""
    net = timm.create_model(name, pretrained=True, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net), is_training=False)
    pictures = [ImageOps.exif_transpose(Image.open(file)).convert("RGB") for file in files]
    with torch.no_grad():
        return torch.cat([net(transform(picture)[None]) for picture in pictures])


def embedded(encoder: str, root: Path, out: Path) -> tuple[list[str], torch.Tensor]:
    embed(encoder, out, overrides=dataset(root))
    table = pq.read_table(out)
    return table["name"].to_pylist(), torch.tensor(table["features"].to_pylist())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in NAMES]
)
def test_features_equal_those_of_timm(name: str, cache: HubCache, photographs: Path, tmp_path: Path):
    cache.add(name)
    loaded = load_encoder(name, load_registry(), dataset(photographs))
    table, backbone = loaded.data.train, loaded.parts.method.backbone.eval()
    files = [photographs / "train" / table.name(row).removeprefix("train/") for row in range(len(table))]
    assert all(file.is_file() for file in files)
    theirs = timm_features(name, files)
    net = timm.create_model(name, pretrained=True, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net), is_training=False)
    with torch.no_grad():
        for row, pixels in loaded.evaluation.reader.whole(table, np.arange(len(table))):
            for index, image in zip(row.tolist(), pixels, strict=True):
                picture = ImageOps.exif_transpose(Image.open(files[index])).convert("RGB")
                assert torch.equal(backbone._standardise(image[None])[0], transform(picture))
    names, ours = embedded(name, photographs, tmp_path / "features.parquet")
    rows = [names.index(table.name(row)) for row in range(len(table))]
    torch.testing.assert_close(ours[rows], theirs, rtol=1e-4, atol=1e-5)


def test_the_network_is_timm_s_to_the_last_bit(cache: HubCache):
    cache.add(QUICK[0])
    network = stock_encoder(QUICK[0]).network().eval()
    net = timm.create_model(QUICK[0], pretrained=True, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net), is_training=False)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 150, 3), dtype=np.uint8))
    pixels = torch.from_numpy(np.array(picture)).movedim(2, 0)
    own = stock_encoder(QUICK[0]).transform(176, 3).apply(pixels)[None].float().div(255)
    with torch.no_grad():
        assert torch.equal(network(own), net(transform(picture)[None]))


def test_grey_images_go_through_timm_s_own_adaptation(cache: HubCache, photographs: Path, tmp_path: Path):
    cache.add(QUICK[0])
    loaded = load_encoder(QUICK[0], load_registry(), {"dataset": "fashion_mnist_sample"})
    backbone = loaded.parts.method.backbone
    net = timm.create_model(QUICK[0], pretrained=True, num_classes=0, in_chans=1).eval()
    pixels = torch.rand(2, 1, 64, 64)
    mean, std = (sum(net.pretrained_cfg[key]) / 3 for key in ("mean", "std"))
    with torch.no_grad():
        torch.testing.assert_close(backbone.eval()(pixels), net((pixels - mean) / std))


def test_evaluate_sets_random_weights_and_pixels_beside_it(cache: HubCache, photographs: Path):
    cache.add(QUICK[0])
    report = evaluate(QUICK[0], ["knn"], {**dataset(photographs), "evaluate.knn.k": 1})
    assert report["encoder"] == QUICK[0]
    assert report["trained"].keys() == report["untrained"].keys() == {"knn_top1", "knn_balanced"}
    assert report["notes"] == [f"weights: {QUICK[0]}", "licence of the weights: apache-2.0"]
    assert "run" not in report


@pytest.mark.parametrize("name", ["hf_hub:timm/resnet10t.c3_in1k", "resnet10t"])
def test_a_repository_and_a_model_without_a_tag_are_encoders(name: str, cache: HubCache, photographs: Path):
    cache.add("resnet10t.c3_in1k", license="cc-by-nc-4.0")
    loaded = load_encoder(name, load_registry(), dataset(photographs))
    plain = load_encoder("resnet10t.c3_in1k", load_registry(), dataset(photographs))
    for key, value in plain.parts.method.backbone.state_dict().items():
        assert torch.equal(loaded.parts.method.backbone.state_dict()[key], value)
    assert loaded.parts.image_size == plain.parts.image_size == 176
    licence = loaded.parts.method.backbone.licence
    assert licence == ("cc-by-nc-4.0" if name.startswith("hf_hub") else "apache-2.0")


def test_an_export_and_a_file_of_its_weights_are_the_encoder(
    cache: HubCache, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    cache.add(QUICK[0])
    assert main(["export", QUICK[0], "--out", str(tmp_path / "export")]) == 0
    config = json.loads((tmp_path / "export" / "config.json").read_text())
    assert config["pretrained_cfg"]["license"] == "apache-2.0"
    assert "apache-2.0" in (tmp_path / "export" / "README.md").read_text()
    file = tmp_path / "weights.safetensors"
    file.write_bytes((tmp_path / "export" / "model.safetensors").read_bytes())
    _, expected = embedded(QUICK[0], photographs, tmp_path / "a.parquet")
    _, of_export = embedded(str(tmp_path / "export"), photographs, tmp_path / "b.parquet")
    assert torch.equal(of_export, expected)
    sets = {**dataset(photographs), "backbone.model": "resnet10t"}
    embed(file, tmp_path / "c.parquet", overrides=sets)
    of_file = torch.tensor(pq.read_table(tmp_path / "c.parquet")["features"].to_pylist())
    assert torch.equal(of_file, expected)
    with pytest.raises(
        UsageError, match=r"come without the name of their network; add --set backbone\.model=NAME"
    ):
        load_encoder(file, load_registry(), dataset(photographs))


def test_an_encoder_may_have_a_long_path(cache: HubCache, photographs: Path, tmp_path: Path):
    cache.add(QUICK[0])
    folder = tmp_path / ("long" * 20) / ("path" * 20)
    folder.parent.mkdir()
    assert main(["export", QUICK[0], "--out", str(folder)]) == 0
    assert load_encoder(folder, load_registry(), dataset(photographs)).recipe.name.endswith("path")


def test_an_exported_run_reads_images_as_the_run_does(tiny_run: Path, tiny_data: Path, tmp_path: Path):
    embed(tiny_run, tmp_path / "run.parquet")
    embed(tiny_run / "backbone", tmp_path / "export.parquet", overrides=dataset(tiny_data))
    run, export = (
        torch.tensor(pq.read_table(tmp_path / f"{name}.parquet")["features"].to_pylist())
        for name in ("run", "export")
    )
    torch.testing.assert_close(run, export)


def test_a_path_wins_over_a_name(
    cache: HubCache, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cache.add(QUICK[0])
    monkeypatch.chdir(tmp_path)
    assert stock_encoder(QUICK[0]) is not None
    (tmp_path / QUICK[0]).symlink_to(tiny_run)
    assert stock_encoder(QUICK[0]) is None


@pytest.mark.parametrize(
    ("text", "sets", "message"),
    [
        ("resnet18", {}, r"resnet18 has no data set of its own; name one, such as --set 'dataset="),
        ("resnet18.nope", {}, r"no pretrained weights 'nope' of resnet18; it has a1_in1k, "),
        ("resnet18.a1_in1", {}, r"Did you mean 'a1_in1k'"),
        ("resnet181", {}, r"there is no encoder resnet181; name a run folder, an exported folder, .*hf_hub"),
        ("resnet18", {"dataset": "x", "loss.temperature": 1}, r"--set loss\.temperature: .* not trained"),
        (
            "resnet18",
            {"dataset": "x", "backbone.name": "torchvision"},
            r"--set backbone\.name: .* not trained",
        ),
        ("timm/resnet18", {}, r"there is no encoder timm/resnet18"),
        ("hf_hub:timm/absent", {}, r"not in the cache and cannot be downloaded.*HF_HUB_OFFLINE"),
        ("vit_base_patch16_sapiens2.fb", {}, r"takes images of \d+ x \d+ pixels; only square ones"),
    ],
)
def test_what_names_no_encoder_says_what_does(text: str, sets: dict, message: str, cache: HubCache):
    with pytest.raises(UsageError, match=message):
        load_encoder(text, load_registry(), sets)


def test_weights_that_are_not_in_the_cache_are_reported_in_one_line(
    cache: HubCache, photographs: Path, capsys: pytest.CaptureFixture[str]
):
    sets = ["--set=dataset.name=image_folder", f"--set=dataset.root={photographs}"]
    assert main(["evaluate", "resnet18.a1_in1k", *sets]) == 2
    captured = capsys.readouterr()
    message = "error: resnet18.a1_in1k: the weights are not in the cache and cannot be downloaded. "
    assert captured.err.splitlines()[-1].startswith(message)
    assert "Traceback" not in captured.err


def test_a_recipe_starts_from_pretrained_weights_and_their_mean(
    cache: HubCache, tiny_data: Path, tmp_path: Path
):
    state = cache.add(QUICK[0])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"dataset: {{name: image_folder, root: {tiny_data}}}\n"
        "augmentation: {name: simclr, size: 32}\n"
        "backbone: {name: timm, model: resnet10t, pretrained: c3_in1k}\n"
        "optimizer: {name: sgd, lr: 1.0e-30}\n"
        "train: {epochs: 1, batch_size: 16, max_steps: 1}\n"
        "evaluate: {knn: {k: 5}}\n"
    )
    run = contrastive.run(recipe, out=tmp_path / "run")
    assert torch.equal(run.weights()["backbone.net.conv1.0.weight"], state["conv1.0.weight"])
    backbone = contrastive.load_backbone(tmp_path / "run" / "backbone")
    assert backbone.pretrained_cfg["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert backbone.pretrained_cfg["license"] == "apache-2.0"


# -- next to runs -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on few images."""
    folder = tmp_path_factory.mktemp("small")
    recipe = write_recipe(folder, write_data(folder / "data", train=12, test=4))
    sets = {"train.epochs": 1, "train.batch_size": 12, "evaluate.linear": None}
    return contrastive.run(recipe, sets, out=folder / "run").folder


def test_compare_sets_a_stock_encoder_next_to_a_run(
    cache: HubCache, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cache.add(SMALL)
    monkeypatch.chdir(tmp_path)
    outcome = compare([str(small_run), SMALL], out=tmp_path / "comparison")
    run, stock = outcome.comparison["recipes"]
    assert stock["stock"]["encoder"] == SMALL
    assert stock["stock"]["notes"] == [f"weights: {SMALL}", "licence of the weights: apache-2.0"]
    for key, metric in stock["figures"].items():
        assert list(metric["seeds"]) == [0]
        assert metric["difference"]["mean"] == pytest.approx(metric["mean"] - run["figures"][key]["mean"])
    assert any("one fixed value" in note for note in outcome.comparison["notes"])
    assert "one fixed value" in (tmp_path / "comparison" / "report.html").read_text()
    expected = evaluate(SMALL, (), stock["stock"]["overrides"])
    assert {key: metric["mean"] for key, metric in stock["figures"].items()} == expected["trained"]


def test_a_difference_to_a_stock_encoder_has_the_interval_of_the_other_s_seeds():
    rows = [
        {"figures": {"a": {"seeds": {0: 0.5}}}, "stock": {}},
        {"figures": {"a": {"seeds": {3: 0.6, 4: 0.7, 5: 0.8}}}},
    ]
    _add_differences(rows, ["a"])
    difference = rows[1]["figures"]["a"]["difference"]
    assert difference["seeds"] == 3
    assert difference["mean"] == pytest.approx(0.2)
    assert difference["interval"] == pytest.approx([0.2 - 0.2484, 0.2 + 0.2484], abs=1e-4)


def test_an_encoder_without_notes_has_no_empty_brackets():
    [noted, plain] = _stock_notes(
        [{"name": "a", "stock": {"notes": ["x", "y"]}}, {"name": "b", "stock": {"notes": []}}]
    )
    assert noted.startswith("a is not trained here (x; y): each metric is one fixed value")
    assert plain.startswith("b is not trained here: each metric is one fixed value")


def test_a_second_comparison_does_not_evaluate_again(
    cache: HubCache, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cache.add(SMALL)
    monkeypatch.chdir(tmp_path)
    compare([SMALL, str(small_run)], out=tmp_path / "one")
    monkeypatch.setattr(StockEntry, "evaluate", lambda self: pytest.fail("evaluated again"))
    compare([SMALL, str(small_run)], out=tmp_path / "two")


@pytest.mark.ci
def test_an_encoder_that_fails_is_left_out_of_a_comparison(
    small_run: Path,
    cache: HubCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    cache.add(SMALL)
    evaluate = StockEntry.evaluate

    def fail(entry: StockEntry) -> None:
        if entry.text == "encoder":
            raise RuntimeError("out of memory\nand more")
        evaluate(entry)

    monkeypatch.setattr(StockEntry, "evaluate", fail)
    shutil.copytree(small_run / "backbone", "encoder")
    targets = [str(small_run), "encoder", SMALL]
    assert main(["compare", *targets, "--out", "comparison"]) == 1
    comparison = json.loads(Path("comparison/comparison.json").read_text())
    assert [row["name"] for row in comparison["recipes"]] == ["tiny", SMALL]
    assert "encoder: failed, RuntimeError: out of memory" in comparison["notes"]
    assert "Traceback" not in capsys.readouterr().err
    assert main(["compare", "encoder", str(small_run), "--out", "other"]) == 1
    assert "no run of encoder finished" in capsys.readouterr().err


@pytest.mark.slow
def test_a_comparison_holds_the_network_of_one_encoder_at_a_time(
    small_run: Path, cache: HubCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    cache.add(SMALL)
    shutil.copytree(small_run / "backbone", "encoder")
    networks: list[weakref.ref[torch.nn.Module]] = []
    alive: list[int] = []

    def load(*arguments: object) -> LoadedEncoder:
        gc.collect()
        alive.append(sum(network() is not None for network in networks))
        subject = load_encoder(*arguments)
        networks.append(weakref.ref(subject.parts.method.backbone))
        return subject

    monkeypatch.setattr("contrastive.commands.compare.stock.load_encoder", load)
    compare([str(small_run), "encoder", SMALL], out=tmp_path / "comparison")
    assert alive == [0] * 4  # both are planned, then both are evaluated


def test_a_name_with_two_readings_is_refused_with_both(cache: HubCache, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(candidates, "shipped_recipes", lambda: {"resnet18": ""})
    with pytest.raises(
        UsageError, match=r"resnet18 is a shipped recipe and a timm model; write resnet18\.yaml"
    ):
        compare(["resnet18", "simclr"])


def test_export_refuses_what_it_would_ignore(
    cache: HubCache, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    sets = ["--set", "dataset=fashion_mnist_sample", "--out", str(tmp_path / "export")]
    for encoder, words in ((QUICK[0], "is not trained"), (str(tiny_run), "is copied as it is")):
        assert main(["export", encoder, *sets]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "export").exists()
