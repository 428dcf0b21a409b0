"""``verdict/1``: each sentence has a planted encoder or run, and none is said of the others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import contrastive
from contrastive.data import Reader
from contrastive.evaluation import Curve, sampling_error, verdict_on
from contrastive.evaluation.verdict import COLOUR_SHARE, FALL, RISE, VERDICT
from contrastive.evaluation.views import ViewEvaluation
from contrastive.monitors import collapse_warning
from contrastive.parts import ImageTable
from tests.support.tiny import UNEVALUATED, write_data, write_recipe

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


def result_of(recall: float, untrained: float = 0.31, pixels: float = 0.4, **more: float) -> dict[str, Any]:
    """What a run measured without labels, on a thousand images."""
    return {
        "views": {
            "images": 1000,
            "trained": {"recall_1": recall, **more},
            "untrained": {"recall_1": untrained},
            "pixels": {"recall_1": pixels},
        }
    }


def signs(result: dict[str, Any], images: int = 0, **more: Any) -> list[str]:
    return verdict_on(result, images=images, **{"channels": 3, **more})["signs"]


def text(result: dict[str, Any], images: int = 0, **more: Any) -> str:
    return " ".join(verdict_on(result, images=images, **{"channels": 3, **more})["sentences"])


# -- without labels ------------------------------------------------------------------------------------


def test_a_good_encoder():
    result = result_of(0.94, recall_1_own_colours=0.96)
    assert signs(result) == ["recognition"]
    assert text(result) == (
        "Recognises an image in another view of it 94.0 % of the time, among 1,000 images that validate "
        "(raw pixels 40.0 %, untrained 31.0 %); this says nothing yet about classes."
    )
    assert verdict_on(result, images=0, channels=3)["version"] == "verdict/1"


def test_an_untrained_encoder():
    result = result_of(0.33, pixels=0.2)
    assert signs(result) == ["recognition", "no_recognition"]
    assert (
        "That is not shown to be more often than the untrained encoder: the difference is within the 4.1 "
        "points that 1,000 images leave open." in text(result)
    )
    assert signs(result_of(0.36, pixels=0.2)) == ["recognition"], "beyond the error of both"
    assert "not shown to be more often than the encoder before training:" in text(
        result, has_random_start=False
    )
    assert "before training 31.0 %" in text(result, has_random_start=False)


def test_an_encoder_below_raw_pixels():
    assert "That is less often than raw pixels." in text(result_of(0.35, untrained=0.1))


def test_floors_that_are_alike_share_a_sentence():
    assert signs(result_of(0.32)) == ["recognition", "no_recognition", "no_recognition"]
    assert "less often than raw pixels and the untrained encoder." in text(result_of(0.1))
    close = result_of(0.35, pixels=0.33)
    assert signs(close) == ["recognition", "no_recognition"]
    assert "more often than raw pixels or the untrained encoder: the difference is" in text(close)


def test_nothing_is_said_without_a_measurement():
    assert verdict_on({}, images=0, channels=3) == {"version": VERDICT, "sentences": [], "signs": []}
    alone = {"views": {"images": 40, "trained": {"recall_1": 0.5}}}
    assert text(alone) == (
        "Recognises an image in another view of it 50.0 % of the time, among 40 images that validate; this "
        "says nothing yet about classes."
    )


class Sizes(ImageTable):
    """Images of noise around a colour of their own."""

    def __init__(self, n: int = 300):
        self.ids, self.labels = np.arange(n, dtype=np.int64), None
        self.channels, self.size = 3, (16, 16)

    def decode(self, index: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(int(index))
        colour = torch.rand(3, 1, 1, generator=generator) * 200
        noise = torch.rand(3, 16, 16, generator=generator) * 40
        return (colour + noise).to(torch.uint8)

    def name(self, index: int) -> str:
        return str(index)


class MeanColour(nn.Module):
    """Reads nothing but the mean colour, in directions that cosines tell apart."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        mean = pixels.mean((2, 3))  # [b, 3]
        return torch.cat([(mean * f).sin() for f in (3.0, 6.0)] + [(mean * f).cos() for f in (3.0, 6.0)], 1)


class Collapsed(nn.Module):
    """Gives every image nearly the same features."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return 1 + 1e-4 * nn.functional.adaptive_avg_pool2d(pixels, 2).flatten(1)


class Random(nn.Module):
    """A random projection of a few pixels: what an untrained network sees."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(48, 32, generator=torch.Generator().manual_seed(0)))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(pixels, 4).flatten(1) @ self.weight


