"""What a report shows of a run folder: metrics, curves and costs."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from contrastive.commands.report.record import cost_section, curve_section, metric_section, verdict
from contrastive.commands.run_values import VIEW_MEANINGS, VIEW_TITLES
from contrastive.runs import Run
from tests.support.fake_runs import write_run


def words(text: str) -> str:
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", text)).split())


@pytest.fixture
def run(tmp_path: Path) -> Run:
    same = {"fingerprint": "0"}
    summary = {**same, "epochs": 2, "steps": 4, "omitted": {"finetune": "no labels <here>"}}
    return Run(write_run(tmp_path, "one", 0, 0.8125, summary=summary, environment=same))


def test_metrics_stand_next_to_their_floors(run: Run):
    section = metric_section(run.summary, is_run=True)
    text = words(section.body)
    assert "knn top1 81.2 % 40.0 % +41.2" in text
    assert "raw pixels" not in text
    assert "No metrics of finetune: no labels <here>." in text
    assert section.remark.startswith("On 1,000 images of test, after the last epoch.")
    assert "pixels" not in section.remark
    assert "epoch" not in metric_section(run.summary, is_run=False).remark


def test_metrics_without_labels_have_a_table_of_their_own():
    views = {"trained": {"recall_1": 0.94, "lidar": 12.5}, "untrained": {"recall_1": 0.31}, "pixels": {}}
    text = words(metric_section({"trained": {}, "views": views}, is_run=True).body)
    assert "without labels trained untrained" in text
    assert "recall at 1 94.0 % 31.0 %" in text
    assert "LiDAR 12.5 -" in text
    assert "LiDAR (higher is better): how many directions tell images apart" in text
    assert "RankMe" not in text  # it is not in the table
    assert metric_section({}, is_run=True).body == ""


def test_omitted_metrics_come_after_those_without_labels(run: Run):
    section = metric_section({**run.summary, "views": {"trained": {"recall_1": 0.9}}}, is_run=True)
    assert words(section.body).endswith("No metrics of finetune: no labels <here>.")


def test_every_metric_of_views_has_an_explanation():
    assert VIEW_TITLES.keys() == VIEW_MEANINGS.keys()


def test_a_fraction_has_an_axis_on_which_noise_does_not_fill_the_plot(run: Run):
    lines = [{"step": n, "epoch": n, "loss": 1.0, "views/recall_1": 0.315 + 0.01 * n} for n in range(3)]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    figure = re.search(r"<figure><h3>views/recall 1.*?</figure>", curve_section(run).body)[0]
    ticks = [float(text) for text in re.findall(r'text-anchor="end">([^<]*)<', figure)]
    assert ticks[-1] - ticks[0] >= 10


def test_an_encoder_that_started_from_weights_was_not_untrained(run: Run):
    views = {"trained": {"recall_1": 0.94}, "untrained": {"recall_1": 0.31}}
    section = metric_section({**run.summary, "views": views, "starts_from_weights": True}, is_run=True)
    text = words(section.body)
    assert "metric trained before training gain" in text
    assert "without labels trained before training" in text
    assert section.remark.endswith("An encoder must beat itself before training.")
    assert "untrained" not in text


def test_the_sentences_of_a_verdict():
    assert verdict({"verdict": {"id": "verdict/1", "sentences": ["One.", "Two."]}}) == ["One.", "Two."]
    assert verdict({"verdict": ["One."]}) == ["One."]
    assert verdict({}) == []


def test_a_short_run_has_its_loss_over_steps_and_a_long_one_over_epochs(run: Run):
    figures = re.findall(r"<figure>.*?</figure>", curve_section(run).body, re.DOTALL)
    loss, knn = (next(f for f in figures if f"<h3>{title}" in f) for title in ("loss", "knn top1, %"))
    assert re.findall(r"<title>(.*?)</title>", loss) == ["loss: 5 at 1", "loss: 4 at 2", "loss: 3 at 4"]
    assert ">step</text>" in loss
    assert "Each point is one step." in loss
    assert "of z, which the loss compares" in curve_section(run).body
    assert re.findall(r"<title>(.*?)</title>", knn) == ["knn top1: 71.25 at 1", "knn top1: 71.25 at 2"]
    assert curve_section(run).body.count("<details>") == 1  # monitors
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 6, "epoch": 3, "lr": 0.0, "loss": 1.0}) + "\n")
    loss = re.search(r"<figure><h3>loss</h3>.*?</figure>", curve_section(run).body, re.DOTALL)[0]
    assert re.findall(r"<title>(.*?)</title>", loss) == ["loss: 4.5 at 1", "loss: 3 at 2", "loss: 1 at 3"]
    assert ">epoch</text>" in loss


def test_many_steps_become_means_of_neighbours(run: Run):
    lines = [{"step": step, "epoch": 1, "loss": float(step)} for step in range(1, 1001)]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = re.search(r'class="curve"[^>]*d="(M[^"]*)"', curve_section(run).body)[1]
    assert path.count("L") == 199
    assert "Mean of the steps around each point." in curve_section(run).body


def test_a_loss_that_is_not_finite_leaves_a_gap(run: Run):
    lines = [{"step": 1, "epoch": 1, "loss": None}, {"step": 2, "epoch": 1, "loss": 2.0}]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "loss: 2 at 2" in curve_section(run).body
    (run.folder / "metrics.jsonl").write_text("")
    assert curve_section(run).body == ""


def test_costs_have_units(run: Run):
    text = words(cost_section(run).body)
    for fact in (
        "time 1 min 0 s",
        "images/s (median) 100",
        "peak memory 800 MiB",
        "parameters 1,000",
        "2.0 M",
    ):
        assert fact in text
