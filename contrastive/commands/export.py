"""``contrastive export``: writes an encoder for other programs."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from contrastive.backbones import (
    declare_transform,
    declares_other_transform,
    export_onnx,
    omissions_of,
    require_free,
    require_onnx,
)
from contrastive.commands.model_card import Format, write_card
from contrastive.commands.origins import origin_of_run, origin_of_stock, without_paths
from contrastive.commands.publication import page_of, require_repository, upload
from contrastive.errors import ContrastiveError, UsageError
from contrastive.evaluation import final_encoder
from contrastive.files import writable_by_user
from contrastive.recipe import location_paths
from contrastive.registry import load_registry
from contrastive.runs import (
    Overrides,
    Run,
    StockEncoder,
    copy_classifier,
    load,
    require_own_keys,
    stock_encoder,
    to_stderr,
)


def main(arguments: argparse.Namespace) -> int:
    """Export the encoder, print its path and its page on the hub, and on standard error what was written and
    what was left out."""
    out = export(arguments.encoder, arguments.out, arguments.format, arguments.overrides, push=arguments.push)
    if names := omissions_of(out):
        to_stderr(f"left out, because only training needs it: {', '.join(names)}")
    print(f"wrote {', '.join(sorted(path.name for path in out.iterdir()))}", file=sys.stderr)
    print(out)
    if arguments.push is not None:
        print(page_of(arguments.push))
    return 0


def export(
    encoder: str | Path,
    out: str | Path,
    format: Format = "timm",  # noqa: A002
    overrides: Overrides = (),
    *,
    push: str | None = None,
) -> Path:
    """Write an encoder in a format that timm or onnxruntime loads, with a model card.

    It declares how its evaluation resizes and crops images, and the licence of its weights if that is known.
    The classifier that the run's evaluation has fitted goes with it.

    Args:
        encoder: a run folder, or any other of :func:`contrastive.runs.load_encoder`.
        out: a new or empty folder.
        format: the library that loads it.
        overrides: as for ``--set``; ``backbone.model`` of a file of weights.
        push: a repository of the Hugging Face hub, ``OWNER/NAME``, to upload the folder to; it is created,
            private, if it does not exist.

    Raises:
        UsageError: ``out`` is not free, a package is missing, the encoder cannot be read or written in this
            format, a run's ``backbone/`` contains links, or the upload fails; then the folder stays.
        ContrastiveError: onnxruntime and torch compute different features.
    """
    if push is not None:
        require_repository(push)
    out = require_free(out)
    if format == "onnx":
        require_onnx()  # before images are read
    stock = stock_encoder(encoder, overrides)
    if stock is None:
        origin = origin_of_run(Run(encoder))
        _export_run(encoder, out, format, overrides)
    else:
        require_own_keys(stock.text, overrides)
        origin = origin_of_stock(stock)
        _export_stock(stock, out, format, origin.title)
    with writable_by_user(out):
        copy_classifier(Path(encoder), out)
        write_card(out, format, origin, push)
    if push is not None:
        upload(out, push)
    return out


def _export_stock(stock: StockEncoder, out: Path, format: Format, title: str) -> None:  # noqa: A002
    """Write the network of an encoder from elsewhere."""
    network, channels = stock.network(), stock.channels
    transform = stock.transform(stock.size, channels)
    with writable_by_user(out):
        if format == "onnx":
            about = {"name": title, "backbone": without_paths(stock.backbone)}
            if network.licence:
                about["licence"] = network.licence
            export_onnx(network, out, channels, stock.size, about, transform)
        else:
            network.export(str(out))
            declare_transform(out, transform)


def _export_run(folder: str | Path, out: Path, format: Format, overrides: Overrides) -> None:  # noqa: A002
    """Write the backbone of a run."""
    if format == "onnx":
        _export_run_to_onnx(folder, out, overrides)
        return
    backbone_folder = Run(folder).folder / "backbone"
    if backbone_folder.is_dir():
        if overrides:
            raise UsageError(f"{backbone_folder} is copied as it is, so --set has no effect; remove it.")
        _require_plain(backbone_folder)
        with writable_by_user(out):
            shutil.copytree(backbone_folder, out, dirs_exist_ok=True)
            if declares_other_transform(out):
                _declare(out, folder)
        return
    run = load(folder, load_registry(), overrides)
    with writable_by_user(out):
        final_encoder(run.parts.method)[0].export(str(out))
        declare_transform(out, run.evaluation.transform)


def _export_run_to_onnx(folder: str | Path, out: Path, overrides: Overrides) -> None:
    run = load(folder, load_registry(), overrides)
    backbone = final_encoder(run.parts.method)[0]
    paths = [key.removeprefix("backbone.") for key in location_paths(run.recipe)]
    about = {"name": run.recipe.name, "backbone": without_paths(run.recipe.backbone.dump(), paths)}
    if licence := getattr(backbone, "licence", None):
        about["licence"] = licence
    channels, size = run.data.train.channels, run.parts.image_size
    with writable_by_user(out):
        export_onnx(backbone, out, channels, size, about, run.evaluation.transform)


def _declare(out: Path, folder: str | Path) -> None:
    """Replace the transform that an earlier version declared by that of the run's evaluation."""
    try:
        transform = Run(folder).transform or load(folder, load_registry()).evaluation.transform
    except ContrastiveError as error:
        to_stderr(
            "an earlier version began this run, and its data, which decide how evaluation crops images, "
            f"cannot be opened ({error}); timm's transform for {out} is not the one of its evaluation."
        )
        return
    declare_transform(out, transform)


def _require_plain(folder: Path) -> None:
    """Raise UsageError if a link is in ``folder``: its target would be copied and passed on."""
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise UsageError(f"{path} is not a regular file and is not exported; replace it by one.")
