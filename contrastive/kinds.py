"""The kinds of parts a recipe is made of, and the marks that hooks and signatures carry.

It does not import torch, because the command line, the registry and the recipe layer build on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pluggy

#: Distribution-independent name of the plugin system: entry-point group and pluggy project.
GROUP = "contrastive"

#: The version of the interface between this framework and plugins: hooks, base classes, what a loss sees.
#: A plugin module declares the oldest version that has all it uses: ``contrastive_api = 1``. docs/plugins.md
#: lists what each version added.
API_VERSION = 2
#: The oldest interface that still works.
OLDEST_API_VERSION = 1

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)

#: kind -> what it decides, in one line, in the order of ``contrastive list``.
KINDS: dict[str, str] = {
    "dataset": "where images, ids and (if any) labels come from",
    "augmentation": "the views of an image",
    "backbone": "pixels -> features h",
    "head": "features h -> embedding z; as predictor, z -> p",
    "target": "the network that encodes the keys",
    "negatives": "the candidates a query is contrasted with",
    "loss": "what training minimises",
    "optimizer": "update rule, groups and schedule",
    "callback": "acts during a run: monitors, loggers, early stopping",
    "protocol": "evaluation of an encoder",
}

#: What commands take as an encoder, in words.
ENCODER_FORMS = (
    "a run folder, an exported folder, a file of weights, a timm model with its tag "
    "(vit_small_patch14_dinov2.lvd142m), or hf_hub:OWNER/NAME"
)

#: What every evaluation reports besides the metrics of protocols.
MONITORS = ("alignment", "uniformity", "embedding_std", "embedding_norm", "effective_rank")

#: What a metric is: a fraction, shown in percent, or a plain number.
Unit = Literal["fraction", "number"]


@dataclass(frozen=True)
class Injected:
    """Marks a parameter of a part's ``__init__`` that the builder supplies, not the recipe.

    Hidden from the schema. ``what`` is one of the values the builder supplies: ``in_channels`` or
    ``image_size`` (backbones, targets and negatives), ``in_features``, the width of the part's input: F for
    heads (of patches the width of the tokens), D for predictors, targets, negatives and losses,
    ``out_features``, the width of the keys (predictors), ``patch_size``, the side of a patch in pixels
    (targets and negatives), or ``epochs``, the length of the run (augmentations).
    """

    what: str


@dataclass(frozen=True)
class SpansRun:
    """Marks a parameter of a part that makes each step depend on how long the run will be.

    A run of such a recipe cannot be extended by more epochs. Mark the type: ``Annotated[str, SpansRun()]``.

    Attributes:
        unless: values at which steps do not depend on it; at None they never do.
    """

    unless: tuple[Any, ...] = ()

    def at(self, value: Any) -> bool:
        """Whether steps depend on the length of the run at this value of the parameter."""
        return value is not None and value not in self.unless


@dataclass(frozen=True)
class Addition:
    """Marks a parameter that a part gained after runs of it existed: ``Annotated[float, Addition()] = 0.0``.

    While it has its default it is left out of the training fingerprint, so that these runs still resume. The
    default must do what the part did before. One that takes a part is null by default.
    """


@dataclass(frozen=True)
class ChangedDefault:
    """Marks a parameter whose default changed after runs existed: ``Annotated[int, ChangedDefault(1)] = 2``.

    While it has its default, the training fingerprint holds ``former``, so that these runs still resume.
    Where both work, both must do the same.

    Attributes:
        former: the default that these runs had, as a recipe writes it.
    """

    former: Any


@dataclass(frozen=True)
class Location:
    """Marks text that may be the path of data: ``Annotated[str, Location()]``. A ``Path`` is one without it.

    A run continues if its data set is read from another location and has the same fingerprint.
    """


@dataclass(frozen=True)
class Content:
    """Marks the path of a file that training reads whenever it starts or resumes: a teacher's weights.

    The training fingerprint holds the SHA-256 of the file instead of its path: a run continues if the file
    has moved, and not if it is another one. A folder stands for the model.safetensors in it.
    """


InChannels = Annotated[int, Injected("in_channels")]
ImageSize = Annotated[int, Injected("image_size")]
InFeatures = Annotated[int, Injected("in_features")]
OutFeatures = Annotated[int, Injected("out_features")]
PatchSize = Annotated[int, Injected("patch_size")]
Epochs = Annotated[int, Injected("epochs")]  # of the run, for augmentations
