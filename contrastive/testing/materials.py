"""What parts are tried on: embeddings, pictures, features and a run that is none, all the same every time.

Shape letters: b images, n rows of a table, C channels, F and D widths.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from contrastive.comparison import Comparison
from contrastive.data.reading import Reader
from contrastive.errors import UsageError
from contrastive.evaluation.trial import EncoderTrial, SplitImages
from contrastive.parts import Images, ImageTable, Loss
from contrastive.testing.framework import fail
from contrastive.testing.subjects import IN_CHANNELS, IN_FEATURES
from contrastive.testing.surroundings import seeded
from contrastive.values import Feature, Features, Memory, Progress

VIEWS = 2


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- tensors ----------------------------------------------------------------------------------------------


def embeddings(
    b: int, dtype: torch.dtype = torch.float64, seed: int = 0, width: int = IN_FEATURES
) -> list[Tensor]:
    """Two views of b images, [b, D] each, somewhat alike."""
    common = torch.randn(b, width, generator=generator(seed), dtype=torch.float64)
    return [
        (common + 0.7 * torch.randn(b, width, generator=generator(seed + 1 + view), dtype=torch.float64)).to(
            dtype
        )
        for view in range(VIEWS)
    ]


def classes(b: int, count: int = 3) -> Tensor:
    """int64 [b], every class at least twice where b allows, one image unknown."""
    labels = torch.arange(b) % count
    labels[-1] = -1
    return labels


def entries(count: int, dtype: torch.dtype = torch.float64, width: int = IN_FEATURES) -> Memory:
    """A memory of unit vectors, the last of which is not filled, of images that no batch has."""
    z = nn.functional.normalize(
        torch.randn(count, width, generator=generator(99), dtype=torch.float64), dim=1
    )
    valid = torch.ones(count, dtype=torch.bool)
    valid[-1] = False
    return Memory(z.to(dtype), torch.arange(10_000, 10_000 + count), classes(count), valid)


def compared(
    loss: Loss,
    views: Sequence[Tensor],
    *,
    keys: Sequence[Tensor] | None = None,
    images: Tensor | None = None,
    labels: Tensor | None = None,
    memories: Sequence[Memory] = (),
    progress: Progress | None = None,
) -> Comparison:
    """What ``loss`` is given for these embeddings: with labels, apart from its keys, or without their
    gradient where it declares that it needs it so."""
    apart = bool(loss.needs & {"predictor", "detached_keys"})
    if apart and keys is None:
        keys = embeddings(len(views[0]), views[0].dtype, seed=20)
    if apart and keys is not None and "detached_keys" in loss.needs:
        keys = [key.detach() for key in keys]
    if "labels" in loss.needs and labels is None:
        labels = classes(len(views[0]))
    return Comparison.of(
        list(views),
        keys,
        labels if "labels" in loss.needs else None,
        images=images,
        memories=memories,
        normalise=loss.normalised,
        progress=progress or Progress(3, 10),
    )


def pictures(b: int, seed: int = 0, size: int = 32, channels: int = IN_CHANNELS) -> Tensor:
    """Coloured noise on a gradient, so that every operation has something to change: uint8 [b, C, H, W]."""
    ramp = torch.linspace(0, 120, size)
    base = ramp[None, None, :, None] + ramp[None, None, None, :] * 0.3  # [1, 1, H, W]
    noise = torch.rand(b, channels, size, size, generator=generator(seed)) * 100
    return (base + noise).clamp(0, 255).to(torch.uint8)


def pixels(b: int, seed: int = 0, size: int = 32) -> Tensor:
    """float32 [b, C, H, W] in [0, 1]."""
    return pictures(b, seed, size).float() / 255


def features(n: int, seed: int, spread: float = 1.6) -> Features:
    """Three overlapping classes, so that no hyper-parameter is as good as another."""
    draw = generator(seed)
    labels = torch.arange(n) % 3
    centres = torch.randn(3, IN_FEATURES, generator=generator(7))
    h = centres[labels] + spread * torch.randn(n, IN_FEATURES, generator=draw)
    return Features(h, labels, torch.arange(n) + 1000 * seed)


def splits() -> tuple[Features, Features, Features]:
    """Features to fit on, to choose on, and to test on."""
    return features(120, 1), features(48, 2), features(60, 3)


# -- what a protocol is given ------------------------------------------------------------------------------

SIZE = 8  # side of the pictures that a protocol sees


class FeaturePictures(ImageTable):
    """A picture of each feature vector: its values spread over the pixels by a fixed map."""

    def __init__(self, *parts: Features):
        h = torch.cat([part.h for part in parts])  # [n, F]
        spread = torch.randn(h.shape[1], IN_CHANNELS * SIZE**2, generator=generator(5))
        self._pixels = (255 * torch.sigmoid(h @ spread)).to(torch.uint8).view(-1, IN_CHANNELS, SIZE, SIZE)
        self.ids, self.labels = (
            torch.cat([getattr(part, name) for part in parts]).numpy() for name in ("ids", "labels")
        )
        self.channels, self.size = IN_CHANNELS, (SIZE, SIZE)

    def decode(self, index: int) -> Tensor:
        return self._pixels[index]

    def name(self, index: int) -> str:
        return f"picture {index}"


class SmallEncoder(nn.Module):
    """A small encoder with batch norm: float [b, C, h, w] -> [b, F]."""

    features = IN_FEATURES

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(IN_CHANNELS, IN_FEATURES, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(IN_FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.convolution(x)).relu().mean((2, 3))


class GivenTrial(EncoderTrial):
    """A trial whose features, h as z, are those given, and whose images are pictures of them."""

    def __init__(self, fit: Features, validation: Features, test: Features | None = None):
        reader = Reader(SIZE, torch.device("cpu"), workers=0)
        train = FeaturePictures(fit, validation)
        rows = np.split(np.arange(len(train)), [len(fit)])
        asked = None if test is None else SplitImages(reader, FeaturePictures(test), np.arange(len(test)))
        with seeded(0):
            encoder, head = SmallEncoder().eval(), nn.Linear(IN_FEATURES, IN_FEATURES).eval()
        known, chosen_on = (SplitImages(reader, train, each) for each in rows)
        super().__init__(encoder, head, known, chosen_on, asked)
        self._given = {id(self.fit): fit, id(self.validation): validation, id(self.test): test}

    def features_of(self, images: Images, feature: Feature = "h") -> Features:
        given = self._given[id(images)]
        assert given is not None
        return given


def trial(with_test: bool = True) -> GivenTrial:
    """The trial of :func:`splits`."""
    given = splits()
    return GivenTrial(*given) if with_test else GivenTrial(*given[:2])


# -- networks and runs ------------------------------------------------------------------------------------


class Network(nn.Module):
    """A small model with all that an optimizer meets: weights, biases, norms, a scalar, frozen weights."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, IN_FEATURES)
        self.target = nn.Linear(4, IN_FEATURES).requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """float [b, C, h, w] -> [b, D]."""
        return self.head(self.backbone(x).mean((2, 3))) * self.scale