def views_of(encoder: nn.Module, untrained: nn.Module | None = None) -> dict[str, Any]:
    table = Sizes()
    return ViewEvaluation(Reader(16, CPU, 0), table, np.arange(len(table))).final(encoder, untrained)


def test_an_encoder_that_reads_the_mean_colour_alone():
    views = views_of(MeanColour())
    trained = views["trained"]
    assert trained["recall_1_own_colours"] > 3 * trained["recall_1"]
    said = text({"views": views})
    assert re.search(r"It relies on colour: in the same views without changes of colour it recognises", said)
    assert "It relies on brightness and contrast" in text({"views": views}, channels=1)


def test_colour_is_not_named_if_the_crop_hides_the_images_too():
    half = 0.6 * COLOUR_SHARE
    assert "colour" in signs(result_of(half - 0.01, 0.1, 0.1, recall_1_own_colours=0.6))
    assert "colour" not in signs(result_of(half + 0.01, 0.1, 0.1, recall_1_own_colours=0.6))
    few = result_of(0.004, 0.1, 0.1, recall_1_own_colours=0.01)  # 4 and 10 of 1,000: chance
    assert "colour" not in signs(few)


def test_a_collapsed_encoder():
    views = views_of(Collapsed(), Random())
    trained = views["trained"]
    collapse = collapse_warning(float("nan"), trained["effective_rank"], 1, 12)
    assert collapse is not None
    assert verdict_on({"views": views}, images=0, channels=3, collapse=collapse)["signs"][0] == "collapse"
    assert text({"views": views}, collapse=collapse).startswith(
        "The features have collapsed to few directions"
    )


# -- over a run ----------------------------------------------------------------------------------------


def lines_of(values: list[float], losses: list[float], key: str = "views/recall_1") -> list[dict[str, Any]]:
    """metrics.jsonl of a run with an evaluation per epoch."""
    lines = []
    for epoch, (value, loss) in enumerate(zip(values, losses, strict=True), 1):
        lines += [{"step": 10 * epoch, "epoch": epoch, "loss": loss}]
        lines += [{"step": 10 * epoch, "epoch": epoch, key: value}]
    return lines


def trend(values: list[float], losses: list[float], images: int = 1000) -> list[str]:
    curve = Curve.of(lines_of(values, losses), None, images)
    return signs({}, curve=curve)


FALLING = [4.0, 3.0, 2.5, 2.2, 2.0, 1.9, 1.8, 1.7]


def test_a_run_that_is_still_improving():
    values = [0.2, 0.4, 0.5, 0.6, 0.65, 0.7, 0.74, 0.78]
    assert trend(values, FALLING) == ["rise"]
    said = text({}, curve=Curve.of(lines_of(values, FALLING), None, 1000))
    assert said == (
        "Still improving at the end: recognition rose from 70.0 % (epoch 6) to 78.0 % (epoch 8); train "
        "longer."
    )


def test_a_run_that_has_stopped_improving():
    assert trend([0.2, 0.4, 0.6, 0.7, 0.75, 0.77, 0.775, 0.78], FALLING) == []
    least = max(RISE, sampling_error(0.775, 1000))
    assert trend([0.2, 0.4, 0.6, 0.7, 0.7, 0.77, 0.77, 0.77 + least - 0.002], FALLING) == []
    assert trend([0.2, 0.4, 0.6, 0.7, 0.7, 0.77, 0.77, 0.77 + least + 0.002], FALLING) == ["rise"]


def test_few_images_show_only_large_changes():
    values = [0.2, 0.4, 0.5, 0.6, 0.65, 0.7, 0.74, 0.78]
    assert trend(values, FALLING, images=50) == []


def test_an_overfitted_run():
    values = [0.5, 0.8, 0.9, 0.85, 0.8, 0.78, 0.77, 0.76]
    assert trend(values, FALLING) == ["fall"]
    said = text({}, curve=Curve.of(lines_of(values, FALLING), None, 1000))
    assert said == (
        "Past its best: recognition fell from 90.0 % (epoch 3) to 76.0 % (epoch 8), while the training loss "
        "fell too; train shorter, or augment more strongly."
    )
    assert trend(values, FALLING[::-1]) == [], "a loss that rises is another fault"
    assert trend([0.9, 0.9 - FALL / 2] * 4, FALLING) == []


