"""Evaluation of whole runs by every protocol, on their own and on other data, and its guards."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from unittest import mock

import pytest
import torch

import contrastive
from contrastive.build import build
from contrastive.cli import main
from contrastive.commands.evaluate import evaluate
from contrastive.data import Reader
from contrastive.errors import Interrupted, PluginError, UsageError
from contrastive.evaluation import Evaluation, TimedProtocol
from contrastive.parts import Protocol
from contrastive.protocols import KNN, FineTune, LinearProbe, Retrieval
from contrastive.protocols.finetune import balanced_sample
from contrastive.registry import load_registry
from contrastive.runs import load
from tests.support.faults.protocol import Warms

#: Three steps, for tests of what is evaluated after them.
SHORT = {"train.epochs": 1, "train.batch_size": 40}
#: Every protocol, some of them twice, and small enough for a test.
EVERY = {
    **SHORT,
    "evaluate.knn_z": {"protocol": "knn", "k": 5, "feature": "z"},
    "evaluate.linear_z": {"protocol": "linear", "l2": [0.1], "feature": "z"},
    "evaluate.retrieval": {"k": [1]},
    "evaluate.finetune_30": {"protocol": "finetune", "fraction": 0.3, "steps": 4, "batch_size": 8},
    "evaluate.finetune": {"fraction": 1, "steps": 4, "batch_size": 8},
}
FROZEN_H = {
    "knn_top1",
    "knn_balanced",
    "linear_top1",
    "linear_balanced",
    "retrieval_map",
    "retrieval_recall_1",
}
OTHERS = {
    "knn_z_top1", "knn_z_balanced", "linear_z_top1", "linear_z_balanced", "finetune_30_top1", "finetune_top1",
}  # fmt: skip


@pytest.fixture(scope="module")
def full_run(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Path) -> contrastive.Run:
    """A run evaluated by every protocol; to be read, not written."""
    return contrastive.run(tiny_recipe, EVERY, out=tmp_path_factory.mktemp("every") / "run")


def test_every_protocol_gives_its_figures_and_floors(full_run):
    summary = full_run.summary
    for row in ("trained", "untrained"):
        assert summary[row].keys() == FROZEN_H | OTHERS
        assert all(0 <= value <= 1 for value in summary[row].values())
    assert summary["pixels"].keys() == FROZEN_H, "pixels have no z, and cannot be tuned"
    protocols = summary["protocols"]
    assert {key: about["id"] for key, about in protocols.items()} == {
        "knn": "knn/1", "linear": "linear/1", "knn_z": "knn/1", "linear_z": "linear/1",
        "retrieval": "retrieval/1", "finetune_30": "finetune/1", "finetune": "finetune/1",
    }  # fmt: skip
    assert [protocols[key]["feature"] for key in ("knn", "knn_z", "linear_z")] == ["h", "z", "z"]
    assert all(about["split"] == "test" for about in protocols.values())
    tuned = {"fraction": 0.3, "steps": 4, "batch_size": 8, "lr": 0.1, "scale": [0.3, 1.0]}
    assert tuned.items() <= protocols["finetune_30"].items()
    assert protocols["finetune_30"]["labels_used"] == 36
    assert "labels_used" not in protocols["finetune"], "all of them"
    for key in ("knn", "linear", "knn_z", "linear_z"):
        classes = protocols[key]["per_class"]
        assert [own["images"] for own in classes.values()] == [10, 10, 10], "of the trained encoder, on test"
        mean = sum(own["top1"] for own in classes.values()) / 3
        assert mean == pytest.approx(summary["trained"][f"{key}_balanced"])
    assert "per_class" not in protocols["retrieval"]
    assert not any("per_class" in str(line) for line in full_run.metrics)


def test_figures_of_z_are_those_of_the_head(full_run):
    loaded = load(full_run.folder, load_registry())
    method, evaluation = loaded.parts.method.eval(), loaded.evaluation
    with torch.no_grad():
        bank, queries = (
            evaluation.reader.features(method.embed, table) for table in (evaluation.train, evaluation.test)
        )
    assert KNN(5).score(bank, bank, queries)["top1"] == full_run.summary["trained"]["knn_z_top1"]


def test_the_labels_used_are_listed_in_the_run_and_the_same_in_every_run(full_run, tiny_recipe, tmp_path):
    listed = json.loads((full_run.folder / "subsets.json").read_text())
    train = load(full_run.folder, load_registry()).data.train
    assert listed == {
        "finetune_30": sorted(train.ids[balanced_sample(train.ids, train.labels, 0.3)].tolist())
    }
    none = {**SHORT, "train.seed": 5, "loss.temperature": 0.7, "evaluate.linear": None}
    other = {**none, "evaluate.finetune_30": EVERY["evaluate.finetune_30"]}
    second = contrastive.run(tiny_recipe, other, out=tmp_path / "run")
    assert (second.folder / "subsets.json").read_text() == (full_run.folder / "subsets.json").read_text()
    key = "labels_sha256"
    assert (
        second.summary["protocols"]["finetune_30"][key] == full_run.summary["protocols"]["finetune_30"][key]
    )
    contrastive.run(tiny_recipe, none, out=tmp_path / "run")
    assert not (second.folder / "subsets.json").exists(), "nothing of an evaluation that was replaced stays"


def test_evaluate_repeats_the_figures_of_the_run(full_run):
    found = evaluate(full_run.folder)
    for row in ("trained", "untrained", "pixels", "protocols"):
        assert found[row] == full_run.summary[row], row
    assert found["subsets"] == json.loads((full_run.folder / "subsets.json").read_text())


@pytest.mark.ci
def test_a_run_stopped_while_it_tunes_ends_as_if_it_never_was(full_run, tiny_recipe, tmp_path):
    """Within a batch: the signal comes in the second one of the second protocol that tunes."""
    send, seen = Reader.crops, []

    def stopping(*arguments):
        for batch in send(*arguments):
            seen.append(batch)
            if len(seen) == 6:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    with mock.patch.object(Reader, "crops", stopping), pytest.raises(Interrupted):
        contrastive.run(tiny_recipe, EVERY, out=tmp_path / "run")
    assert len(seen) == 6, "no batch follows"
    assert not (tmp_path / "run" / "summary.json").exists()
    resumed = contrastive.run(tiny_recipe, EVERY, out=tmp_path / "run", resume="must")
    for row in ("trained", "untrained", "pixels", "protocols"):
        assert resumed.summary[row] == full_run.summary[row], row


def test_during_training_z_and_fine_tuning_read_the_held_out_tenth(tiny_recipe, tmp_path):
    sets = {
        **SHORT,
        "train.epochs": 2,
        "evaluate.linear": None,
        "evaluate.knn_z": {"protocol": "knn", "k": 5, "feature": "z"},
        "evaluate.finetune": {"fraction": 0.5, "steps": 2, "at": "every"},
    }
    run = contrastive.run(tiny_recipe, sets, out=tmp_path / "run")
    evaluated = [line for line in run.metrics if "protocols" in line]
    assert [line["epoch"] for line in evaluated] == [1, 2]
    for line in evaluated:
        assert {"knn_top1", "knn_z_top1", "finetune_top1"} <= line.keys()
        assert "linear_top1" not in line
        assert {key: about["id"] for key, about in line["protocols"].items()} == {
            "knn": "knn/1", "knn_z": "knn/1", "finetune": "finetune/1",
        }  # fmt: skip
        assert {about["split"] for about in line["protocols"].values()} == {"validation"}


# -- the command --------------------------------------------------------------------------------------


def test_protocols_that_the_recipe_does_not_name_can_be_asked(tiny_run, capsys):
    asked = ["--protocol", "finetune", "--set", "evaluate.finetune.fraction=0.3"]
    asked += ["--set", "evaluate.finetune.steps=2", "--protocol", "retrieval", "--json"]
    assert main(["evaluate", str(tiny_run), *asked]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["trained"].keys() == {
        "finetune_top1", "retrieval_map", "retrieval_recall_1", "retrieval_recall_5", "retrieval_recall_10",
    }  # fmt: skip
    assert found["protocols"]["finetune"]["fraction"] == 0.3
    assert len(found["subsets"]["finetune"]) == 36
    assert evaluate(tiny_run, ["retrieval"], {"evaluate.retrieval.k": [2]})["trained"].keys() == {
        "retrieval_map", "retrieval_recall_2",
    }  # fmt: skip


def test_transfer_to_another_data_set_is_frozen_features_on_its_train_and_test(full_run, tmp_path):
    from tests.support.tiny import write_data

    root = write_data(tmp_path / "other", train=20, test=7)
    before = {path: path.stat().st_mtime_ns for path in full_run.folder.rglob("*")}
    found = evaluate(full_run.folder, ["knn", "finetune_30"], {"dataset.root": str(root)})
    assert (found["split"], found["dataset"], found["trained_on"]) == ("test", "image_folder", "image_folder")
    assert found["data"] != json.loads((full_run.folder / "environment.json").read_text())["data"]
    metrics = {"knn_top1", "knn_balanced", "finetune_30_top1"}
    assert found["trained"].keys() == found["untrained"].keys() == metrics
    assert found["pixels"].keys() == {"knn_top1", "knn_balanced"}
    assert found["protocols"]["finetune_30"]["labels_used"] == 18, "of the other data set"
    loaded = load(full_run.folder, load_registry(), {"dataset.root": str(root)})
    reader, method = loaded.evaluation.reader, loaded.parts.method.eval()
    with torch.no_grad():
        bank, queries = (
            reader.features(method.backbone, table) for table in (loaded.data.train, loaded.data.test)
        )
    assert KNN(5).score(bank, bank, queries)["top1"] == found["trained"]["knn_top1"]
    assert {path: path.stat().st_mtime_ns for path in full_run.folder.rglob("*")} == before


# -- guards -------------------------------------------------------------------------------------------


class Trains(Warms):
    """Takes a step with the encoder itself."""

    def evaluate(self, trial):
        with torch.no_grad():
            next(trial.encoder.parameters()).add_(0.1)
        return {"top1": 0.5}


class Forgets(Warms):
    """Leaves the encoder in training mode."""

    def evaluate(self, trial):
        trial.encoder.train()
        return {"top1": 0.5}


class Plugin:
    """What an installed plugin's module would be."""

    @staticmethod
    @contrastive.hookimpl
    def register_protocol(register):
        register("warms", Warms)
        register("trains", Trains)
        register("forgets", Forgets)


