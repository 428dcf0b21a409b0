"""``views/1``: the same views for everyone, their metrics by hand, and what a run keeps of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import contrastive
from contrastive.augmentations import Flip, Pipeline, RandomResizedCrop, SimCLR
from contrastive.build import build, untrained_of
from contrastive.cli import main
from contrastive.data import Reader
from contrastive.errors import Interrupted
from contrastive.evaluation import Alarms, Evaluation
from contrastive.evaluation.views import NeighbourMemory, ViewEvaluation
from contrastive.monitors import alignment, effective_rank, lidar, uniformity
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry
from contrastive.rng import Key, derive
from contrastive.runs import load
from contrastive.training import Engine
from tests.support.command_line import json_of
from tests.support.ends import whole_ends
from tests.support.images import Images
from tests.support.tiny import UNEVALUATED

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _with_views() -> Iterator[None]:
    with whole_ends():
        yield


def evaluation_of(table: Images, size: int = 8, **options) -> ViewEvaluation:
    return ViewEvaluation(Reader(size, CPU, 0, **options), table, np.arange(len(table)))


class Pooled(nn.Module):
    """The mean colours of the four quarters of an image."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(pixels, 2).flatten(1)


def by_hand(table: Images, rows: np.ndarray, view: int | None, size: int = 8) -> torch.Tensor:
    """Pooled pixels of whole images, or of a view of them, image by image."""
    pipeline = SimCLR(size, strength=0.5).pipelines()[0]
    images = torch.stack([table.decode(int(row)) for row in rows])
    pixels = images.float() / 255
    if view is not None:
        parts = [
            pipeline(images[i : i + 1], table.ids[rows[i : i + 1]], Key(derive("views", 1), 0, view))
            for i in range(len(rows))
        ]
        pixels = torch.cat(parts)
    return Pooled()(pixels)


# -- the views -----------------------------------------------------------------------------------------


def test_the_metrics_are_those_of_simclr_views_drawn_from_the_ids():
    table = Images(40)
    result = evaluation_of(table).final(Pooled(), None)
    rows = np.arange(40)
    first, second = by_hand(table, rows, 0), by_hand(table, rows, 1)
    unit = [nn.functional.normalize(h, dim=1) for h in (first, by_hand(table, rows, None))]
    similarity = unit[0] @ unit[1].T
    ranks = (similarity > similarity.diagonal()[:, None]).sum(1) + 1
    trained = result["trained"]
    assert trained["recall_1"] == pytest.approx((ranks == 1).double().mean().item())
    assert trained["median_rank"] == pytest.approx(ranks.double().quantile(0.5).item())
    assert trained["alignment"] == pytest.approx(alignment(first, second), rel=1e-4)
    assert trained["uniformity"] == pytest.approx(uniformity(first), rel=1e-4)
    assert trained["effective_rank"] == pytest.approx(effective_rank(by_hand(table, rows, None)), rel=1e-4)
    views = torch.stack([by_hand(table, rows, number) for number in range(10)], 1)
    order = np.argsort(rows)
    assert trained["lidar"] == pytest.approx(lidar(views[order]), rel=1e-4)
    assert (result["id"], result["images"], result["lidar_images"]) == ("views/1", 40, 40)
    assert "untrained" not in result


def test_no_recipe_and_no_batch_changes_a_view(tiny_recipe):
    """Neither the augmentation, nor the seed, nor how many images are read at a time."""
    results = []
    for sets in ([], ["train.seed=7", "augmentation.strength=0", "augmentation.scale=[0.9, 1.0]"]):
        data, parts = build(load_recipe(tiny_recipe, sets, load_registry()))
        evaluation = Evaluation(data.train, data.test, (), parts.pipelines, 16, CPU)
        results.append(evaluation.label_free(Pooled(), None))
    assert results[0] == results[1]
    table = Images(30)
    whole = evaluation_of(table).final(Pooled(), None)["trained"]
    with mock.patch("contrastive.data.reading.BATCH", 7):
        parts_of_seven = evaluation_of(table).final(Pooled(), None)["trained"]
    assert parts_of_seven == pytest.approx(whole, rel=1e-5)


def test_a_view_in_its_own_colours_is_the_same_crop():
    table = Images(12)
    views = evaluation_of(table)
    ((ids, images),) = list(views._batches())
    crop = Pipeline([RandomResizedCrop(8, (0.08, 1.0), interpolation="bicubic"), Flip()])
    own = views._view(images, ids, 0, views._own_colours)
    torch.testing.assert_close(own, crop(images, ids, Key(derive("views", 1), 0, 0)))
    assert not torch.allclose(own, views._view(images, ids, 0), atol=0.05)


