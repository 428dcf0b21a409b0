"""Checks of negatives: the candidates that a source offers, and its memory of earlier batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.testing.equality import same, through_checkpoint
from contrastive.testing.framework import check, require, skip
from contrastive.testing.materials import embeddings
from contrastive.testing.subjects import IN_FEATURES, Subject
from contrastive.text import quantity
from contrastive.values import Memory, Progress

_IMAGES = 7  # does not divide a power of two


def _comparison(number: int, source: Any, images: int = _IMAGES) -> Comparison:
    """Batch ``number``: its own images, separate queries and keys, and the current memory."""
    memory = source.memory()
    return Comparison.of(
        embeddings(images, torch.float32, seed=100 + 10 * number),
        embeddings(images, torch.float32, seed=105 + 10 * number),
        labels=(torch.arange(images) + number) % 5,
        images=torch.arange(images) + 1000 * (number + 1),
        memories=[] if memory is None else [memory],
        progress=Progress(number, 50),
    )


@torch.no_grad()
def _step(source: Any, comparison: Comparison) -> None:
    source.before_step(comparison.progress)
    source.after_batch(comparison)
    source.after_step(comparison.progress)


def _valid(memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
    """(z, image, label) of the entries that are candidates."""
    return memory.z[memory.valid], memory.image[memory.valid], memory.label[memory.valid]


def _remembering(subject: Subject) -> Any:
    source = subject.part().train()
    if source.memory() is None:
        skip("it keeps nothing of earlier batches (memory() returns None)")
    return source


@check("offers", "negatives", after=("builds",))
def offers(subject: Subject) -> None:
    """offers is a pure function of the two views, and returns True or False."""
    source = subject.part()
    pairs = [(query, key) for query in range(3) for key in range(3)]
    before = [source.offers(*pair) for pair in pairs]
    require(
        all(isinstance(offer, bool) for offer in before), "offers returns something other than True or False"
    )
    for number in range(2):
        _step(source, _comparison(number, source))
    require(
        [source.offers(*pair) for pair in pairs] == before,
        "offers changes during training; it is called once, when the method is built",
    )


@check("memory", "negatives", after=("offers",))
def memory(subject: Subject) -> None:
    """memory returns z [M, D], image, label and valid [M] with a constant M and without a gradient."""
    source = _remembering(subject)
    sizes = []
    for number in range(3):
        current = source.memory()
        require(
            isinstance(current, Memory),
            f"memory() returns a {type(current).__name__}, not contrastive.values.Memory",
        )
        m = len(current.z)
        sizes.append(m)
        require(
            current.z.is_floating_point() and current.z.shape == (m, IN_FEATURES),
            f"z is {current.z.dtype} {list(current.z.shape)}, not float [M, {IN_FEATURES}]",
        )
        require(not current.z.requires_grad, "its entries require a gradient; detach them")
        for name, dtype in (("image", torch.int64), ("label", torch.int64), ("valid", torch.bool)):
            value = getattr(current, name)
            require(
                value.dtype == dtype and value.shape == (m,),
                f"{name} is {value.dtype} {list(value.shape)}, not {dtype} [{m}]",
            )
        _step(source, _comparison(number, source))
    require(
        len(set(sizes)) == 1,
        f"its memory has {sizes} entries in turn; allocate all of them, and mark the valid ones",
    )


@check("unfilled", "negatives", after=("memory",))
def unfilled_entries(subject: Subject) -> None:
    """Entries that no batch has filled are not valid, so that they are never candidates."""
    source = _remembering(subject)
    count = int(source.memory().valid.sum())
    require(
        count == 0,
        f"valid before the first batch: {quantity(count, 'entry', 'entries')}; "
        "set valid when they are filled",
    )


@check("entries", "negatives", after=("unfilled",))
def entries(subject: Subject) -> None:
    """Valid entries are keys of earlier batches as they were compared, never of the current batch."""
    source = _remembering(subject)
    earlier_keys: set[bytes] = set()
    batches = 3
    while batches * 2 * _IMAGES < 3 * len(source.memory().z) and batches < 40:
        batches *= 2
    for number in range(batches):
        images = _IMAGES if number < 3 else max(_IMAGES, len(source.memory().z) // 9)
        comparison = _comparison(number, source, images)
        current = source.memory()
        keys = set(_rows(comparison.keys.z, current.z.dtype))
        require(
            not keys & set(_rows(_valid(current)[0], current.z.dtype)),
            "keys of the current batch are in its memory, so they are their own negatives; "
            "store them in after_batch",
        )
        _step(source, comparison)
        earlier_keys |= keys
        valid_keys = set(_rows(_valid(source.memory())[0], current.z.dtype))
        strange = len(valid_keys - earlier_keys)
        require(
            not strange,
            f"valid, but not a key of an earlier batch: {quantity(strange, 'entry', 'entries')}; "
            "store comparison.keys.z unchanged",
        )
        require(
            valid_keys & keys,
            f"after batch {number + 1} none of its keys is in the memory; store them in after_batch",
        )


@check("own image", "negatives", after=("entries",))
def own_image(subject: Subject) -> None:
    """Entries carry the image and label of their key, which identify a row's own image and class."""
    source = _remembering(subject)
    comparisons = []
    for number in range(3):
        comparison = _comparison(number, source)
        comparisons.append(comparison)
        _step(source, comparison)
    keys = torch.cat([c.keys.z for c in comparisons])
    z, image, label = _valid(source.memory())
    nearest = torch.cdist(z.double(), keys.double()).argmin(1)
    for name, values in (("image", image), ("label", label)):
        true = torch.cat([getattr(c.keys, name) for c in comparisons])[nearest]
        wrong = int((values != true).sum())
        require(
            not wrong,
            f"without the {name} of their key: {quantity(wrong, 'entry', 'entries')}, so a row's own image "
            f"cannot be recognised; store comparison.keys.{name} with z",
        )


@check("state_dict", "negatives", after=("memory",))
def state_dict(subject: Subject) -> None:
    """After some batches, a fresh instance that loads its state_dict has the same entries, then and later."""
    source = _remembering(subject)
    for number in range(3):
        _step(source, _comparison(number, source))
    fresh = subject.part(seed=9).train()
    fresh.load_state_dict(through_checkpoint(source.state_dict(), "its state_dict"))
    for number in (3, 4):
        require(
            same(_plain(source.memory()), _plain(fresh.memory())),
            "an instance with its reloaded state_dict has other entries; "
            "keep entries, fill and position in buffers (register_buffer)",
        )
        for one in (source, fresh):
            _step(one, _comparison(number, one))


def _plain(memory: Memory) -> list[Tensor]:
    return [memory.z.clone(), memory.image.clone(), memory.label.clone(), memory.valid.clone()]


def _rows(z: Tensor, dtype: torch.dtype) -> list[bytes]:
    """Each vector as bytes, in the dtype that a memory keeps."""
    return [row.tobytes() for row in z.to(dtype).float().numpy()]
