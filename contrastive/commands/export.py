"""``contrastive export``: the backbone of a run for other programs."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Literal

from contrastive.backbones.onnx import export_onnx, require_free, require_onnx
from contrastive.errors import UsageError
from contrastive.files import writable_by_user
from contrastive.registry import load_registry
from contrastive.runs.folder import Run
from contrastive.runs.reload import load


def main(arguments: argparse.Namespace) -> int:
    """Export the backbone and print where it is."""
    print(export(arguments.run, arguments.out, arguments.format))
    return 0


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
        run = load(folder, load_registry())
        about = {"name": run.recipe.name, "backbone": run.recipe.backbone.dump()}
        channels, size = run.data.train.channels, run.parts.image_size
        with writable_by_user(out):
            export_onnx(run.parts.method.backbone, out, channels, size, about)
        return out
    backbone_folder = Run(folder).folder / "backbone"
    if backbone_folder.is_dir():
        _require_plain(backbone_folder)
        with writable_by_user(out):
            shutil.copytree(backbone_folder, out, dirs_exist_ok=True)
        return out
    backbone = load(folder, load_registry()).parts.method.backbone
    with writable_by_user(out):
        backbone.export(str(out))
    return out


def _require_plain(folder: Path) -> None:
    """See that all below ``folder`` is its own: what a link leads to would be copied, and passed on."""
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise UsageError(f"{path} is a link or no file, which is not exported; put a file in its place.")
