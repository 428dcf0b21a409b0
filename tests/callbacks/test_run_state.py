"""What a callback may read of a run: in a run, and in the kit's stand-in for one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from contrastive.build import build
from contrastive.parts import Callback, RunState
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry
from contrastive.runs import Display
from contrastive.runs.job import Job
from contrastive.testing import check_part
from contrastive.testing.recorded_run import RecordedRun
from contrastive.training.live_run import LiveRun

PAGE = Path(__file__).parents[2] / "docs" / "plugins" / "callback.md"
MEMBERS = {name for name in {*RunState.__annotations__, *vars(RunState)} if not name.startswith("_")}


class EmbeddingLogger(Callback):
    """Logs the spread of the embeddings of a few images after every epoch, as an author would write it."""

    def run_started(self, run):
        self.images = run.evaluation_images(12)

    def epoch_done(self, run, epoch):
        h = run.features(self.images.pixels)
        z = run.features(self.images.pixels, "z")
        assert h.shape == (len(self.images.ids), run.method.backbone.features)
        assert z.shape == (len(self.images.ids), run.method.head.out_features)
        assert not h.requires_grad
        assert not z.requires_grad
        run.log({"h_spread": float(h.std(0).mean()), "z_spread": float(z.std(0).mean())})


class Reader(EmbeddingLogger):
    """Keeps what every member of the run is at the end of an epoch."""

    def epoch_done(self, run, epoch):
        super().epoch_done(run, epoch)
        self.run, self.modes = run, {module.training for module in run.method.modules()}
        self.members = {name: getattr(run, name) for name in MEMBERS}


def trained(recipe, folder, callback=None):
    """The run's folder, and the weights at the end."""
    sets = ["train.epochs=2", "train.batch_size=40", "evaluate.linear=null"]
    recipe = load_recipe(recipe, sets, load_registry())
    data, parts = build(recipe)
    if callback is not None:
        parts.callbacks.append(callback)
    run = Job(recipe, data, parts, load_registry(), Display.silent()).execute(folder, "auto")
    return run, data, {name: value.clone() for name, value in parts.method.state_dict().items()}


@pytest.fixture(scope="module")
def observed(tiny_recipe, tmp_path_factory):
    """A run with a Reader: (run, data, weights, the Reader)."""
    reader = Reader()
    return (*trained(tiny_recipe, tmp_path_factory.mktemp("observed") / "run", reader), reader)


def test_a_run_offers_every_member_and_so_does_its_stand_in(observed, tmp_path):
    *_, reader = observed
    assert isinstance(reader.run, LiveRun)
    assert reader.members.keys() == MEMBERS
    for name in MEMBERS:
        assert hasattr(RecordedRun(tmp_path), name), name


def test_data_device_rank_and_sizes_are_those_of_the_run(observed, tiny_data):
    _, data, _, reader = observed
    about = reader.run.data
    assert (about.images, about.batch_size, about.channels, about.image_size) == (120, 40, 3, 16)
    assert about.classes == ("checks", "disc", "stripes")
    assert about.fingerprint == data.fingerprint
    assert (reader.run.rank, reader.run.processes, reader.run.device) == (0, 1, torch.device("cpu"))
    assert reader.run.protocols.keys() == {"knn"}


def test_the_parts_of_the_method_have_names(observed):
    method = observed[-1].run.method
    assert (method.backbone.kind, method.head.kind, method.target.kind) == ("backbone", "head", "target")
    assert [part.kind for part in method.losses] == ["loss"]
    assert [part.kind for part in method.negatives] == ["negatives"]
    assert method.predictor is None


def test_the_evaluation_images_are_fixed_and_validate(observed):
    *_, data, _, reader = observed
    run = reader.run
    few, more = run.evaluation_images(5), run.evaluation_images(1000)
    validating = data.train.ids[data.division.validation_rows]
    assert sorted(more.ids.tolist()) == sorted(validating.tolist())
    assert set(few.ids.tolist()) <= set(more.ids.tolist())
    assert few.pixels.shape == (5, 3, 16, 16)
    assert few.pixels.dtype == torch.float32
    assert 0 <= few.pixels.min() <= few.pixels.max() <= 1
    labels = dict(zip(data.train.ids.tolist(), data.train.labels.tolist(), strict=True))
    assert few.labels.tolist() == [labels[i] for i in few.ids.tolist()]
    again = run.evaluation_images(5)
    assert torch.equal(few.pixels, again.pixels)


def test_an_embedding_logger_changes_nothing_in_the_run(observed, tiny_recipe, tmp_path):
    run, _, weights, reader = observed
    assert reader.modes == {True}  # training mode is back
    assert sum("h_spread" in line for line in run.metrics) == 2
    _, _, plain = trained(tiny_recipe, tmp_path / "plain")
    assert weights.keys() == plain.keys()
    assert all(torch.equal(weights[name], plain[name]) for name in plain)


def test_images_that_validate_are_there_without_labels_too(tiny_data, tiny_recipe, tmp_path):
    from contrastive.data import Division
    from contrastive.evaluation import Evaluation

    recipe = load_recipe(tiny_recipe, (), load_registry())
    data, parts = build(recipe)
    data.train.labels = None
    evaluation = Evaluation(data.train, None, [], parts.pipelines, 16, torch.device("cpu"), workers=0)
    sample = evaluation.sample(7)
    assert sample.labels.tolist() == [-1] * 7
    assert set(sample.ids.tolist()) <= set(data.train.ids[Division(data.train).monitor_rows].tolist())


def test_the_kit_passes_an_embedding_logger_and_gives_features_of_the_declared_width():
    results = {result.check: result for result in check_part(EmbeddingLogger)}
    assert not {name: result.reason for name, result in results.items() if result.status == "failed"}


class Writer(Callback):
    """Writes a file into the run's folder, as an embedding logger does."""

    def epoch_done(self, run, epoch):
        (run.folder / f"{epoch}.txt").write_text("")


def test_the_kit_leaves_no_files_where_it_runs(elsewhere, tmp_path):
    assert not [result.reason for result in check_part(Writer) if result.status == "failed"]
    assert not list(tmp_path.iterdir())


def test_the_page_documents_every_member():
    text = PAGE.read_text(encoding="utf-8")
    table = text[text.index("| member of `run`") :].partition("\n\n")[0]
    documented = set(re.findall(r"`(\w+)", "".join(line.split("|")[1] for line in table.splitlines())))
    assert documented == MEMBERS | {"run"}
