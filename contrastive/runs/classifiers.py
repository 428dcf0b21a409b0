"""The classifier that a run's evaluation fitted, with class names, in its folder and in exports."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from contrastive.build import Data
from contrastive.errors import UsageError
from contrastive.files import json_map, sync, writable
from contrastive.parts import Classifier
from contrastive.protocols import LinearClassifier
from contrastive.text import class_name

FILE = "classifier.safetensors"
#: Key of the file's metadata that holds everything else as one JSON map.
_KEY = "contrastive"


@dataclass(frozen=True)
class StoredClassifier:
    """A classifier with the names of its classes.

    Attributes:
        classifier: features h -> probabilities.
        classes: [K], the name of each column, or ``class 3``.
    """

    classifier: LinearClassifier
    classes: list[str]


def write_classifier(
    folder: Path,
    classifiers: Mapping[str, Classifier],
    protocols: Mapping[str, Any],
    backbone: nn.Module,
    data: Data,
) -> None:
    """Write the first of some classifiers of h into ``classifier.safetensors`` of a run folder.

    Without any, an earlier file is removed. A file that holds the classifier of the same encoder, data and
    protocol stays as it is.

    Args:
        folder: of the run.
        classifiers: key of a protocol -> its classifier.
        protocols: key of a protocol -> what a metric of it carries.
        backbone: whose features they classify.
        data: whose labels they were fitted on.

    Raises ContrastiveError if it cannot be written.
    """
    file = folder / FILE
    if not classifiers:
        file.unlink(missing_ok=True)
        return
    key, classifier = next(iter(classifiers.items()))
    about = {
        "protocol": protocols[key],
        "data": data.fingerprint,
        "weights": weights_digest(backbone),
        "classes": [class_name(data.dataset.classes, label) for label in classifier.labels.tolist()],
    }
    if _about(file) == json.loads(json.dumps(about)):
        return
    content = save(classifier.tensors(), {_KEY: json.dumps(about, sort_keys=True)})
    temporary = file.with_name(f".{file.name}.tmp")
    with writable(file):
        temporary.write_bytes(content)
        sync(temporary)
        os.replace(temporary, file)
        sync(folder)


def copy_classifier(source: Path, folder: Path) -> None:
    """Copy the classifier of a run or an export, if it has one, into another export."""
    file = source / FILE
    if file.is_file() and not file.is_symlink():
        (folder / FILE).write_bytes(file.read_bytes())


def read_classifier(folder: Path) -> StoredClassifier | None:
    """The classifier in a folder; None if there is none. Raises UsageError if its file is damaged."""
    file = folder / FILE
    if not file.is_file():
        return None
    about = _about(file)
    try:
        with safe_open(file, "pt") as tensors:
            names = [*tensors.keys()]
            classifier = LinearClassifier.from_tensors({name: tensors.get_tensor(name) for name in names})
        return StoredClassifier(classifier, [str(name) for name in (about or {})["classes"]])
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise UsageError(
            f"{file} is damaged: it does not hold a classifier; remove it, and evaluate the run again."
        ) from error


def _about(file: Path) -> dict[str, Any] | None:
    """What the metadata of a file hold; None if there is no such file."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as tensors:
            return json_map((tensors.metadata() or {}).get(_KEY, "").encode())
    except (SafetensorError, OSError):
        return None


def weights_digest(module: nn.Module) -> str:
    """SHA-256 (hex) of the names and values of parameters and buffers."""
    digest = hashlib.sha256()
    tensors = dict(chain(module.named_parameters(), module.named_buffers()))
    for name, tensor in sorted(tensors.items(), key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()