@pytest.mark.parametrize(
    ("protocol", "said"),
    [
        ("warms", r"'warms' changed net\.[\w.]+running_mean of the encoder"),
        ("trains", r"'trains' changed net\.[\w.]+weight of the encoder"),
        ("forgets", r"'forgets' changed its mode \(it is left in training\)"),
    ],
)
def test_a_protocol_that_changes_the_encoder_fails_the_evaluation(tiny_run, protocol, said, monkeypatch):
    registry = load_registry()
    registry.add(Plugin(), "contrastive-careless", "1.0")
    monkeypatch.setattr("contrastive.commands.evaluate.load_registry", lambda: registry)
    with pytest.raises(PluginError, match=rf"evaluate\.{protocol}: the protocol {said}.*copy") as error:
        evaluate(tiny_run, [protocol])
    assert error.value.exit_code == 3


def test_no_protocol_of_ours_changes_the_encoder(full_run):
    loaded = load(full_run.folder, load_registry())
    method = loaded.parts.method
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    loaded.evaluation.final(method.backbone, method.head)
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.state_dict().items())
    assert all(module.training for module in method.modules()), "the mode it was in"


def test_figures_of_one_name_are_refused(tiny_recipe):
    class Named(KNN):
        def score(self, *given):
            return {"b_c": 1.0, "c": 1.0}

    registry = load_registry()
    data, parts = build(contrastive.recipe.load_recipe(tiny_recipe, (), registry))
    asked = [TimedProtocol("a", "knn", Named(), "end"), TimedProtocol("a_b", "knn", Named(), "end")]
    evaluation = Evaluation(data.train, data.test, asked, parts.pipelines, 16, torch.device("cpu"))
    with pytest.raises(UsageError, match="two protocols give a metric 'a_b_c'"):
        evaluation.final(parts.method.backbone, None)


