"""``contrastive export``: writes the backbone of a run for other programs."""

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
from contrastive.runs import Run, load, to_stderr


def main(arguments: argparse.Namespace) -> int:
    """Export the backbone and print its path, and on standard error what was left out."""
    out = export(arguments.run, arguments.out, arguments.format)
    if names := omissions_of(out):
        to_stderr(f"left out, because only training needs it: {', '.join(names)}")
    print(out)
    return 0


def export(folder: str | Path, out: str | Path, format: Literal["timm", "onnx"] = "timm") -> Path:  # noqa: A002
    """Write the run's backbone in a format that timm or onnxruntime loads.

    It declares how the run's evaluation resizes and crops images.

    Raises:
        UsageError: ``out`` is not free, a package is missing, the backbone cannot be written in this format,
            or the run's ``backbone/`` contains links.
        ContrastiveError: onnxruntime and torch compute different features.
    """
    out = require_free(out)
    if format == "onnx":
        require_onnx()  # before images are read
        run = load(folder, load_registry())
        about = {"name": run.recipe.name, "backbone": run.recipe.backbone.dump()}
        channels, size = run.data.train.channels, run.parts.image_size
        with writable_by_user(out):
            export_onnx(
                final_encoder(run.parts.method)[0], out, channels, size, about, run.evaluation.transform
            )
        return out
    backbone_folder = Run(folder).folder / "backbone"
    if backbone_folder.is_dir():
        _require_plain(backbone_folder)
        with writable_by_user(out):
            shutil.copytree(backbone_folder, out, dirs_exist_ok=True)
            if declares_other_transform(out):
                _declare(out, folder)
        return out
    run = load(folder, load_registry())
    with writable_by_user(out):
        final_encoder(run.parts.method)[0].export(str(out))
        declare_transform(out, run.evaluation.transform)
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