def network() -> Network:
    """A :class:`Network` with the same weights every time."""
    with seeded(0):
        return Network()


class RecordedRun:
    """A run that is none: what a callback reads of it, and a record of what it asks of it."""

    def __init__(self, folder: Path):
        self.name, self.folder = "conformance", folder
        self.steps, self.epochs, self.steps_per_epoch = 160, 40, 4
        self.step, self.epoch = 0, 0
        self.method = network()
        self.param_groups = [{"params": list(self.method.head.parameters()), "lr": 0.1, "peak_lr": 0.1}]
        self.comparison: Comparison | None = None
        self.asked: list[Any] = []

    def log(self, figures: Mapping[str, float]) -> None:
        self.asked.append(("log", self.step, dict(figures)))

    def warn(self, message: str) -> None:
        self.asked.append(("warn", self.step, message))

    def stop(self, reason: str) -> None:
        self.asked.append(("stop", self.step, reason))

    def live(self, callback: Any, epochs: range) -> None:
        """Tell ``callback`` of epochs of a run whose accuracy rises at first and then falls a little."""
        for epoch in epochs:
            self.epoch = epoch
            for _ in range(self.steps_per_epoch):
                self.step += 1
                self.comparison = Comparison.of(embeddings(8, torch.float32, seed=self.step))
                metrics = {"step": self.step, "epoch": epoch, "loss": 3 / self.step, "lr": 0.1}
                callback.step_done(self, {**metrics, "images_per_second": 100.0})
            callback.epoch_done(self, epoch)
            accuracy = 0.3 + 0.1 * min(epoch, 3) - 0.001 * epoch
            figures = {"knn_top1": accuracy, "linear_top1": accuracy + 0.05, "effective_rank": 6.0}
            callback.evaluated(self, {"step": self.step, "epoch": epoch, **figures})