def test_a_checkpoint_that_lacks_a_key_is_refused_by_name(tiny_run, monkeypatch):
    weights = contrastive.Run(tiny_run).weights()
    lost = next(iter(weights))
    monkeypatch.setattr(
        contrastive.Run, "weights", lambda self: {k: v for k, v in weights.items() if k != lost}
    )
    with pytest.raises(UsageError, match=f"does not fit these images or overrides: it lacks {lost}"):
        evaluate(tiny_run)


def test_images_of_other_channels_are_refused_by_name(tiny_run):
    with pytest.raises(UsageError, match=r"it has backbone\.net\.conv1\.weight \[\d+, 3, 3, 3\], the model"):
        evaluate(tiny_run, (), {"dataset": {"name": "fashion_mnist_sample"}})


# -- parameters ---------------------------------------------------------------------------------------


class KeepsHelpers(Protocol):
    """A protocol with a public attribute that is not a parameter, and a parameter that it keeps privately."""

    version = 3

    def __init__(self, k: int = 5, scale: tuple[float, float] = (0.5, 1.0), seed: int = 0) -> None:
        self.table = {}
        self.scale, self.k = scale, k
        self._seed = seed

    def score(self, fit, validation, test=None):
        return {"top1": 0.0}


@pytest.mark.parametrize(
    ("protocol", "parameters"),
    [
        (KNN(), '{"k": 200, "temperature": 0.1, "feature": "h"}'),
        (KNN(5, feature="z"), '{"k": 5, "temperature": 0.1, "feature": "z"}'),
        (LinearProbe([0.1, 1.0]), '{"l2": [1.0, 0.1], "feature": "h"}'),
        (Retrieval((5, 1)), '{"k": [1, 5], "feature": "h"}'),
        (
            FineTune(),
            '{"fraction": 0.1, "steps": 500, "batch_size": 64, "lr": 0.1, "scale": [0.3, 1.0]}',
        ),
        (KeepsHelpers(), '{"k": 5, "scale": [0.5, 1.0]}'),
    ],
)
def test_a_protocol_declares_its_parameters(protocol, parameters):
    assert json.dumps(protocol.parameters()) == parameters


