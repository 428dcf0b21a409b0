"""What an exported backbone says about its inputs: how evaluation resized and cropped them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contrastive.parts import ImageTransform, TimmTransform, transform_of_record
from contrastive.paths import user_path

#: Key of an export's config.json that holds the transform; exports of earlier versions lack it.
KEY = "evaluation_transform"
#: Key of an export's config.json that names the parameters that were left out.
OMISSIONS = "left_out"
#: The sentence of a README.md on the licence of the weights.
LICENCE = "Its weights are, or began as, weights under this licence: {licence}."
_HEADING = "\n## Images\n"
_README = """
Images are resized and cropped as they were in the encoder's evaluation: {transform}.
timm's transform does the same, from `config.json` (crop_pct {crop_pct}, {interpolation}):

```python
from PIL import Image, ImageOps

transform = timm.data.create_transform(**timm.data.resolve_model_data_config(encoder))
image = ImageOps.exif_transpose(Image.open("IMAGE")).convert("{mode}")
features = encoder(transform(image)[None])
```
"""


def declare_transform(folder: Path, transform: ImageTransform) -> None:
    """Write into an export's config.json and README.md how images are resized and cropped for it.

    timm's transform for the encoder then does the same. What the folder declared before is replaced. A folder
    whose config.json has no ``pretrained_cfg``, which timm would read, stays as it is.
    """
    file = folder / "config.json"
    config = _config(folder)
    cfg = config.get("pretrained_cfg")
    if not isinstance(cfg, dict):
        return
    for key in ("test_input_size", "test_crop_pct"):  # timm prefers them if asked to
        cfg.pop(key, None)
    cfg |= transform.timm_config()
    config[KEY] = transform.record()
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    readme = folder / "README.md"
    if readme.is_file():
        text = readme.read_text(encoding="utf-8").partition(_HEADING)[0]
        channels = (cfg.get("input_size") or (3,))[0]
        section = _README.format(
            transform=transform, mode="L" if channels == 1 else "RGB", **transform.timm_config()
        )
        readme.write_text(text + _HEADING + section, encoding="utf-8")


@dataclass(frozen=True)
class DeclaredNetwork:
    """What a folder that ``export`` or timm wrote says of its network."""

    architecture: str
    options: dict[str, Any]
    mean: list[float] | None
    std: list[float] | None
    image_size: int | None  # pixels
    channels: int | None
    licence: str | None


def declared_network(path: str | Path) -> DeclaredNetwork | None:
    """The network in a folder; None if ``path`` is no folder whose config.json names one."""
    config = _config(user_path(path))
    cfg = config.get("pretrained_cfg")
    cfg = cfg if isinstance(cfg, dict) else {}
    architecture = config.get("architecture") or cfg.get("architecture")
    if not isinstance(architecture, str):
        return None
    arguments = config.get("model_args")
    options = {} if not isinstance(arguments, dict) else dict(arguments)
    for key in ("num_classes", "in_chans"):  # they follow from the data
        options.pop(key, None)
    size = cfg.get("input_size")
    return DeclaredNetwork(
        architecture,
        options,
        _unless_all(cfg.get("mean"), 0),
        _unless_all(cfg.get("std"), 1),
        int(size[-1]) if isinstance(size, list) and size else None,
        int(size[0]) if isinstance(size, list) and size else None,
        str(cfg["license"]) if cfg.get("license") else None,
    )


@dataclass(frozen=True)
class Description:
    """What the README.md of an export says of its network, in Markdown.

    Attributes:
        network: inputs, features and how to load it, without the licence.
        images: how they are read for it.
    """

    network: str
    images: str


def description_of(folder: Path) -> Description:
    """What ``export`` wrote into README.md; empty texts without that file."""
    file = folder / "README.md"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    network, _, images = text.partition(_HEADING)
    title, _, rest = network.partition("\n")
    start = LICENCE.partition("{")[0]
    lines = (rest if title.startswith("# ") else network).splitlines()
    network = "\n".join(line for line in lines if not line.startswith(start))
    return Description(re.sub(r"\n{3,}", "\n\n", network).strip(), images.strip())


def declared_transform(path: str | Path, size: int) -> ImageTransform:
    """How a folder's config.json says that images are resized and cropped, for an input of ``size`` pixels:
    as in the evaluation of the run that exported it, or by timm's rule."""
    folder = user_path(path)
    config = _config(folder)
    if KEY in config:
        return transform_of_record(config[KEY], str(folder / "config.json")).at(size)
    cfg = config.get("pretrained_cfg")
    return TimmTransform.of(size, cfg if isinstance(cfg, dict) else {})


def _unless_all(values: Any, value: float) -> list[float] | None:
    """One number per channel; None if there are none, or all are ``value`` and change nothing."""
    if not isinstance(values, list) or all(each == value for each in values):
        return None
    return [float(each) for each in values]


def declare_omissions(folder: Path, names: Sequence[str]) -> None:
    """Write into an export's config.json and README.md which parameters were left out, if any."""
    if not names:
        return
    file, readme = folder / "config.json", folder / "README.md"
    file.write_text(json.dumps({**_config(folder), OMISSIONS: [*names]}, indent=2) + "\n", encoding="utf-8")
    listing = ", ".join(f"`{name}`" for name in names)
    text = readme.read_text(encoding="utf-8")
    readme.write_text(f"{text}\nLeft out, because only training needs it: {listing}.\n", encoding="utf-8")


def omissions_of(folder: Path) -> list[str]:
    """The names that :func:`declare_omissions` wrote."""
    names = _config(folder).get(OMISSIONS, [])
    return [str(name) for name in names] if isinstance(names, list) else []


def declares_other_transform(folder: Path) -> bool:
    """Whether a folder was exported by an earlier version, which declared a transform to timm (bicubic, whole
    image) that differs from the one in its evaluation."""
    config = _config(folder)
    cfg = config.get("pretrained_cfg")
    if KEY in config or not isinstance(cfg, dict):
        return False
    return (cfg.get("interpolation"), cfg.get("crop_pct"), cfg.get("num_classes")) == ("bicubic", 1.0, 0)


def _config(folder: Path) -> dict[str, Any]:
    """The content of config.json; empty if it holds no map."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
