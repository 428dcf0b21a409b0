"""Remedies of messages of curation: duplicates, labels, select, search, predict."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from contrastive.cli import main
from contrastive.commands.duplicates import duplicates
from contrastive.commands.labels import labels
from contrastive.commands.predict import predict
from contrastive.commands.search import search
from contrastive.commands.selection import select
from contrastive.curation.contents import DigestedContents
from contrastive.curation.encoding import EncodedSplit
from contrastive.curation.pictures import SplitPictures
from contrastive.curation.prediction import _require_fit, fit_classifier
from contrastive.data import Cache
from contrastive.runs import read_classifier
from contrastive.runs.classifiers import FILE
from tests.support.curation import Pixels, scene, vectors_table
from tests.support.remedies import Remedy

FEATURES = "features.parquet"


@pytest.fixture(autouse=True)
def _run_and_features(folder: Path, tiny_run: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache-home"))
    shutil.copytree(tiny_run, "run")
    shutil.copytree(tiny_data, "photos")
    Path("taken").write_text("a file")
    rows = [(split, f"{split}/disc/{n}.png") for split in ("train", "test") for n in range(5)]
    pq.write_table(
        pa.table({"id": [name for _, name in rows], "features": [[float(n), 1.0] for n in range(10)]}),
        FEATURES,
    )
    pq.write_table(pa.table({"id": [1, 2, 3], "features": [[1.0], [2.0], [4.0]]}), "other.parquet")


def cached(contents: Callable[[], DigestedContents], folder: str) -> str:
    warnings: list[str] = []
    Cache(Path(folder), "tiny", {}, lambda _: None, warnings.append).fetch(contents())
    return "; ".join(warnings)


def encoded() -> EncodedSplit:
    """Features of two images that are made already."""
    contents = EncodedSplit(Pixels([scene(0), scene(1)]), None, None, {})  # type: ignore[arg-type]

    class Ready(EncodedSplit):
        record = property(lambda self: torch.zeros(0, 3).numpy().dtype)

        def origin(self):
            return {}

        def records(self):
            yield torch.zeros(2).numpy()

        def unreadable(self):
            return {}

    contents.__class__ = Ready
    return contents


def printed(arguments: list[str]) -> str:
    """What duplicates prints, if its pairs are not verified."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["duplicates", *arguments]) == 0
    return "".join(line for line in out.getvalue().splitlines() if "without images" in line)


DATASET = {"dataset": {"name": "image_folder", "root": "photos"}}


def chosen(lines: list[str]) -> None:
    Path("chosen.txt").write_text("\n".join(lines))
    select(FEATURES, 2, include="chosen.txt")


def ranked(values: list[int]) -> None:
    pq.write_table(
        pa.table(
            {"id": [*range(len(values))], "features": [[float(v), 1.0] for v in values], "label": values}
        ),
        "labels.parquet",
    )
    labels("labels.parquet")


def selected(options: dict[str, object]) -> None:
    select(FEATURES, 2, **{"html": "p.html", **options})


def fitted(values: list[int]) -> None:
    fit_classifier(vectors_table(torch.randn(len(values), 3), values), "photos")


def fits(width: int) -> None:
    class Backbone:
        features = width

    class Encoder:
        backbone = Backbone()

    probe = read_classifier(Path("run"))
    assert probe is not None
    _require_fit(Encoder(), probe, "run")  # type: ignore[arg-type]


def damaged() -> Path:
    Path("run", FILE).write_bytes(b"damaged")
    return Path("run")


def evaluated_again(_: str) -> Path:
    Path("run", FILE).unlink()
    assert main(["evaluate", "run", "--json"]) == 0
    return Path("run")


def searched(arguments: tuple[str, str | None]) -> None:
    source, encoder = arguments
    search(source, ["photos/test/disc/0.png"], encoder=encoder)


def embedded(_: str) -> tuple[str, str]:
    assert main(["embed", "run", "--out", "own.parquet"]) == 0
    return "own.parquet", "run"


def with_settings(overrides: dict[str, object]) -> None:
    duplicates(FEATURES, overrides=overrides)


def of_other_images(overrides: dict[str, object]) -> None:
    duplicates("other.parquet", overrides=overrides)


def predicted(overrides: dict[str, object]) -> None:
    predict("run/backbone", ["photos/test/disc/0.png"], overrides=overrides)


def remedies() -> Iterator[Remedy]:
    yield Remedy(
        "curation/encoding.py", "no cache of features", partial(cached, encoded), "taken/cache", "cache"
    )
    pictures = partial(SplitPictures, Pixels([scene(0)]))
    yield Remedy(
        "curation/pictures.py",
        "no cache of small pictures",
        partial(cached, pictures),
        "taken/cache",
        "cache",
    )
    dataset = ["--set", "dataset={name: image_folder, root: photos}"]
    yield Remedy(
        "commands/duplicates.py", "without images only features", printed, [FEATURES], [FEATURES, *dataset]
    )
    file = "commands/search.py"
    yield Remedy(file, "name the one that embedded it", searched, (FEATURES, None), embedded)
    yield Remedy(file, "is for a file of features", searched, ("run", "run"), ("run", None))
    yield Remedy(
        "curation/search.py", "name the encoder that the table was", searched, (FEATURES, "run"), embedded
    )
    yield Remedy("curation/feature_files.py", "or drop --set dataset", of_other_images, DATASET, {})
    yield Remedy("curation/labels.py", "name data with labels", ranked, [1, 1, 1, 1], [0, 1, 0, 1, 0, 1])
    file = "curation/selection.py"
    yield Remedy(
        file,
        "set --n to a number from",
        partial(select, FEATURES),
        11,
        lambda message: int(re.search(r"from 1 to (\d+)", message)[1]),
    )
    yield Remedy(file, "remove the line", chosen, ["train/disc/0.png", "absent"], ["train/disc/0.png"])
    file = "curation/sources.py"
    yield Remedy(file, "holds features, so this has no effect", with_settings, {"optimizer.lr": 1.0}, {})
    yield Remedy(
        file, "is read without images", with_settings, {"train.workers": 0}, {**DATASET, "train.workers": 0}
    )
    file = "commands/image_outputs.py"
    yield Remedy(file, "set the data set that the features are of", selected, {}, {"overrides": DATASET})
    own = {"overrides": DATASET}
    yield Remedy(file, "name two files", selected, {**own, "out": "p.html"}, {**own, "out": "t.parquet"})
    file = "curation/prediction.py"
    yield Remedy(file, "set a data set with labels to fit", predicted, {}, DATASET)
    yield Remedy(file, "train has no labels of two", fitted, [1] * 6, [0, 1] * 3)
    yield Remedy(file, "evaluate the run again", fits, 63, 64)
    yield Remedy(
        "runs/classifiers.py",
        "is damaged: it does not hold",
        lambda run: read_classifier(run) and None,
        damaged,
        evaluated_again,
    )


REMEDIES = [*remedies()]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
