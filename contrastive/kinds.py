"""The kinds of parts a recipe is made of, and the marks that hooks and signatures carry.

This module imports no torch: the command line, the registry and the recipe layer stand on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pluggy

#: Distribution-independent name of the plugin system: entry-point group and pluggy project.
GROUP = "contrastive"

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)

#: kind -> what it decides, in one line. The order is the order of ``contrastive list``.
KINDS: dict[str, str] = {
    "dataset": "where images, ids and (if any) labels come from",
    "augmentation": "the views of an image",
    "backbone": "pixels -> features h",
    "head": "features h -> embedding z; as predictor, z -> p",
    "target": "who encodes the keys",
    "negatives": "the candidates a query is told apart from",
    "loss": "what is made small",
    "optimizer": "update rule, groups and schedule",
    "callback": "acts during a run: monitors, loggers, early stopping",
    "protocol": "evaluation of an encoder",
}


@dataclass(frozen=True)
class Injected:
    """Marks a parameter of a part's ``__init__`` that the builder supplies, not the recipe.

    Hidden from the schema. ``what`` is a key of the builder's offer: ``in_channels``,
    ``image_size`` (backbones), ``in_features`` (heads).
    """

    what: str


InChannels = Annotated[int, Injected("in_channels")]
ImageSize = Annotated[int, Injected("image_size")]
InFeatures = Annotated[int, Injected("in_features")]
