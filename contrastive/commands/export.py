"""``contrastive export``: writes an encoder for other programs."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Literal

from contrastive.backbones import (
    declare_transform,
    declares_other_transform,
    export_onnx,
    omissions_of,
    require_free,
    require_onnx,
)
from contrastive.errors import ContrastiveError, UsageError
from contrastive.evaluation import final_encoder
from contrastive.files import writable_by_user
from contrastive.registry import load_registry
from contrastive.runs import (
    Overrides,
    Run,
    copy_classifier,
    load,
    require_own_keys,
    stock_encoder,
    to_stderr,
)


def main(arguments: argparse.Namespace) -> int:
    """Export the encoder and print its path, and on standard error what was left out and its licence."""
    out = export(arguments.encoder, arguments.out, arguments.format, arguments.overrides)
    if names := omissions_of(out):
        to_stderr(f"left out, because only training needs it: {', '.join(names)}")
    print(out)
    return 0


def export(
    encoder: str | Path,
    out: str | Path,
    format: Literal["timm", "onnx"] = "timm",  # noqa: A002
    overrides: Overrides = (),
) -> Path:
    """Write an encoder in a format that timm or onnxruntime loads.

    It declares how its evaluation resizes and crops images, and the licence of its weights if that is known.
    The classifier that the run's evaluation has fitted goes with it.

    Args:
        encoder: a run folder, or any other of :func:`contrastive.runs.load_encoder`.
        out: a new or empty folder.
        format: the library that loads it.
        overrides: as for ``--set``; ``backbone.model`` of a file of weights.

    Raises:
        UsageError: ``out`` is not free, a package is missing, the encoder cannot be read or written in this
            format, or a run's ``backbone/`` contains links.
        ContrastiveError: onnxruntime and torch compute different features.
    """
    out = require_free(out)
    if format == "onnx":
        require_onnx()  # before images are read
    stock = stock_encoder(encoder, overrides)
    if stock is None:
        return _export_run(encoder, out, format, overrides)
    require_own_keys(stock.text, overrides)
    network, transform = stock.network(), stock.transform(stock.size, 3)
    with writable_by_user(out):
        if format == "onnx":
            about = {"name": stock.text, "backbone": dict(stock.backbone)}
            if network.licence:
                about["licence"] = network.licence
            export_onnx(network, out, 3, stock.size, about, transform)
        else:
            network.export(str(out))
            declare_transform(out, transform)
        copy_classifier(Path(encoder), out)
    return out


def _export_run(folder: str | Path, out: Path, format: str, overrides: Overrides) -> Path:  # noqa: A002
    """Write the backbone of a run."""
    if format == "onnx":
        run = load(folder, load_registry(), overrides)
        about = {"name": run.recipe.name, "backbone": run.recipe.backbone.dump()}
        channels, size = run.data.train.channels, run.parts.image_size
        with writable_by_user(out):
            export_onnx(
                final_encoder(run.parts.method)[0], out, channels, size, about, run.evaluation.transform
            )
            copy_classifier(Path(folder), out)
        return out
    backbone_folder = Run(folder).folder / "backbone"
    if backbone_folder.is_dir():
        if overrides:
            raise UsageError(f"{backbone_folder} is copied as it is, so --set has no effect; remove it.")
        _require_plain(backbone_folder)
        with writable_by_user(out):
            shutil.copytree(backbone_folder, out, dirs_exist_ok=True)
            if declares_other_transform(out):
                _declare(out, folder)
            copy_classifier(Path(folder), out)
        return out
    run = load(folder, load_registry(), overrides)
    with writable_by_user(out):
        final_encoder(run.parts.method)[0].export(str(out))
        declare_transform(out, run.evaluation.transform)
        copy_classifier(Path(folder), out)
    return out


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
