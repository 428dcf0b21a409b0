"""Classes of image files, by the linear probe on the features of an encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from contrastive.curation.encoding import encode
from contrastive.curation.features import FeatureTable
from contrastive.curation.queries import QueryEncoder
from contrastive.curation.sources import require_all_outside
from contrastive.errors import UsageError
from contrastive.protocols import LinearProbe
from contrastive.recipe import set_tree
from contrastive.registry import Registry
from contrastive.runs import (
    Overrides,
    StoredClassifier,
    load_encoder,
    read_classifier,
)
from contrastive.text import quantity
from contrastive.values import Features


def classifier_of(
    encoder: str | Path,
    registry: Registry,
    overrides: Overrides = (),
    outputs: Mapping[str, Path] | None = None,
) -> tuple[QueryEncoder, StoredClassifier]:
    """An encoder, and the classifier of its features.

    That is the one in the folder of a run or an export, unless overrides name a data set. Then, and without
    one, it is fitted on the data set.

    Raises UsageError if there is neither, the data set has no labels of two classes, the encoder and the
    classifier do not fit, or an output (option -> file) belongs to the data set.
    """
    if "dataset" not in set_tree(overrides):
        probe = read_classifier(Path(encoder))
        if probe is not None:
            alone = QueryEncoder.alone(encoder, registry, overrides)
            _require_fit(alone, probe, encoder)
            return alone, probe
        if not (Path(encoder) / "recipe.yaml").is_file():
            raise UsageError(
                f"{encoder} has no classifier; set a data set with labels to fit one, such as "
                "--set 'dataset={name: image_folder, root: DIR}'."
            )
    own = load_encoder(encoder, registry, overrides)
    require_all_outside(outputs, own.recipe)
    return QueryEncoder.of(own), fit_classifier(encode(own), own.recipe.dataset.name)


def fit_classifier(table: FeatureTable, dataset: str) -> StoredClassifier:
    """The linear probe on all labelled images of train, its strength chosen on the images that validate.

    Raises UsageError, with the name of the data set, if train has no labels of two classes.
    """
    probe, labelled = LinearProbe(), table.labels >= 0
    is_train, held_out = table.splits == "train", table.held_out
    train = _features(table, is_train & labelled)
    if len(train.labels.unique()) < 2:
        raise UsageError(
            f"{dataset}: train has no labels of two classes, so there is nothing to "
            "predict; set a data set with labels."
        )
    validates = held_out if held_out.any() else table.splits == "validation"
    fit, validation = (_features(table, mask & labelled) for mask in (is_train & ~held_out, validates))
    has_choice = len(validation) > 0 and len(fit.labels.unique()) > 1
    l2 = probe.choose(fit, validation)[0] if has_choice else probe.default
    classifier = probe.fit(l2, train)
    names = [table.class_name(label) or "" for label in classifier.labels.tolist()]
    return StoredClassifier(classifier, names)


def _features(table: FeatureTable, mask: np.ndarray) -> Features:
    index = torch.from_numpy(mask)
    return Features(
        table.vectors[index], torch.from_numpy(table.labels)[index], torch.from_numpy(table.keys)[index]
    )


def _require_fit(encoder: QueryEncoder, probe: StoredClassifier, text: str | Path) -> None:
    width = len(probe.classifier.probe.mean)
    if encoder.backbone.features != width:
        raise UsageError(
            f"{text}: the classifier takes {quantity(width, 'feature')} and the encoder gives "
            f"{encoder.backbone.features}; evaluate the run again."
        )