def test_blur_belongs_to_larger_views_only():
    assert "blur" not in [each.name for each in evaluation_of(Images(4), 32)._pipeline.operations]
    assert "blur" in [each.name for each in evaluation_of(Images(4), 33)._pipeline.operations]


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_coloured_images_that_vary_in_size_and_some_that_do_not_decode(channels):
    table = Images(30, bad=(3, 11), varying=True, labels=False, channels=channels)
    result = evaluation_of(table).final(Pooled(), Pooled())
    assert result["images"] == 28
    assert result["trained"].keys() - result["untrained"].keys() == {"recall_1_own_colours"}
    assert result["pixels"].keys() == {"recall_1", "median_rank"}
    assert evaluation_of(Images(3, bad=(0, 1))).final(Pooled(), None) == {}


def test_at_most_a_thousand_images_of_which_lidar_reads_five_hundred():
    result = evaluation_of(Images(1100)).final(Pooled(), None)
    assert (result["images"], result["lidar_images"]) == (1000, 500)


def test_images_are_decoded_once_for_all_evaluations():
    table = Images(20)
    views = evaluation_of(table)
    results = [views.final(Pooled(), None) for _ in range(2)]
    assert table.decoded == 20
    assert results[0] == results[1]
    with mock.patch("contrastive.evaluation.views._PIXEL_BYTES", 100):
        views = evaluation_of(table)
        assert [views.final(Pooled(), None) for _ in range(2)] == results
    assert table.decoded == 60, "too many to be held are read again"


def test_held_images_do_not_keep_a_stop_from_being_noticed():
    stop = False
    views = evaluation_of(Images(20), interrupted=lambda: stop)
    views.final(Pooled(), None)
    stop = True
    with pytest.raises(Interrupted):
        views.final(Pooled(), None)


# -- floors --------------------------------------------------------------------------------------------


def test_residual_branches_of_the_floor_are_open_as_with_timms_option(tiny_recipe):
    registry = load_registry()
    recipe = load_recipe(tiny_recipe, (), registry)
    data, parts = build(recipe)
    floor, _ = untrained_of(recipe, data, parts, CPU, open_branches=True)
    start, _ = untrained_of(recipe, data, parts, CPU)
    option = load_recipe(tiny_recipe, ["backbone.options.zero_init_last=false"], registry)
    expected, _ = untrained_of(option, *build(option), CPU)
    assert floor.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(value, expected.state_dict()[key]) for key, value in floor.state_dict().items())
    assert any(not torch.equal(value, start.state_dict()[key]) for key, value in floor.state_dict().items())


def test_weights_of_a_file_are_the_floor_as_they_are(whole_run, tiny_recipe, tmp_path):
    """A normalisation at zero is then something that was learnt, as in a network that was pruned."""
    weights = load_file(whole_run / "backbone" / "model.safetensors")
    name = next(key for key in weights if ".bn2." in key and key.endswith("weight"))
    weights[name].zero_()
    save_file(weights, tmp_path / "pruned.safetensors")
    recipe = load_recipe(tiny_recipe, [f"backbone.weights={tmp_path}/pruned.safetensors"], load_registry())
    floor, _ = untrained_of(recipe, *build(recipe), CPU, open_branches=True)
    [own] = [value for key, value in floor.state_dict().items() if key.endswith(name)]
    assert not own.any()


# -- stability -----------------------------------------------------------------------------------------


def points(*values: float) -> torch.Tensor:
    """Points on a circle, at these angles."""
    angles = torch.tensor(values)
    return torch.stack([angles.cos(), angles.sin()], 1)


def test_stability_is_the_share_of_neighbours_that_stay():
    ids = np.array([5, 7, 20, 21, 30])
    memory = NeighbourMemory()
    with mock.patch("contrastive.evaluation.views.NEIGHBOURS", 2):
        assert memory.overlap(ids, points(0, 0.1, 0.2, 0.3, 0.4)) is None
        memory.keep()
        assert memory.overlap(ids, 3 * points(0, 0.1, 0.2, 0.3, 0.4)) == 1.0
        # The first has moved to the other end, and leaves the neighbours of 7; it joins those of 30.
        shares = {5: 0, 7: 0.5, 20: 1, 21: 1, 30: 0.5}
        assert memory.overlap(ids, points(0.55, 0.1, 0.21, 0.3, 0.4)) == pytest.approx(
            np.mean([*shares.values()])
        )


