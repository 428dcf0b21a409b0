"""``train.shrink`` from the recipe to the summary: what it costs, what it changes, what it leaves alone."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import contrastive
import contrastive.commands.profiler as profiling
import contrastive.runs.shrinkage as shrinkage
from contrastive.build import build
from contrastive.cli import main
from contrastive.commands.check import check
from contrastive.commands.evaluate import evaluate
from contrastive.data import ImageCosts
from contrastive.errors import Interrupted, UsageError
from contrastive.files import read_map
from contrastive.recipe import load_recipe, training_fingerprint
from contrastive.registry import load_registry
from contrastive.runs import shrink_offer
from tests.runs.test_runs import assert_same_run
from tests.support.photographs import photograph
from tests.support.tiny import UNEVALUATED, interrupted_after, write_recipe

LARGE = ((1200, 1600), (1600, 1200))
SMALL = {"train.shrink.short_side": 32, "train.batch_size": 4, "train.max_steps": 6, "train.workers": 0}
BATCH = "train.batch_size=2"


def recipe_of(folder: Path, sizes: dict[str, tuple[tuple[int, int], ...]]) -> Path:
    """The tiny recipe on photographs, by folder below the root."""
    for name, photographs in sizes.items():
        (folder / "data" / name).mkdir(parents=True)
        for number, size in enumerate(photographs):
            (folder / "data" / name / f"{number}.jpg").write_bytes(photograph(*size, noise=4))
    return write_recipe(folder, folder / "data")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe on photographs whose decoding costs nearly everything."""
    return recipe_of(tmp_path_factory.mktemp("large"), {"": LARGE})


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe on small photographs of two classes, with a test split."""
    sizes = tuple((60 + n, 80 - 3 * n) for n in range(10))
    names = ("train/a", "train/b", "test/a", "test/b")
    return recipe_of(
        tmp_path_factory.mktemp("small"), {name: sizes[: 10 if "train" in name else 3] for name in names}
    )


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "contrastive"


# -- what check and profile report ---------------------------------------------------------------------


@pytest.fixture
def slow_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding takes three quarters of what an image costs, and the encoder nothing."""
    monkeypatch.setattr(ImageCosts, "of", lambda *_: ImageCosts(0.03, 0.01))
    monkeypatch.setattr(shrinkage, "encoder_seconds", lambda *_: 0.0)


@pytest.mark.usefixtures("slow_decoding")
def test_check_offers_it_where_decoding_is_over_half(large: Path, cache: Path):
    report = check(large, [BATCH])
    offer = re.fullmatch(
        r"decoding is 30\.0 ms of the 40\.0 ms that an image costs in every epoch \(75\.0 %\); set "
        r"(train\.shrink\.short_side=256) to decode smaller ones in [\d.]+ ms, in training and evaluation: "
        r"2 images, once, in about \d+ s of one processor, 0\.\d MiB",
        report["shrink_offer"],
    )
    assert offer is not None
    report = check(large, [BATCH, offer[1]])
    assert "shrink_offer" not in report
    assert re.fullmatch(
        rf"2 images, once, in about \d+ s of one processor, 0\.\d MiB in {re.escape(str(cache))}; decoding "
        r"them then takes [\d.]+ ms per image, in training and evaluation, not [\d.]+ ms",
        report["shrunk"],
    )


@pytest.mark.usefixtures("slow_decoding")
def test_a_run_offers_it_once(large: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    sets = [f"--set={each}" for each in (BATCH, "train.max_steps=2", "evaluate.every=0")]
    with interrupted_after(1):
        assert main(["run", str(large), *sets, "--out", str(tmp_path / "run")]) == 130
    assert "set train.shrink.short_side=256 to decode smaller ones" in capsys.readouterr().out
    assert main(["run", str(large), *sets, "--out", str(tmp_path / "run")]) == 0
    assert "train.shrink" not in capsys.readouterr().out  # it would be another run


@pytest.mark.usefixtures("slow_decoding")
def test_an_encoder_that_takes_longer_is_no_place_to_save(large: Path, monkeypatch: pytest.MonkeyPatch):
    for seconds, is_offered in ((0.015, True), (0.025, False)):
        monkeypatch.setattr(shrinkage, "encoder_seconds", lambda *_, seconds=seconds: seconds)
        offer = check(large, [BATCH]).get("shrink_offer", "")
        assert ("decoding is 30.0 ms of the 55.0 ms that an image costs" in offer) is is_offered


def test_the_encoder_s_time_is_that_of_all_views_on_a_cpu(large: Path, monkeypatch: pytest.MonkeyPatch):
    _, parts = build(load_recipe(large, [BATCH], load_registry()))
    backbone, sizes = parts.method.backbone, []
    backbone.register_forward_hook(lambda module, inputs, _: sizes.append(tuple(inputs[0].shape[1:])))
    modes, threads = [module.training for module in backbone.modules()], torch.get_num_threads()
    assert shrinkage.encoder_seconds(replace(parts, view_sizes=[(16, 16), (8, 8)]), 3) > 0
    assert sizes == [(3, 16, 16), (3, 16, 16), (3, 8, 8)], "the first one warms up"
    assert [module.training for module in backbone.modules()] == modes
    assert torch.get_num_threads() == threads
    monkeypatch.setattr(shrinkage, "best_device", lambda: torch.device("cuda"))
    assert shrinkage.encoder_seconds(parts, 3) == 0


@pytest.mark.usefixtures("slow_decoding")
def test_larger_views_are_offered_larger_images(large: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = load_recipe(large, [BATCH], load_registry())
    data, parts = build(recipe)
    for side, short_side in ((16, 256), (224, 256), (225, 258), (384, 439)):
        offer = shrink_offer(recipe, data, replace(parts, view_sizes=[(16, 16), (side, side)]))
        assert offer.startswith(
            "decoding is 30.0 ms of the 40.0 ms that an image costs in every epoch (75.0 %)"
        )
        assert f"train.shrink.short_side={short_side} " in offer
    monkeypatch.setattr(ImageCosts, "of", lambda *_: ImageCosts(0.01, 0.01))
    assert shrink_offer(recipe, data, parts) is None


def test_it_is_not_offered_to_images_that_are_held(tiny_recipe: Path):
    assert not check(tiny_recipe).keys() & {"shrunk", "shrink_offer"}


def test_it_is_not_offered_to_images_that_would_stay_as_they_are(small: Path):
    assert "shrink_offer" not in check(small, ["train.batch_size=4"])
    assert check(small, ["train.batch_size=4", "train.shrink={}"])["shrunk"] == (
        "no image that was tried is larger, so they stay as they are"
    )


def test_check_reports_what_is_missing(large: Path, monkeypatch: pytest.MonkeyPatch):
    sets = [BATCH, "train.shrink={}"]
    assert re.fullmatch(
        r"again in every epoch, because train\.cache is none: [\d.]+ ms per image",
        check(large, [*sets, "train.cache=none"])["shrunk"],
    )
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2**10}))
    assert "contrastive, where only 0.0 MiB are free; " in check(large, sets)["shrunk"]


