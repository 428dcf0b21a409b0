"""What the commands beside ``run`` do: look at views, evaluate, embed and export the encoder of a run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from contrastive.backbones.onnx import export_onnx, require_free, require_onnx
from contrastive.backbones.weights import mismatch
from contrastive.build.builder import Builder, Composition, Data, Opened, build, untrained_of
from contrastive.commands.preview import grid
from contrastive.errors import DataError, RecipeError, UnreadableImage, UsageError, did_you_mean
from contrastive.evaluation.evaluation import Evaluation, frozen
from contrastive.files import named
from contrastive.parts import ImageTable
from contrastive.protocols.knn import nearest
from contrastive.recipe import Recipe, load_recipe
from contrastive.registry import load_registry
from contrastive.runs.folder import Run
from contrastive.runs.job import evaluation_of
from contrastive.runs.resume import changed, flatten

Overrides = Sequence[str] | Mapping[str, Any]
PREVIEW_IMAGES = 6


@dataclass(frozen=True)
class Loaded:
    """A trained run, rebuilt: its recipe (perhaps with another data set), parts and evaluation."""

    recipe: Recipe
    data: Data
    parts: Composition
    evaluation: Evaluation


def load(folder: str | Path, overrides: Overrides = (), opened: Opened | None = None) -> Loaded:
    """Rebuild a run with the weights of its newest checkpoint; its data set may be among those ``opened``.

    Raises:
        UsageError: not a run folder, no checkpoint yet, or a data set whose images the encoder cannot take.
    """
    run = Run(folder)
    recipe = run.recipe(overrides)
    if overrides:
        _require_effect(run.recipe(), recipe)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data, parts = build(recipe, training=False, opened=opened)
    weights = run.weights()
    if reason := mismatch(parts.method, weights):
        raise UsageError(f"{folder}: its checkpoint does not fit these images or overrides: it {reason}.")
    parts.method.load_state_dict(weights)
    parts.method.to(device).to(memory_format=torch.channels_last)
    return Loaded(recipe, data, parts, evaluation_of(recipe, data, parts, device))


#: What has done its work once a run is trained; of ``train`` all but what reading images, and drawing the
#: untrained encoder, ask.
_DONE = ("optimizer", "callbacks", "loss", "negatives", "positives", "train.")
_READING = ("train.seed", "train.workers", "train.memory_limit", "train.cache")


def _require_effect(trained: Recipe, asked: Recipe) -> None:
    """Refuse overrides that would change nothing. Raises UsageError, naming them."""
    keys = changed(flatten(trained.dump()), flatten(asked.dump()))
    idle = [key for key in keys if key.startswith(_DONE) and key not in _READING]
    if idle:
        raise UsageError(
            f"--set {', '.join(idle)}: the run is trained, and this would change nothing; leave it out, or "
            "train another run."
        )


def evaluate(folder: str | Path, protocols: Sequence[str] = (), overrides: Overrides = ()) -> dict[str, Any]:
    """Figures of a run's encoder on its own data set, or (transfer) on another one named by ``overrides``:
    frozen as training left it, what protocols fit or tune learns from the train split of that data set.

    Args:
        folder: of the run.
        protocols: keys of its ``evaluate``, or names of protocols, which then run with their defaults or
            what ``overrides`` say; by default all of ``evaluate``.
        overrides: what ``--set`` takes.

    Returns:
        ``{"trained": {"knn_top1": ..}, "untrained": .., "pixels": .., "split": .., "protocols": ..}``.

    Raises:
        UsageError: an unknown protocol, a data set without labels, or what :func:`load` raises.
    """
    loaded = load(folder, _with(protocols, Run(folder).recipe(overrides), overrides))
    evaluation = loaded.evaluation
    known = [entry.name for entry in evaluation.protocols]
    for name in protocols:
        if name not in known:
            installed = load_registry().names("protocol")
            raise UsageError(
                f"'{name}' is neither what the run's recipe evaluates by ({', '.join(known) or 'nothing'}) "
                f"nor a protocol ({', '.join(installed)}); for a key of your own say "
                f"--set evaluate.{name}.protocol=NAME.{did_you_mean(name, {*known, *installed})}"
            )
    if protocols:
        evaluation.protocols = [entry for entry in evaluation.protocols if entry.name in protocols]
    if not evaluation.protocols:
        raise UsageError("no protocol is left to evaluate by; name one with --protocol.")
    if not evaluation.labelled:
        raise UsageError(
            "this data set has no labels (or too few: both nine tenths of train and the held-out tenth need "
            "some), so there is nothing to evaluate; try `contrastive embed`."
        )
    method, start = (
        loaded.parts.method,
        untrained_of(loaded.recipe, loaded.data, loaded.parts, evaluation.device),
    )
    trained, untrained = evaluation.final(method.backbone, method.head), evaluation.final(*start)
    return {
        "run": str(folder),
        "dataset": loaded.recipe.dataset.name,
        "trained_on": Run(folder).recipe().dataset.name,
        "data": loaded.data.fingerprint,
        "trained": trained,
        "untrained": untrained,
        "pixels": evaluation.pixels(),
        "split": evaluation.split,
        "protocols": evaluation.describe(),
        "subsets": evaluation.used(),
        "unreadable": sorted(evaluation.unreadable),
    }


def _with(protocols: Sequence[str], recipe: Recipe, overrides: Overrides) -> Overrides:
    """``overrides`` that also name those installed ``protocols`` which the recipe does not name."""
    known = {*load_registry().names("protocol")} - recipe.evaluate.protocols.keys()
    added: dict[str, Any] = {f"evaluate.{name}": {} for name in protocols if name in known}
    if isinstance(overrides, Mapping):
        return {**overrides, **added}
    return [*overrides, *(f"{key}={{}}" for key in added)]


def embed(
    folder: str | Path,
    out: str | Path,
    *,
    output: Literal["h", "z"] = "h",
    neighbours: int = 0,
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Write the features of every readable image of every split to a parquet file.

    Columns: ``split``, ``id``, ``name``, ``label`` (null where unknown), ``features`` (float32 list of
    width F or D) and, with ``neighbours`` = k, ``neighbours`` (names of the k images of the split that
    are nearest in cosine similarity, nearest first) and ``similarities``.

    Raises:
        UsageError: not a run folder; ``out`` cannot be written.
        DataError: not one image can be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = Path(out)
    if not out.parent.is_dir():
        raise UsageError(f"{out.parent} does not exist; make the folder first.")
    if out.is_dir():
        raise UsageError(f"{out} is a folder; name a file with --out.")
    if neighbours < 0:
        raise UsageError(f"--neighbours is {neighbours}; say how many, 0 for none.")
    loaded = load(folder, overrides)
    method = loaded.parts.method
    encode = method.backbone if output == "h" else method.embed
    tables = []
    for split, images in (("train", loaded.data.train), ("test", loaded.data.test)):
        if images is None:
            continue
        with frozen(method):
            features = loaded.evaluation.reader.features(encode, images)
        if len(features):
            tables.append(_table(split, images, features.ids, features.labels, features.h, neighbours))
    if not tables:
        raise DataError(f"no image can be read: {'; '.join(sorted(loaded.evaluation.unreadable)[:5])}.")
    table = pa.concat_tables(tables)
    partial = out.with_name(f".{out.name}.tmp")
    with named(out):
        pq.write_table(table, partial)
        partial.replace(out)
    width = int(table.schema.field("features").type.list_size)
    unreadable = sorted(loaded.evaluation.unreadable)
    return {"out": str(out), "rows": len(table), "width": width, "unreadable": unreadable}


def _table(
    split: str, images: ImageTable, ids: Tensor, labels: Tensor, features: Tensor, neighbours: int
) -> Any:
    import pyarrow as pa

    row_of = {int(i): row for row, i in enumerate(images.ids)}
    names = np.array([images.name(row_of[int(i)]) for i in ids.tolist()], dtype=object)
    flat = pa.array(features.cpu().numpy().ravel())
    columns = {
        "split": pa.array([split] * len(names), pa.string()),
        "id": pa.array(ids.tolist(), pa.int64()),
        "name": pa.array(names, pa.string()),
        "label": pa.array([None if label < 0 else label for label in labels.tolist()], pa.int64()),
        "features": pa.FixedSizeListArray.from_arrays(flat, features.shape[1]),
    }
    if neighbours:
        similarity, column = nearest_others(features, neighbours)
        columns["neighbours"] = pa.array(
            [list(names[row]) for row in column.cpu().numpy()], pa.list_(pa.string())
        )
        columns["similarities"] = pa.array(similarity.cpu().tolist(), pa.list_(pa.float32()))
    return pa.table(columns)


def nearest_others(features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest other rows of each row: cosine similarity and row number, [n, k], nearest first."""
    unit = F.normalize(features, dim=1)  # [n, F]
    k = min(k, len(unit) - 1)
    rows = torch.arange(len(unit), device=unit.device)
    parts = []
    for chunk in rows.split(max(1, 2**24 // max(1, len(unit)))):
        similarity = unit[chunk] @ unit.T  # [c, n]
        similarity[torch.arange(len(chunk), device=unit.device), chunk] = -torch.inf  # never itself
        parts.append(nearest(similarity, k))
    return torch.cat([s for s, _ in parts]), torch.cat([c for _, c in parts])


def export(folder: str | Path, out: str | Path, format: Literal["timm", "onnx"] = "timm") -> Path:  # noqa: A002
    """Write the run's backbone so that timm, or onnxruntime, loads it.

    Raises:
        UsageError: ``out`` is not free, a package is missing, the backbone cannot be written so, or the
            run's ``backbone/`` leads out of itself.
        ContrastiveError: onnxruntime gives other features than torch.
    """
    out = require_free(out)
    if format == "onnx":
        require_onnx()  # before images are read
        loaded = load(folder)
        about = {"name": loaded.recipe.name, "backbone": loaded.recipe.backbone.dump()}
        channels, size = loaded.data.train.channels, loaded.parts.image_size
        with named(out):
            export_onnx(loaded.parts.method.backbone, out, channels, size, about)
        return out
    written = Run(folder).folder / "backbone"
    if written.is_dir():
        _require_plain(written)
        with named(out):
            shutil.copytree(written, out, dirs_exist_ok=True)
        return out
    backbone = load(folder).parts.method.backbone
    with named(out):
        backbone.export(str(out))
    return out


def _require_plain(folder: Path) -> None:
    """See that all below ``folder`` is its own: what a link leads to would be copied, and passed on."""
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise UsageError(f"{path} is a link or no file, which is not exported; put a file in its place.")


def preview(recipe: str | Path, overrides: Overrides, out: str | Path) -> Path:
    """Draw a few images of the data set and their views as a PNG.

    Raises:
        RecipeError: the recipe is wrong.
        UsageError: the picture cannot be written.
    """
    resolved = load_recipe(recipe, overrides, load_registry())
    builder = Builder(resolved)
    data = builder.data()
    pipelines = builder.pipelines()
    builder.view_sizes(pipelines, data)
    if builder.mistakes or data is None:
        raise RecipeError(builder.mistakes)
    images, ids = _first_readable(data.train, PREVIEW_IMAGES)
    if not images:
        raise DataError(f"none of the {len(data.train)} training images can be read.")
    picture = grid(images, ids, pipelines, resolved.train.seed)
    out = Path(out)
    with named(out):
        picture.save(out, format="PNG")
    return out


def _first_readable(table: ImageTable, count: int) -> tuple[list[Tensor], np.ndarray]:
    images, ids = [], []
    for index in range(len(table)):
        try:
            images.append(table.decode(index))
        except UnreadableImage:
            continue
        ids.append(int(table.ids[index]))
        if len(images) == count:
            break
    return images, np.array(ids, dtype=np.int64)