def test_the_metric_with_labels_is_followed_if_there_is_one():
    lines = lines_of([0.2, 0.4, 0.5, 0.6, 0.65, 0.7, 0.74, 0.78], FALLING, "knn_top1")
    curve = Curve.of(lines, "knn_top1", 1000)
    assert "knn top1 rose from 70.0 % (epoch 6) to 78.0 %" in text({}, curve=curve)
    assert Curve.of(lines, None, 1000) is None, "a run of an earlier version has no recall"


def test_one_evaluation_shows_no_trend():
    assert trend([0.5], [3.0]) == []


# -- with labels ---------------------------------------------------------------------------------------


def labelled(trained: float, untrained: float, pixels: float, key: str = "knn_top1") -> dict[str, Any]:
    floors = {"untrained": {key: untrained}, "pixels": {key: pixels}}
    return {"trained": {key: trained}, **floors, "split": "test", "protocols": {}}


def test_accuracy_stands_with_its_interval_and_its_floors():
    assert text(labelled(0.8412, 0.72, 0.8), images=10_000) == (
        "On test, knn top1 is 84.1 % ± 0.7: 12.1 points above the untrained encoder and 4.1 points above raw "
        "pixels."
    )


def test_accuracy_that_is_not_above_a_floor():
    result = labelled(0.461, 0.46, 0.716)
    assert signs(result, images=2000) == ["labels", "no_gain", "no_gain"]
    assert text(result, images=2000).endswith(
        "Not better than the untrained encoder: knn top1 46.1 % against 46.0 %, within the 3.1 points that "
        "2,000 images leave open. Worse than raw pixels: knn top1 46.1 % against 71.6 %."
    )
    assert signs(labelled(0.461, 0.4, 0.4), images=100) == ["labels", "no_gain", "no_gain"], "few images"


def test_the_first_top1_is_named_and_plain_numbers_are_not_fractions():
    result = {"trained": {"retrieval_map": 0.5, "linear_top1": 0.7, "knn_top1": 0.6}, "split": "test"}
    assert text(result, images=1000).startswith("On test, linear top1 is 70.0 %")
    assert "retrieval map is 50.0 %" in text({"trained": {"retrieval_map": 0.5}, "split": "test"}, images=9)
    units = {"clusters": {"metric_units": {"ari": "number"}}}
    assert text({"trained": {"clusters_ari": 0.3}, "protocols": units, "split": "test"}, images=1000) == ""


def test_with_labels_nothing_is_said_of_what_views_leave_open():
    assert "says nothing yet" not in text({**labelled(0.8, 0.5, 0.5), **result_of(0.9)}, images=1000)


# -- whole runs ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("whole_ends")
def test_a_run_that_learns_nothing_is_not_said_to_have_learnt(tiny_recipe, tmp_path):
    sets = {"optimizer.lr": 1e-12, "optimizer.warmup_epochs": 0, "train.max_steps": 1, "train.epochs": 1}
    summary = contrastive.run(tiny_recipe, sets, out=tmp_path / "run").summary
    verdict = summary["verdict"]
    assert "labels" in verdict["signs"]
    assert "recognition" in verdict["signs"]
    assert {"no_gain", "no_recognition"} & set(verdict["signs"])
    assert not {"rise", "fall"} & set(verdict["signs"])


@pytest.mark.slow
@pytest.mark.usefixtures("whole_ends")
def test_a_run_that_learns_is_said_to_and_improves_at_the_end_if_it_is_short(tmp_path):
    root = write_data(tmp_path / "data", train=400, test=20)
    for split in ("train", "test"):  # one folder without classes
        for file in (root / split).rglob("*.png"):
            file.rename(root / split / f"{file.parent.name}-{file.name}")
        for folder in [each for each in (root / split).iterdir() if each.is_dir()]:
            folder.rmdir()
    recipe = write_recipe(tmp_path, root)
    sets = {**UNEVALUATED, "evaluate.every": 1, "train.epochs": 8, "train.batch_size": 64}
    verdict = contrastive.run(recipe, sets, out=tmp_path / "run").summary["verdict"]
    assert "recognition" in verdict["signs"]
    assert "no_recognition" not in verdict["signs"], verdict
    assert "collapse" not in verdict["signs"]


# -- the page ------------------------------------------------------------------------------------------


def test_the_page_has_the_thresholds_of_this_version():
    page = (ROOT / "docs" / "evaluation.md").read_text()
    section = page[page.index("## The verdict") :]
    assert f"`{VERDICT}`" in section
    for threshold in (f"{100 * RISE:.0f} points", f"{100 * FALL:.0f} points", "half", "three quarters"):
        assert threshold in section, threshold