# -- using a part -----------------------------------------------------------------------------------------


def use(kind: str, part: Any) -> None:
    """What a run does with a part of this kind, once."""
    _USES[kind](part)


def _use_dataset(part: Any) -> None:
    table = part.table("train")
    table.decode(0), table.name(0), part.fingerprint(), part.classes


def _use_augmentation(part: Any) -> None:
    part(pictures(4), np.arange(4), seed=1, epoch=2)


def _use_encoder(part: Any) -> None:
    x = pixels(4) if part.kind == "backbone" else torch.randn(4, IN_FEATURES, generator=generator(0))
    part.train()(x.requires_grad_()).sum().backward()


def _use_target(part: Any) -> None:
    with seeded(0):
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(IN_CHANNELS * 64, IN_FEATURES))
    try:
        part.bind(encoder)
    except UsageError:  # it asks for more than one process
        return
    views = dict(enumerate([pixels(4, view, 8) for view in range(VIEWS)]))
    part(views, {view: encoder(x) for view, x in views.items()}, encoder)
    with torch.no_grad():
        part.before_step(Progress())
        part.after_step(Progress())


def _use_negatives(part: Any) -> None:
    part.offers(0, 1)
    memory = part.memory()
    with torch.no_grad():
        part.after_batch(
            Comparison.of(embeddings(4, torch.float32), memories=[] if memory is None else [memory])
        )


def _use_loss(part: Any) -> None:
    views = [view.requires_grad_() for view in embeddings(8, torch.float32)]
    part(compared(part, views)).backward()


def _use_optimizer(part: Any) -> None:
    model = network()
    optimizer = part.build(model, 8)
    model(pixels(4, size=10)).square().sum().backward()
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * part.factor(group, 5, 10, 5)
    optimizer.step()


def _use_callback(part: Any) -> None:
    run = RecordedRun(Path())
    part.run_started(run)
    run.live(part, range(1, 3))
    part.state_dict()


def _use_protocol(part: Any) -> None:
    part.evaluate(trial())


_USES = {
    "dataset": _use_dataset,
    "augmentation": _use_augmentation,
    "backbone": _use_encoder,
    "head": _use_encoder,
    "target": _use_target,
    "negatives": _use_negatives,
    "loss": _use_loss,
    "optimizer": _use_optimizer,
    "callback": _use_callback,
    "protocol": _use_protocol,
}


# -- saving -----------------------------------------------------------------------------------------------


def saved(state: Any, what: str) -> Any:
    """``state`` as a checkpoint gives it back: written by torch.save, read with ``weights_only=True``."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    try:
        return torch.load(file, weights_only=True)
    except Exception as error:  # torch's unpickler says in many types that a value is not plain
        said = str(error).strip().splitlines()[0][:200]
        fail(f"{what} holds more than plain values and tensors, and no checkpoint can be read back ({said})")


def same(a: Any, b: Any) -> bool:
    """Whether two trees of plain values and tensors are equal, bit for bit."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b) or (a != a and b != b)


def far(a: Tensor, b: Tensor) -> float:
    """The greatest difference of two tensors, relative to the greatest value; of two shapes infinite."""
    if a.shape != b.shape:
        return float("inf")
    if not a.numel():
        return 0.0
    a, b = a.detach().double(), b.detach().double()
    difference = (a - b).abs()
    scale = max(1e-300, float(a.abs().nan_to_num(posinf=0, neginf=0).max()))
    return float(difference.max()) / scale if torch.isfinite(difference).all() else _both_infinite(a, b)


def _both_infinite(a: Tensor, b: Tensor) -> float:
    return 0.0 if torch.equal(a.nan_to_num(9.0), b.nan_to_num(9.0)) else float("inf")