def test_only_an_evaluation_that_ended_is_compared_with():
    ids, first, second = np.arange(12), torch.randn(12, 4), torch.randn(12, 4)
    memory = NeighbourMemory()
    with mock.patch("contrastive.evaluation.views.NEIGHBOURS", 3):
        memory.overlap(ids, first)
        memory.keep()
        memory.overlap(ids, second)  # broken off: nobody calls keep
        other = NeighbourMemory()
        other.load_state_dict(memory.state_dict())
        assert other.overlap(ids, first) == 1.0
        assert memory.overlap(ids, first) == 1.0
        assert 0 < other.overlap(ids, second) < 1
        assert other.overlap(ids, torch.full((12, 4), torch.nan)) is None
    assert NeighbourMemory().state_dict() == {}
    Alarms(10).load_state_dict({})  # a checkpoint of an earlier version


def test_images_that_can_no_longer_be_read_are_left_out_of_the_comparison():
    ids, vectors = np.arange(12), torch.randn(12, 4)
    memory = NeighbourMemory()
    memory.overlap(ids, vectors)
    memory.keep()
    assert memory.overlap(ids[2:], vectors[2:]) > 0.8
    assert memory.overlap(np.arange(50, 60), vectors[:10]) is None


# -- runs ----------------------------------------------------------------------------------------------

#: Four epochs of two steps with evaluations, checkpoints after every second epoch, and no protocol whose best
#: is saved.
PLAIN = {
    **UNEVALUATED,
    "evaluate.every": 1,
    "train.epochs": 4,
    "train.batch_size": 60,
    "train.checkpoint_every": 2,
}


def evaluations(run: contrastive.Run) -> list[dict[str, float]]:
    return [
        {key: line[key] for key in line if key.startswith("views/") or key == "epoch"}
        for line in run.metrics
        if "views/recall_1" in line
    ]


