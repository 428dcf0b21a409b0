"""Export of any backbone to ONNX, checked against torch before it is written."""

from __future__ import annotations

import copy
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contrastive.backbones.declaration import KEY
from contrastive.errors import ContrastiveError, UsageError, one_line
from contrastive.parts import Backbone, EvaluationTransform, ImageTransform
from contrastive.text import quantity

#: Largest difference from torch in any feature, in units of the largest feature if that is above 1.
TOLERANCE = 1e-4
_TRACE_BATCH, _CHECK_BATCHES = 2, (1, 5)  # batch sizes


def export_onnx(
    backbone: Backbone,
    folder: str | Path,
    channels: int,
    size: int,
    about: Mapping[str, Any] | None = None,
    transform: ImageTransform | None = None,
) -> Path:
    """Write ``model.onnx`` and ``config.json`` into ``folder``, both or neither; ``backbone`` stays as it is.

    The model takes ``pixels``, float32 [b, C, size, size] in [0, 1], any b, and returns ``features``, float32
    [b, F]: those of ``backbone`` in eval mode, including its own normalisation of inputs. If onnxruntime is
    installed, this is verified for batches of 1 and 5 random images.

    Args:
        backbone: only its ``forward`` is used.
        folder: a new or empty folder.
        channels: C.
        size: height and width of the images.
        about: what config.json holds besides the shapes (JSON values), for example the model's name.
        transform: how images are resized and cropped for it, declared in config.json and in the model's
            metadata; by default whole images are resized to ``size``.

    Raises:
        UsageError: ``folder`` is not empty, a package is missing, or torch cannot translate the backbone.
        ContrastiveError: the features of onnxruntime differ from those of torch.
    """
    require_onnx()
    folder = require_free(folder).resolve()
    net = copy.deepcopy(backbone).cpu().to(memory_format=torch.contiguous_format)
    net = net.eval().requires_grad_(False)
    record = (transform or EvaluationTransform(size)).record()
    partial = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        opset = _translate(net, partial / "model.onnx", channels, size, record)
        config = {
            **(about or {}),
            "input": {"name": "pixels", "shape": ["batch", channels, size, size], "dtype": "float32"},
            "range": [0, 1],
            KEY: record,
            "output": {"name": "features", "shape": ["batch", backbone.features], "dtype": "float32"},
            "opset": opset,
        }
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if find_spec("onnxruntime"):
            _verify(net, partial / "model.onnx", channels, size)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def require_onnx() -> None:
    """Raise UsageError if a package that writes ONNX is missing."""
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"ONNX export needs {' and '.join(missing)}: pip install 'contrastive-framework[onnx]'."
        )


def require_free(folder: str | Path) -> Path:
    """``folder``, if it is new or empty; otherwise raises UsageError."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not an empty folder; choose another one with --out.")
    return folder


def _translate(net: Backbone, file: Path, channels: int, size: int, record: Mapping[str, Any]) -> int:
    """Write ``net`` with a dynamic batch size, and ``record`` as metadata; return the version of ONNX's
    operators."""
    example = torch.zeros(_TRACE_BATCH, channels, size, size)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                net,
                (example,),
                input_names=["pixels"],
                output_names=["features"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # torch's tracer runs third-party code
        name = type(net).__name__
        raise UsageError(f"torch cannot translate the backbone {name} to ONNX: {one_line(error)}") from error
    assert program is not None  # None only if torch writes the file itself
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces, with the paths of this machine
    program.model.metadata_props[KEY] = json.dumps(record)
    program.save(file)  # beyond 2 GiB, weights go into a file next to it
    return int(program.model.opset_imports[""])


def _verify(net: Backbone, file: Path, channels: int, size: int) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    for batch in _CHECK_BATCHES:
        pixels = torch.rand(batch, channels, size, size, generator=generator)
        with torch.no_grad():
            expected: Tensor = net(pixels).float()
        features = torch.from_numpy(session.run(["features"], {"pixels": pixels.numpy()})[0])
        if features.shape != expected.shape:
            raise ContrastiveError(
                f"onnxruntime returns {tuple(features.shape)} for {quantity(batch, 'image')} but torch "
                f"returns {tuple(expected.shape)}; nothing was written."
            )
        difference = float((features - expected).abs().max() / expected.abs().max().clamp(min=1))
        if not difference <= TOLERANCE:
            raise ContrastiveError(
                f"onnxruntime's features differ from torch's by {difference:.2g} for "
                f"{quantity(batch, 'image')}, more than {TOLERANCE:g}; nothing was written."
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the messages of torch's exporter to its own developers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
