"""The model card of an export: a README.md with the metadata that the Hugging Face hub reads."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from contrastive.backbones import LICENCE, declared_network, declared_transform, description_of
from contrastive.commands.origins import Origin
from contrastive.versions import CORE

Format = Literal["timm", "onnx"]

#: What stands for the folder in the code of a README.md.
_FOLDER = "PATH/TO/THIS/FOLDER"
#: Licences of timm's records that the hub knows by these names; others have a name of their own there.
_HUB_LICENCES = {
    "apache-2.0", "apple-amlr", "apple-ascl", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "gemma", "mit",
}  # fmt: skip
_CONTRASTIVE = """\
Or with {core}, which reads the images too:

```python
from contrastive.sklearn import Encoder

features = Encoder("{source}").transform(["IMAGE"])  # float32 [images, {features}]
```"""
_ONNX = """\
An image encoder, written by contrastive:
images [b, {channels}, {size}, {size}], float32 in [0, 1] -> features [b, {features}].
The mean and standard deviation of its inputs are inside.

```python
{loading}
```"""
_ONNX_LOCAL = """\
import onnxruntime

session = onnxruntime.InferenceSession("{folder}/model.onnx")"""
_ONNX_HUB = """\
import onnxruntime
from huggingface_hub import snapshot_download

session = onnxruntime.InferenceSession(snapshot_download("{repository}") + "/model.onnx")"""
_ONNX_CENTRE = """\
Images are resized and cropped as they were in the encoder's evaluation: {transform}.

```python
import numpy as np
from PIL import Image, ImageOps

image = ImageOps.exif_transpose(Image.open("IMAGE")).convert("{mode}")
width, height = ({short} * side // min(image.size) for side in image.size)
left, top = round((width - {size}) / 2), round((height - {size}) / 2)
image = image.resize((width, height), Image.Resampling.{filter})
square = image.crop((left, top, left + {size}, top + {size}))
pixels = np.array(square, np.float32).reshape(1, {size}, {size}, {channels}).transpose(0, 3, 1, 2) / 255
(features,) = session.run(["features"], {{"pixels": pixels}})
```"""
_ONNX_TIMM = """\
Images are resized and cropped as they were in the encoder's evaluation: {transform}.

```python
import timm
from PIL import Image, ImageOps

transform = timm.data.create_transform(
    ({channels}, {size}, {size}),
    crop_pct={crop_pct},
    crop_mode="{crop_mode}",
    interpolation="{interpolation}",
    normalize=False,
)
image = ImageOps.exif_transpose(Image.open("IMAGE")).convert("{mode}")
pixels = transform(image).numpy()[None].astype("float32") / 255
(features,) = session.run(["features"], {{"pixels": pixels}})
```"""
_FILTERS = {"bilinear": "BILINEAR", "bicubic": "BICUBIC", "lanczos": "LANCZOS", "nearest": "NEAREST"}


def write_card(
    folder: Path,
    format: Format,  # noqa: A002
    origin: Origin,
    repository: str | None = None,
) -> None:
    """Replace the README.md of an export by its model card.

    Args:
        folder: of the export, complete but for the card.
        format: of its network.
        origin: what the card says of data, recipe and metrics.
        repository: of the hub, from which the code of the card then loads; by default it names the folder.
    """
    from huggingface_hub import ModelCard, ModelCardData

    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if format == "timm":
        network = declared_network(folder)
        licence = None if network is None else network.licence
        text = _timm_text(folder, config, repository)
    else:
        licence = config.get("licence")
        text = _onnx_text(folder, config, repository)
    licence = None if licence in (None, "unknown") else str(licence)
    data = ModelCardData(
        library_name=format,
        pipeline_tag="image-feature-extraction",
        tags=[format, CORE, *origin.tags],
        datasets=[*origin.datasets] or None,
        base_model=origin.base_model,
        **_relation(origin),
        **_licence_data(licence),
    )
    sections = {
        "Training": origin.training,
        "Metrics": origin.metrics,
        "Licence": "Not stated." if licence is None else LICENCE.format(licence=licence),
    }
    parts = [f"# {origin.title}", text, *(f"## {head}\n\n{own}" for head, own in sections.items())]
    body = "\n\n".join(parts)
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n")
    (folder / "README.md").write_text(str(card), encoding="utf-8")


def _timm_text(folder: Path, config: Mapping[str, Any], repository: str | None) -> str:
    """How the network is loaded, by timm and by contrastive, and how images are read for it."""
    description = description_of(folder)
    source = _FOLDER if repository is None else f"hf_hub:{repository}"
    network = description.network
    if repository is not None:
        network = network.replace(f"local-dir:{_FOLDER}", source)
    own = _CONTRASTIVE.format(core=CORE, source=source, features=config["num_features"])
    images = f"## Images\n\n{description.images}" if description.images else ""
    return "\n\n".join(part for part in (network, own, images) if part)


def _onnx_text(folder: Path, config: Mapping[str, Any], repository: str | None) -> str:
    """How the network is loaded, and how images are read for it."""
    _, channels, size, _ = config["input"]["shape"]
    loading = (
        _ONNX_LOCAL.format(folder=_FOLDER) if repository is None else _ONNX_HUB.format(repository=repository)
    )
    network = _ONNX.format(
        channels=channels, size=size, features=config["output"]["shape"][1], loading=loading
    )
    transform = declared_transform(folder, size)
    keys = transform.timm_config()
    is_plain = transform.crop_mode == "center" and transform.interpolation in _FILTERS
    images = (_ONNX_CENTRE if is_plain else _ONNX_TIMM).format(
        transform=transform,
        size=size,
        channels=channels,
        mode="L" if channels == 1 else "RGB",
        short=math.floor(size / transform.crop_pct),
        filter=_FILTERS.get(transform.interpolation),
        **keys,
    )
    return f"{network}\n\n## Images\n\n{images}"


def _relation(origin: Origin) -> dict[str, Any]:
    """How an encoder follows from its base model, if that was trained further."""
    return {"base_model_relation": "finetune"} if origin.base_model and origin.is_trained else {}


def _licence_data(licence: str | None) -> dict[str, Any]:
    if licence is None:
        return {}
    if licence.lower() in _HUB_LICENCES:
        return {"license": licence.lower()}
    return {"license": "other", "license_name": licence}