def test_a_metric_carries_id_feature_parameters_and_split_in_this_order():
    described = TimedProtocol("knn_z", "knn", KNN(feature="z"), "end").describe("test")
    assert json.dumps(described) == (
        '{"id": "knn/1", "version": 1, "feature": "z", "k": 200, "temperature": 0.1, "split": "test"}'
    )


class Clusters(KNN):
    """A protocol with a metric that is no fraction."""

    metric_units = {"ari": "number", "purity": "fraction"}  # noqa: RUF012


def test_a_metric_carries_its_unit_only_if_it_is_no_fraction():
    described = TimedProtocol("clusters", "clusters", Clusters(), "end").describe("test")
    assert described["metric_units"] == {"ari": "number"}
    assert "metric_units" not in TimedProtocol("knn", "knn", KNN(), "end").describe("test")


# -- the metric that ranks encoders -------------------------------------------------------------------


class RanksByMap(Retrieval):
    """A protocol that declares which of its metrics ranks encoders."""

    def ranking_metric(self, metrics):
        return "map"


def timed(key: str, part: str) -> TimedProtocol:
    protocols = {"knn": KNN, "linear": LinearProbe, "retrieval": Retrieval, "ranks_by_map": RanksByMap}
    return TimedProtocol(key, part, protocols[part](), "every")


def evaluation_of(recipe: Path, entries: dict[str, str]) -> Evaluation:
    data, parts = build(contrastive.recipe.load_recipe(recipe, (), load_registry()))
    protocols = [timed(key, part) for key, part in entries.items()]
    return Evaluation(data.train, data.test, protocols, parts.pipelines, 16, torch.device("cpu"))


@pytest.mark.parametrize(
    ("entries", "metrics", "ranking"),
    [
        ({"linear": "linear", "knn": "knn"}, ["linear_top1", "knn_top1"], "knn_top1"),
        ({"linear": "linear", "a": "linear"}, ["linear_top1", "a_top1"], "a_top1"),
        # a second kNN is a metric like any other
        ({"linear": "linear", "z_knn": "knn"}, ["linear_top1", "z_knn_top1"], "linear_top1"),
        ({"knn": "knn", "knn_a": "knn"}, ["knn_top1", "knn_a_top1"], "knn_top1"),
        ({"linear": "linear"}, ["linear_top5", "linear_b_top1", "linear_a_top1"], "linear_a_top1"),
        ({"ranks_by_map": "ranks_by_map", "s": "linear"}, ["ranks_by_map_map", "s_top1"], "ranks_by_map_map"),
        ({"retrieval": "retrieval"}, ["retrieval_map", "retrieval_recall_1"], None),
        ({}, [], None),
        ({"ranks_by_map": "ranks_by_map"}, [], None),  # without labels there are only monitors
    ],
)
def test_the_protocol_declares_the_metric_that_ranks_encoders(tiny_recipe, entries, metrics, ranking):
    evaluation = evaluation_of(tiny_recipe, entries)
    assert evaluation.ranking_metric(["alignment", *metrics, "effective_rank"]) == ranking


def test_a_ranking_metric_that_is_not_given_is_refused_by_name(tiny_recipe):
    evaluation = evaluation_of(tiny_recipe, {"ranks_by_map": "ranks_by_map"})
    with pytest.raises(PluginError, match=r"ranks_by_map: .* by 'map', which it does not give; it gives a\."):
        evaluation.ranking_metric(["ranks_by_map_a"])
