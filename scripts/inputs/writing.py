"""Writers of inputs: pictures, folders, tables and recipes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

#: Writes the inputs of a case into a folder.
Builder = Callable[[Path], None]
SIDE = 16
#: A small residual network, and one linear map of all pixels of a 16 x 16 image to more numbers than it has
#: pixels: its features show exactly which pixels it was given.
SMALL = "{name: timm, model: resnet10, stem: small, options: {width: 0.25}}"
CAMERA = (
    "{name: timm, model: vit_tiny_patch16_224, options: {patch_size: 16, depth: 0, embed_dim: 1024, "
    "num_heads: 4, class_token: false, global_pool: avg, final_norm: false, pos_embed: none}}"
)
NO_SCORES = "{knn: null, linear: null}"
SCORES = "{knn: {k: 3}, linear: {l2: [0.1]}}"


def picture(seed: int, side: int = SIDE, low: int = 0) -> np.ndarray:
    """Noise with values from ``low`` to ``low + 119``: uint8 [side, side, 3]."""
    return np.random.default_rng(seed).integers(low, low + 120, (side, side, 3)).astype(np.uint8)


def photograph(seed: int, width: int, height: int) -> Image.Image:
    """Waves of a few frequencies, as smooth as a photograph of these sides, with a little noise."""
    noise = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    channels = []
    for _ in range(3):
        waves = sum(np.sin(2 * np.pi * (a * x + b * y + c)) for a, b, c in noise.uniform(-6, 6, (5, 3)))
        channels.append(128 + 22 * waves + noise.normal(0, 4, (height, width)))
    return Image.fromarray(np.stack(channels, -1).clip(0, 255).astype(np.uint8))


def encode(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """An image file, written by Pillow."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(seed: int, low: int = 0) -> bytes:
    return encode(picture(seed, low=low))


def write(path: Path, content: bytes | str) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def together(*builders: Builder) -> Builder:
    """A builder that calls all of these, in order."""

    def build(folder: Path) -> None:
        for builder in builders:
            builder(folder)

    return build


def fill(folder: Path, count: int, seed: int = 0, low: int = 0, ending: str = "png") -> None:
    """``count`` pictures of 16 x 16 pixels in a folder."""
    for number in range(count):
        write(folder / f"{number}.{ending}", png(seed * 1000 + number, low))


def classes(folder: Path, names: Sequence[str], count: int, seed: int = 0) -> None:
    """Folders of ``count`` pictures each, the later the brighter."""
    for number, name in enumerate(names):
        fill(folder / name, count, 10 * seed + number, 60 * number)


def recipe(
    folder: Path,
    dataset: str,
    *,
    size: int = SIDE,
    backbone: str = SMALL,
    evaluate: str = NO_SCORES,
    train: str = "epochs: 1, max_steps: 1",
    name: str = "r.yaml",
    extra: str = "",
) -> None:
    """A recipe that trains for a moment."""
    write(
        folder / name,
        f"name: case\ndataset: {dataset}\naugmentation: {{name: simclr, size: {size}}}\n"
        f"backbone: {backbone}\nhead: {{name: mlp, dims: [16, 8]}}\n"
        "loss: {name: nt_xent, temperature: 0.2}\noptimizer: {name: sgd, lr: 0.1, warmup_epochs: 0}\n"
        f"train: {{{train}, batch_size: 8, precision: fp32, workers: 0}}\nevaluate: {evaluate}\n{extra}",
    )


def folder_recipe(folder: Path, parameters: str = "", **options: Any) -> None:
    """A recipe that reads the folder ``d``."""
    recipe(folder, f"{{name: image_folder, root: d{parameters and ', '}{parameters}}}", **options)


def table(path: Path, metadata: dict[str, Any] | None = None, **columns: Any) -> None:
    """A parquet file, perhaps with the Hugging Face features of its columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = pa.table(columns)
    if metadata is not None:
        content = content.replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": metadata}})}
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content, path)


def labelled_table(path: Path, count: int, seed: int = 0, column: str = "label", labels: Any = None) -> None:
    """A parquet file of pictures in two classes; class 1 is brighter."""
    images = [png(1000 * seed + n, 60 * (n % 2)) for n in range(count)]
    table(path, image=images, **{column: [n % 2 for n in range(count)] if labels is None else labels})


def hub_folder(folder: Path, label: str = "label", **counts: int) -> None:
    """Data files as the Hugging Face hub holds them, a parquet file per split."""
    features = {
        "image": {"_type": "Image"},
        label: {"names": ["cat", "dog"], "_type": "ClassLabel"},
    }
    for seed, (split, count) in enumerate(counts.items()):
        images = [{"bytes": png(1000 * seed + n, 60 * (n % 2)), "path": None} for n in range(count)]
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        table(path, features, **{"image": images, label: [n % 2 for n in range(count)]})


def saved_data_set(folder: Path, label: str = "label", **counts: int) -> None:
    """A folder as the library ``datasets`` writes it with ``save_to_disk``."""
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), label: datasets.ClassLabel(names=["cat", "dog"])}
    )
    splits = {
        split: datasets.Dataset.from_dict(
            {
                "image": [{"bytes": png(1000 * s + n, 60 * (n % 2)), "path": None} for n in range(count)],
                label: [n % 2 for n in range(count)],
            },
            features=features,
        )
        for s, (split, count) in enumerate(counts.items())
    }
    datasets.disable_progress_bars()
    datasets.DatasetDict(splits).save_to_disk(str(folder))
