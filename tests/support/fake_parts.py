"""Small parts, without torch, that stand in for real ones in tests of the registry and of recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from contrastive.kinds import InFeatures, hookimpl
from contrastive.registry import Registry


class Base:
    """Keeps what it was built with."""

    needs: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({vars(self)})"


class Dataset(Base):
    kind = "dataset"


class Augmentation(Base):
    kind = "augmentation"


class Target(Base):
    kind = "target"


class Head(Base):
    kind = "head"


class Loss(Base):
    kind = "loss"


class Folder(Dataset):
    """A folder of images.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path = Path("images"), limit: Annotated[int, Field(ge=1)] | None = None):
        self.root, self.limit = root, limit


class Crop(Augmentation):
    """A crop.

    Args:
        size: side of the crop,
            in pixels.
        scale: least and greatest share of the area.
    """

    def __init__(self, size: Annotated[int, Field(gt=0)], scale: tuple[float, float] = (0.08, 1.0)):
        self.size, self.scale = size, scale


class Flip(Augmentation):
    """A flip."""

    def __init__(self, p: Annotated[float, Field(ge=0, le=1)] = 0.5):
        self.p = p


class Simple(Augmentation):
    """Two crops."""


class Sequence(Augmentation):
    """Operations in order."""

    def __init__(self, operations: list[Augmentation]):
        self.operations = operations


class Views(Augmentation):
    """One pipeline a view."""

    def __init__(self, of: list[Augmentation]):
        self.of = of


class Backbone(Base):
    """A backbone."""

    kind = "backbone"

    def __init__(self, model: str = "resnet18", stem: Literal["standard", "small"] = "standard"):
        self.model, self.stem = model, stem


class MLP(Head):
    """Layers."""

    def __init__(self, in_features: InFeatures, dims: list[Annotated[int, Field(gt=0)]] = [512, 128]):  # noqa: B006
        self.in_features, self.dims = in_features, dims


class NoHead(Head):
    """Nothing."""

    is_identity = True


class Shared(Target):
    """The online network."""


class EMA(Target):
    """A moving average."""

    def __init__(self, momentum: float = 0.99):
        self.momentum = momentum


class Shuffle(Target):
    """Another target, shuffled."""

    def __init__(self, of: Target, every: int = 1):
        self.of, self.every = of, every


class InBatch(Base):
    """The other images."""

    kind = "negatives"


class Queue(Base):
    """Images of earlier batches."""

    kind = "negatives"

    def __init__(self, size: int = 4096):
        self.size = size


class NTXent(Loss):
    """Cross entropy.

    Args:
        temperature: what scores are divided by.
    """

    def __init__(self, temperature: Annotated[float, Field(gt=0)] = 0.5):
        self.temperature = temperature


class Margin(Loss):
    """A margin."""

    def __init__(self, margin: float = 1.0, mining: Literal["none", "semi_hard"] = "none"):
        self.margin, self.mining = margin, mining


class Rate(BaseModel):
    """A rate that scales."""

    per_256: float


class LARS(Base):
    """Layer-wise rates."""

    kind = "optimizer"

    def __init__(
        self,
        lr: float | Rate = 0.3,
        options: dict[str, Any] = {},  # noqa: B006
        warmup_epochs: float = 10,
    ):
        self.lr, self.options, self.warmup_epochs = lr, options, warmup_epochs


class Stop(Base):
    """Stops."""

    kind = "callback"

    def __init__(self, patience: int = 3):
        self.patience = patience


class KNN(Base):
    """Neighbours."""

    kind = "protocol"
    at = "every"

    def __init__(self, k: Annotated[int, Field(ge=1)] = 200):
        self.k = k


class Probe(Base):
    """A probe."""

    kind = "protocol"
    at = "end"


PARTS: dict[str, dict[str, type]] = {
    "dataset": {"fashion_mnist_sample": Dataset, "image_folder": Folder},
    "augmentation": {"simclr": Simple, "crop": Crop, "flip": Flip, "sequence": Sequence, "views": Views},
    "backbone": {"timm": Backbone},
    "head": {"mlp": MLP, "none": NoHead},
    "target": {"shared": Shared, "ema": EMA, "shuffle_bn": Shuffle},
    "negatives": {"in_batch": InBatch},
    "loss": {"nt_xent": NTXent, "margin": Margin},
    "optimizer": {"lars": LARS},
    "callback": {"stop": Stop},
    "protocol": {"knn": KNN, "linear": Probe},
}


def _hook(kind: str) -> Any:
    def register_kind(register: Any) -> None:
        for name, part in PARTS[kind].items():
            register(name, part)

    return hookimpl(register_kind)


class Plugin:
    """All fake parts as one plugin."""


for _kind in PARTS:
    setattr(Plugin, f"register_{_kind}", staticmethod(_hook(_kind)))


def fake_registry() -> Registry:
    """A registry of the fake parts alone."""
    registry = Registry()
    registry.add(Plugin(), "fake-parts", "1.0")
    assert not registry.problems
    return registry