def test_profile_offers_it_if_loading_is_the_bottleneck(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(profiling, "WARM_UP", 1)
    monkeypatch.setattr(profiling, "shrink_offer", lambda *_: "smaller images would help")
    for bottleneck in ("encoder", "load"):
        monkeypatch.setattr(profiling, "_bottleneck", lambda _, bottleneck=bottleneck: bottleneck)
        report = profiling.profile(tiny_recipe, UNEVALUATED, steps=1)
        profiling.render(report)
        is_offered = bottleneck == "load"
        assert ("shrink_offer" in report) is is_offered
        assert ("smaller images would help." in capsys.readouterr().out) is is_offered


# -- the recipe ----------------------------------------------------------------------------------------


def test_the_fingerprint_covers_it_only_if_it_is_set(tiny_recipe: Path):
    def fingerprint(*sets: str) -> str:
        return training_fingerprint(load_recipe(tiny_recipe, sets, load_registry()), "data")

    plain = fingerprint()
    assert fingerprint("train.shrink=null") == plain
    others = [
        fingerprint(f"train.shrink={{{keys}}}")
        for keys in ("", "short_side: 255", "short_side: 256, quality: 91")
    ]
    assert len({plain, *others}) == 4
    assert others[0] == fingerprint("train.shrink={short_side: 256, quality: 92}")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("train.shrink=256", "train.shrink  must be a map, not 256"),
        ("train.shrink.short_side=0", "train.shrink.short_side  must be greater than or equal to 1, not 0"),
        ("train.shrink.quality=101", "train.shrink.quality  must be less than or equal to 100, not 101"),
        ("train.shrink.shortside=9", "has no key 'shortside'. Did you mean 'short_side'?"),
        (
            "train.shrink.short_side=12",
            "train.shrink.short_side  images shrunk to 12 pixels would be enlarged again to views of 16; "
            "raise it to 16 or more.",
        ),
    ],
)
def test_mistakes(tiny_recipe: Path, capsys: pytest.CaptureFixture[str], value: str, message: str):
    assert main(["check", str(tiny_recipe), "--set", value]) == 2
    assert message in capsys.readouterr().err


# -- runs ----------------------------------------------------------------------------------------------


@pytest.mark.ci
def test_a_run_and_its_evaluation_read_shrunk_images(small: Path, tmp_path: Path, cache: Path, capsys):
    contrastive.run(small, SMALL, out=tmp_path / "run")
    line = "train.shrink: training and evaluation read images of at most 32 pixels on the shorter side, not"
    assert line in capsys.readouterr().out
    names = {path.name.rsplit("-", 1)[0] for path in cache.glob("*.images")}
    assert names == {"image_folder-train", "image_folder-test"}
    shrink = {"short_side": 32, "quality": 92}
    assert read_map(tmp_path / "run" / "summary.json")["shrink"] == shrink
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["train"]["shrink"] == shrink
    sets = [f"{key}={value}" for key, value in SMALL.items()]
    assert check(small, sets)["shrunk"].startswith(f"already, in {cache}; decoding them takes ")
    with pytest.raises(UsageError, match=r"different: train\.shrink\.quality \(92, now 91\)"):
        contrastive.run(small, {**SMALL, "train.shrink.quality": 91}, out=tmp_path / "run")
    assert evaluate(tmp_path / "run", ["knn"])["shrink"] == shrink
    assert "shrink" not in evaluate(tmp_path / "run", ["knn"], ["train.shrink=null"])


@pytest.mark.slow
def test_runs_continue_with_another_cache(small: Path, tmp_path: Path):
    contrastive.run(small, SMALL, out=tmp_path / "whole")
    with interrupted_after(4), pytest.raises(Interrupted):
        contrastive.run(small, {**SMALL, "train.cache": "none"}, out=tmp_path / "parts")
    contrastive.run(small, {**SMALL, "train.workers": 1}, out=tmp_path / "parts")
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
