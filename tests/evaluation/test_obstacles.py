"""Labels that allow no metric, or only some: what is given, what is not, and the reason."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import contrastive
from contrastive.build import Data, build, evaluation_rules, rules
from contrastive.commands.evaluate import evaluate
from contrastive.data import holdout
from contrastive.datasets import FashionMNISTSample
from contrastive.errors import DataError, UsageError
from contrastive.evaluation import EncoderTrial, Evaluation, SplitImages, TimedProtocol, omission_lines
from contrastive.protocols import KNN, FineTune, LinearProbe, Retrieval
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry
from tests.support.pictures import LABELS, TENTH, N, Pictures

NOBODY = np.full(N, -1)
INSIDE, OUTSIDE = np.where(TENTH, LABELS, -1), np.where(TENTH, -1, LABELS)
TEST = np.arange(12) % 3
ALL = {"knn", "linear", "retrieval", "finetune"}


@pytest.fixture(scope="module")
def parts(tiny_recipe: Path) -> Any:
    return build(load_recipe(tiny_recipe, (), load_registry()))[1]


def evaluation_on(parts: Any, train: Pictures, test: Pictures | None, validation: Pictures | None = None):
    entries = [
        ("knn", KNN(3), "every"),
        ("linear", LinearProbe([1.0, 0.1, 0.01]), "end"),
        ("retrieval", Retrieval([1]), "end"),
        ("finetune", FineTune(1, steps=1, batch_size=4), "end"),
    ]
    protocols = [TimedProtocol(name, name, protocol, at) for name, protocol, at in entries]
    return Evaluation(
        train, test, protocols, parts.pipelines, 16, torch.device("cpu"), 0, validation=validation
    )


def pictures(labels: np.ndarray | None, **more: Any) -> Pictures:
    return Pictures(labels, N if labels is None else len(labels), **more)


@pytest.mark.parametrize(
    ("train", "test", "names", "reason"),
    [
        # labels outside the tenth only: nothing chooses
        (OUTSIDE, TEST, ALL, None),
        (INSIDE, TEST, ALL, None),
        (INSIDE, None, {"retrieval"}, "no image of the other nine tenths of train has a label"),
        (OUTSIDE, None, set(), "no image of the held-out tenth of train has a label"),
        (NOBODY, TEST, {"retrieval"}, "no image of train has a label"),
        (None, TEST, {"retrieval"}, "no image of train has a label"),
        (NOBODY, NOBODY, set(), "no labels"),
        (None, None, set(), "no labels"),
        (LABELS, TEST + 7, {"retrieval"}, "train has none of the classes of the test split"),
        # one class, or one image
        (LABELS, TEST * 0, set(), "there is only one class among the 12 labelled images of the test split"),
        (LABELS, np.array([0, -1, -1]), set(), "only one class among the 1 labelled image of the test split"),
        (LABELS * 0, TEST, {"retrieval"}, "there is only one class among the 60 labelled images of train"),
        (LABELS * 0, None, set(), "there is only one class among the"),
        (
            np.where(np.arange(N) == 3, 0, -1),
            TEST,
            {"retrieval"},
            "only one class among the 1 labelled image",
        ),
    ],
)
def test_what_labels_allow_is_given_and_the_rest_has_its_reason(parts, train, test, names, reason):
    evaluation = evaluation_on(parts, pictures(train), None if test is None else pictures(test))
    metrics = evaluation.final(parts.method.backbone, parts.method.head)
    assert {name.partition("_")[0] for name in metrics} == names
    assert evaluation.omissions.keys() == ALL - names
    for words in evaluation.omissions.values():
        assert reason in words
    assert evaluation.final_omissions() == evaluation.omissions, "labels alone show it before training"


def test_a_probe_that_cannot_choose_takes_its_default_and_says_so(parts):
    evaluation = evaluation_on(parts, pictures(OUTSIDE), pictures(TEST))
    metrics = evaluation.final(parts.method.backbone, parts.method.head)
    remark = evaluation.describe()["linear"]["remark"]
    assert "l2 is 0.1, the middle of its strengths" in remark
    assert "remark" not in evaluation.describe()["knn"]
    fixed = evaluation_on(parts, pictures(LABELS), pictures(TEST))
    fixed.final(parts.method.backbone, parts.method.head)
    assert "remark" not in fixed.describe()["linear"]
    assert 0 <= metrics["linear_top1"] <= 1
    assert LinearProbe().default == 0.01


@pytest.mark.parametrize(
    ("train", "during"),
    [(LABELS, True), (OUTSIDE, False), (INSIDE, False), (NOBODY, False), (LABELS * 0, False)],
)
def test_during_training_only_what_ranks_encoders_is_given(parts, train, during):
    evaluation = evaluation_on(parts, pictures(train), pictures(TEST))
    metrics = evaluation.during(parts.method)
    assert ("knn_top1" in metrics) == during
    assert evaluation.ranking_metric(metrics) == ("knn_top1" if during else None)
    assert ("knn" in evaluation.periodic_omissions()) != during
    assert metrics["embedding_std"] > 0
    assert ("protocols" in evaluation.description()) == during


# -- images that cannot be read -----------------------------------------------------------------------


def test_images_that_cannot_be_read_do_not_count_among_the_classes(parts):
    of_others = tuple(np.flatnonzero(TEST > 0).tolist())
    evaluation = evaluation_on(parts, pictures(LABELS), pictures(TEST, broken=of_others))
    assert evaluation.final_omissions() == {}, "not known before they are read"
    assert evaluation.final(parts.method.backbone, parts.method.head) == {}
    assert "only one class among the 4 labelled images of the test split" in evaluation.omissions["knn"]
    assert evaluation.images_scored == 4


def test_a_test_split_that_cannot_be_read_has_its_reason(parts):
    evaluation = evaluation_on(parts, pictures(LABELS), pictures(TEST, broken=tuple(range(12))))
    assert evaluation.final(parts.method.backbone, parts.method.head) == {}
    assert set(evaluation.omissions.values()) == {
        "none of the 12 labelled images of the test split can be read"
    }


def test_monitors_are_left_out_if_no_image_that_validates_can_be_read(parts):
    broken = tuple(np.flatnonzero(TENTH).tolist())
    evaluation = evaluation_on(parts, pictures(LABELS, broken=broken), None)
    assert evaluation.during(parts.method) == {}


# -- a validation split -------------------------------------------------------------------------------


def test_a_validation_split_is_queried_against_all_of_train_and_chooses_alone(parts):
    train, validation, test = pictures(LABELS), pictures(np.arange(9) % 3), pictures(TEST)
    evaluation = evaluation_on(parts, train, test, validation)
    reader, method = evaluation.reader, parts.method.eval()
    with torch.no_grad():
        of_train, of_validation, of_test = (
            reader.features(method.backbone, table) for table in (train, validation, test)
        )
        during = evaluation.during(parts.method)
    assert during["knn_top1"] == KNN(3).score(of_train, of_validation)["top1"]
    final = evaluation.final(method.backbone, method.head)
    nothing = type(of_train)(of_train.vectors[:0], of_train.labels[:0], of_train.ids[:0])
    assert final["knn_top1"] == KNN(3).score(of_train, nothing, of_test)["top1"], "train alone is the bank"
    probe = LinearProbe([1.0, 0.1, 0.01])
    chosen = LinearProbe([probe.choose(of_train, of_validation)[0]])
    assert final["linear_top1"] == chosen.score(of_train, nothing, of_test)["top1"], "fitted on train alone"
    assert evaluation.split == "test"


def test_without_a_test_split_the_validation_split_is_scored(parts):
    evaluation = evaluation_on(parts, pictures(LABELS), None, pictures(np.arange(9) % 3))
    metrics = evaluation.final(parts.method.backbone, parts.method.head)
    assert {name.partition("_")[0] for name in metrics} == ALL
    assert (evaluation.split, evaluation.images_scored) == ("validation", 9)


def test_the_train_images_of_a_trial_are_the_train_split(parts):
    evaluation = evaluation_on(parts, pictures(LABELS), pictures(TEST))
    train, other = pictures(LABELS), pictures(TEST)

    def images(table, rows):
        return SplitImages(evaluation.reader, table, np.array(rows))

    held_out = EncoderTrial(torch.nn.Flatten(), None, images(train, [0, 1]), images(train, [2]))
    assert held_out.train.rows.tolist() == [0, 1, 2]
    assert [len(part) for part in held_out.train_features()] == [2, 1]
    own = EncoderTrial(torch.nn.Flatten(), None, images(train, [0, 1]), images(other, [2]))
    assert own.train.rows.tolist() == [0, 1]
    assert [len(part) for part in own.train_features()] == [2]


# -- before training ----------------------------------------------------------------------------------


def mistakes_of(tiny_recipe: Path, train: Pictures, validation: Pictures | None = None) -> list[str]:
    recipe = load_recipe(tiny_recipe, {"positives": "label"}, load_registry())
    data = Data(FashionMNISTSample(), train, None, "", validation)
    return [str(mistake) for mistake in rules.training_data(recipe, data, 1)]


def test_positives_by_label_need_a_label_that_training_may_read(tiny_recipe):
    assert mistakes_of(tiny_recipe, pictures(LABELS)) == []
    assert "all its labels are of the held-out tenth" in mistakes_of(tiny_recipe, pictures(INSIDE))[0]
    assert mistakes_of(tiny_recipe, pictures(INSIDE), pictures(TEST)) == [], "none is held out"
    assert "this data set has none" in mistakes_of(tiny_recipe, pictures(None))[0]


def test_early_stopping_needs_metrics_that_labels_allow(parts, tiny_recipe):
    recipe = load_recipe(tiny_recipe, (), load_registry())
    protocols = [TimedProtocol("knn", "knn", KNN(3), "every")]

    def validates(train: Pictures, validation: Pictures | None = None) -> bool:
        data = Data(None, train, None, "", validation)  # type: ignore[arg-type]
        return evaluation_rules.has_validation(recipe, data, protocols)

    assert validates(pictures(LABELS))
    assert not any(validates(pictures(labels)) for labels in (LABELS * 0, OUTSIDE, INSIDE, None))
    assert validates(pictures(OUTSIDE), pictures(TEST))


def test_sentences_on_omissions_share_a_reason():
    lines = omission_lines({"knn": "a", "linear": "a", "x": "b", "y": "no labels"}, " at the end")
    assert lines == ["knn, linear: no metrics at the end, because a", "x: no metrics at the end, because b"]


# -- whole runs ---------------------------------------------------------------------------------------


def write_table(path: Path, labels: list[int | None], first: int = 0) -> Path:
    images = []
    for i in range(len(labels)):
        pixels = np.random.default_rng(first + i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        images.append(stream.getvalue())
    pq.write_table(pa.table({"image": images, "label": pa.array(labels, pa.int64())}), path)
    return path


def table_run(recipe: Path, out: Path, **tables: Path) -> contrastive.Run:
    sets = {
        "dataset": {"name": "parquet", **{name: str(path) for name, path in tables.items()}},
        "train.max_steps": 1,
        "train.epochs": 1,
    }
    return contrastive.run(recipe, sets, out=out)


@pytest.mark.usefixtures("whole_ends")
def test_a_run_of_one_class_gives_no_accuracy_and_says_why(tiny_recipe, tmp_path, capsys):
    run = table_run(tiny_recipe, tmp_path / "run", train=write_table(tmp_path / "t.parquet", [0] * 40))
    assert run.summary["trained"] == {}
    assert run.summary["split"] is None
    assert "only one class" in run.summary["omitted"]["knn"]
    assert "knn, linear: no metrics, because there is only one class" in capsys.readouterr().out
    assert not any("knn_top1" in line for line in run.metrics)
    with pytest.raises(UsageError, match=r"nothing to evaluate: knn, linear: .* only one class"):
        evaluate(run.folder, ["knn", "linear"])
    found = evaluate(run.folder)
    assert found["trained"] == {}
    assert found["views"]["trained"] == pytest.approx(run.summary["views"]["trained"]), "it needs no labels"


def test_a_run_whose_tenth_has_no_label_is_scored_on_test(tiny_recipe, tmp_path, capsys):
    tenth = holdout(np.arange(N))
    train = write_table(tmp_path / "t.parquet", [None if tenth[i] else i % 2 for i in range(N)])
    test = write_table(tmp_path / "e.parquet", [0, 1] * 6, first=500)
    run = table_run(tiny_recipe, tmp_path / "run", train=train, test=test)
    assert run.summary["split"] == "test"
    assert run.summary["trained"].keys() == run.summary["untrained"].keys() == {
        "knn_top1", "knn_balanced", "linear_top1", "linear_balanced",
    }  # fmt: skip
    output = capsys.readouterr().out
    assert "knn: no metrics during training, because no image of the held-out tenth" in output
    assert "linear: l2 is 0.1" in output
    assert "l2 is 0.1" in run.summary["protocols"]["linear"]["remark"]


def test_a_run_with_a_validation_split_reports_it(tiny_recipe, tmp_path):
    tables = {
        "train": write_table(tmp_path / "t.parquet", [0, 1] * 20),
        "validation": write_table(tmp_path / "v.parquet", [0, 1] * 5, first=300),
        "test": write_table(tmp_path / "e.parquet", [0, 1] * 6, first=500),
    }
    run = table_run(tiny_recipe, tmp_path / "run", **tables)
    assert run.summary["images"] == {"train": 40, "validation": 10, "test": 12, "scored": 12}
    assert run.summary["split"] == "test"
    assert {"knn_top1", "linear_top1"} < run.summary["trained"].keys()
    assert any("knn_top1" in line for line in run.metrics)


def folder_recipe(tiny_data: Path, root: Path) -> dict[str, Any]:
    import shutil

    shutil.copytree(tiny_data, root)
    return {"dataset.root": str(root), "train.max_steps": 1, "train.epochs": 1}


def test_a_test_split_that_cannot_be_read_is_found_before_training(tiny_data, tiny_recipe, tmp_path):
    sets = folder_recipe(tiny_data, tmp_path / "data")
    for file in (tmp_path / "data" / "test").rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match="the test split has 30 images to evaluate on, but none of 16"):
        contrastive.run(tiny_recipe, sets, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_test_split_that_vanishes_during_training_costs_only_its_metrics(
    tiny_data, tiny_recipe, tmp_path, capsys, monkeypatch
):
    sets = folder_recipe(tiny_data, tmp_path / "data")
    monkeypatch.setattr("contrastive.runs.job.require_readable", lambda *_: None)
    for file in (tmp_path / "data" / "test").rglob("*.png"):
        file.write_bytes(b"x")
    run = contrastive.run(tiny_recipe, sets, out=tmp_path / "run")
    assert run.summary["trained"] == {}
    reason = "none of the 30 labelled images of the test split can be read"
    assert run.summary["omitted"] == {"knn": reason, "linear": reason}
    assert len(run.summary["unreadable"]) == 30
    assert (run.folder / "backbone" / "model.safetensors").is_file()
    output = capsys.readouterr().out
    assert f"warning: knn, linear: no metrics, because {reason}" in output
    assert "left out of the evaluation" in output
    assert "replaced by others" not in output