@pytest.fixture(scope="module")
def undisturbed(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> contrastive.Run:
    return contrastive.run(tiny_recipe, PLAIN, out=tmp_path_factory.mktemp("views") / "run")


def test_every_evaluation_has_the_metrics_and_the_summary_the_last_stability(undisturbed):
    lines = evaluations(undisturbed)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert "views/stability" not in lines[0]
    assert all(0 < line["views/stability"] < 1 for line in lines[1:])
    views = undisturbed.summary["views"]
    assert views["trained"]["stability"] == lines[-1]["views/stability"]
    assert views["trained"]["recall_1"] == pytest.approx(lines[-1]["views/recall_1"])
    assert {"untrained", "pixels"} <= views.keys()
    assert not any(key.startswith("views/") for key in undisturbed.summary["monitors"])
    assert all(line["views"] == "views/1" for line in undisturbed.metrics if "views/recall_1" in line)


class Kill(BaseException):
    """Ends a run at once, as SIGKILL does."""


def test_a_run_killed_after_an_evaluation_that_no_checkpoint_holds_ends_as_if_it_never_was(
    undisturbed, tiny_recipe, tmp_path
):
    finish = Engine._finish_epoch

    def killed(engine: Engine) -> None:
        finish(engine)
        if engine.state.epoch == 3:  # its evaluation is over; the checkpoint is of the second epoch
            raise Kill

    with mock.patch.object(Engine, "_finish_epoch", killed), pytest.raises(Kill):
        contrastive.run(tiny_recipe, PLAIN, out=tmp_path / "run")
    resumed = contrastive.run(tiny_recipe, PLAIN, out=tmp_path / "run", resume="must")
    assert evaluations(resumed) == evaluations(undisturbed)
    assert resumed.summary["views"] == undisturbed.summary["views"]
    assert resumed.summary["verdict"] == undisturbed.summary["verdict"]


def test_a_run_stopped_in_an_evaluation_ends_as_if_it_never_was(undisturbed, tiny_recipe, tmp_path):
    """The evaluation was broken off after its neighbours were found."""
    during, calls = ViewEvaluation.during, []

    def interrupted(self, *arguments):
        metrics = during(self, *arguments)
        calls.append(metrics)
        if len(calls) == 2:
            raise Interrupted("interrupted")
        return metrics

    with mock.patch.object(ViewEvaluation, "during", interrupted), pytest.raises(Interrupted):
        contrastive.run(tiny_recipe, PLAIN, out=tmp_path / "run")
    resumed = contrastive.run(tiny_recipe, PLAIN, out=tmp_path / "run", resume="must")
    assert evaluations(resumed) == evaluations(undisturbed)


def test_a_run_that_was_extended_compares_with_the_evaluation_before_its_former_end(
    undisturbed, tiny_recipe, tmp_path
):
    shorter = {**PLAIN, "train.max_steps": 3}  # in the second of the epochs
    contrastive.run(tiny_recipe, shorter, out=tmp_path / "run")
    extended = contrastive.run(tiny_recipe, PLAIN, out=tmp_path / "run")
    assert evaluations(extended) == evaluations(undisturbed)


def test_the_metrics_of_a_run_without_views_are_what_they_were(tiny_recipe, tmp_path):
    """Nothing that training draws, and no other metric, depends on the views."""
    sets = {"train.epochs": 2, "train.batch_size": 60, "evaluate.every": 1, "evaluate.linear": None}
    run = contrastive.run(tiny_recipe, sets, out=tmp_path / "with")
    with mock.patch.object(ViewEvaluation, "during", return_value={}):
        without = contrastive.run(tiny_recipe, sets, out=tmp_path / "without")
    timings = ("images_per_second", "views/recall_1", "views/median_rank", "views/stability")
    lines = [
        [{k: v for k, v in line.items() if k not in timings} for line in each.metrics]
        for each in (run, without)
    ]
    assert lines[0] == lines[1]
    assert all(torch.equal(value, without.weights()[key]) for key, value in run.weights().items())


def unlabelled(tiny_data: Path, root: Path) -> Path:
    """The training images in one folder, without classes."""
    root.mkdir()
    for number, file in enumerate(sorted((tiny_data / "train").rglob("*.png"))):
        (root / f"{number}.png").write_bytes(file.read_bytes())
    return root


def test_a_run_without_labels_ends_with_sentences_not_with_an_empty_box(
    tiny_data, tiny_recipe, tmp_path, capsys
):
    root = unlabelled(tiny_data, tmp_path / "photos")
    command = ["run", str(tiny_recipe), "--set", f"dataset.root={root}", "--out", str(tmp_path / "run")]
    assert main(command) == 0
    output = " ".join(capsys.readouterr().out.split())
    summary = contrastive.Run(tmp_path / "run").summary
    assert summary["trained"] == {}
    assert summary["views"]["images"] > 2
    assert "Recognises an image in another view of it" in output
    assert "this says nothing yet about classes." in output
    assert "no labels, so no metrics of classes" in output

    found = json_of(capsys, "evaluate", str(tmp_path / "run"))
    expected = {key: value for key, value in summary["views"]["trained"].items() if key != "stability"}
    assert found["views"]["trained"] == pytest.approx(expected)
    assert found["views"]["untrained"] == pytest.approx(summary["views"]["untrained"])
    assert found["verdict"]["sentences"][0] in output
    assert main(["evaluate", str(tmp_path / "run"), "--protocol", "knn"]) == 2
    assert "nothing to evaluate: this data set has no labels" in capsys.readouterr().err


def test_only_the_protocols_that_are_named_run(whole_run, capsys):
    assert json_of(capsys, "evaluate", str(whole_run), "--protocol", "knn")["views"] == {}
    whole = json_of(capsys, "evaluate", str(whole_run))
    assert whole["views"]["trained"]["recall_1"] == pytest.approx(
        contrastive.Run(whole_run).summary["views"]["trained"]["recall_1"]
    )


def test_an_encoder_from_elsewhere_is_measured_too(whole_run, tiny_data, capsys):
    sets = ("--set", f"dataset={{name: image_folder, root: {tiny_data}}}")
    found = json_of(capsys, "evaluate", str(whole_run / "backbone"), *sets)
    of_run = contrastive.Run(whole_run).summary["views"]
    assert found["views"]["images"] == of_run["images"]
    assert found["views"]["trained"]["recall_1"] == pytest.approx(of_run["trained"]["recall_1"])
    assert "untrained" in found["views"]
    assert found["verdict"]["version"] == "verdict/1"


def test_evaluation_leaves_the_encoder_as_it_was(whole_run):
    loaded = load(whole_run, load_registry())
    backbone = loaded.parts.method.backbone
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    loaded.evaluation.label_free(backbone, backbone)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert all(module.training for module in backbone.modules())
