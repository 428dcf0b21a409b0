"""Remedies of messages about backbones and the weights that they load."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from contrastive.backbones import Timm
from contrastive.backbones import Torchvision as TorchvisionBackbone
from tests.support.remedies import Remedy, number

FILES = "backbones/weight_files.py"


def timm(arguments: dict[str, Any]) -> None:
    Timm(3, arguments.pop("size", 16), **arguments)


def of_torchvision(arguments: dict[str, Any]) -> None:
    TorchvisionBackbone(3, arguments.pop("size", 32), **arguments)


def small(**options: Any) -> dict[str, Any]:
    return {"model": "resnet10", "stem": "small", "options": {"width": 0.125, **options}}


def saved(name: str = "weights.pt", **arguments: Any) -> str:
    """A file with the state dict of a timm model."""
    torch.save(Timm(3, **{"image_size": 32, **arguments}).net.state_dict(), name)
    return name


def saved_by_torchvision(_: str) -> dict[str, Any]:
    torch.save(torchvision.models.squeezenet1_1().state_dict(), "weights.pt")
    return {"model": "squeezenet1_1", "weights": Path("weights.pt")}


def with_state(change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """The small backbone with a file of its weights, changed."""
    torch.save(change(Timm(3, 16, **small()).net.state_dict()), "changed.pt")
    return {**small(), "weights": Path("changed.pt")}


def grid(count: int) -> dict[str, Any]:
    """A transformer with weights for so many patches."""
    state = Timm(3, 16, **vit(4)).net.state_dict()
    state["pos_embed"] = state["pos_embed"][:, : 1 + count]
    torch.save(state, "grid.pt")
    return {"size": 16, **vit(4), "weights": Path("grid.pt")}


def exported(folder: str, model: str = "resnet10t") -> str:
    Timm(3, 32, model).export(folder)
    return folder


def from_folder(message: str) -> dict[str, Any]:
    folder = Path(re.search(r"Set weights: ([^,]+),", message)[1])
    model = json.loads((folder / "config.json").read_text())["architecture"]
    return {"size": 32, "model": model, "weights": folder}


def two_prefixes() -> dict[str, Any]:
    net = Timm(3, 16, **small()).net.state_dict()
    torch.save({f"{side}.{name}": value for side in ("q", "k") for name, value in net.items()}, "moco.pt")
    return {**small(), "weights": Path("moco.pt")}


def with_prefix(message: str) -> dict[str, Any]:
    from contrastive.backbones.weights import WeightsFile

    path, prefix = re.search(r"\{path: ([^,]+), prefix: '([^']+)'\}", message).groups()
    return {**small(), "weights": WeightsFile(path=Path(path), prefix=prefix)}


class Whole:
    """Saved as an object next to the weights."""


def with_object() -> dict[str, Any]:
    torch.save({"state_dict": Timm(3, 16, **small()).net.state_dict(), "args": Whole()}, "object.pt")
    return {**small(), "weights": Path("object.pt")}


def only_state_dict(_: str) -> dict[str, Any]:
    content = torch.load("object.pt", weights_only=False)
    torch.save(content["state_dict"], "state.pt")
    return {**small(), "weights": Path("state.pt")}


def vit(patch: int) -> dict[str, Any]:
    return {"model": "vit_tiny_patch16_224", "options": {"patch_size": patch, "depth": 1}}


def other_patches() -> dict[str, Any]:
    file = saved("vit.pt", image_size=32, **vit(8))
    return {"size": 32, **vit(4), "weights": Path(file)}


def own_patches(message: str) -> dict[str, Any]:
    return {"size": 32, **vit(int(number(message, "patch_size:"))), "weights": Path("vit.pt")}


def to_folder(name: str) -> None:
    Path("taken").write_text("a file")
    Timm(3, 32, "resnet10t").export(name)


def networks() -> Iterator[Remedy]:
    yield Remedy(
        "backbones/probe.py",
        "Choose another image size or model",
        of_torchvision,
        lambda: {"model": "squeezenet1_1", "size": 16},
        lambda _: {"model": "squeezenet1_1", "size": 64},
    )
    yield Remedy(
        "backbones/probe.py",
        "use a pooled classifier",
        timm,
        lambda: small(global_pool=""),
        lambda _: small(),
    )
    yield Remedy(
        "backbones/options.py",
        "A space is missing after the colon",
        timm,
        lambda: {**small(), "options": {"width:0.5": None}},
        lambda _: {**small(), "options": {"width": 0.5}},
    )
    yield Remedy("backbones/timm.py", "name a new or an existing folder", to_folder, "taken", "new")
    yield Remedy(
        "backbones/timm.py",
        "and model to the architecture that its config.json names",
        timm,
        lambda: {"model": f"local-dir:{exported('encoder')}"},
        from_folder,
    )
    yield Remedy(
        "backbones/timm.py",
        "is timm's old name",
        timm,
        lambda: {"model": "ssl_resnet18"},
        lambda message: {"size": 32, "model": re.search(r"set model: (\w+)", message)[1]},
    )
    yield Remedy(
        "backbones/timm.py",
        "follows from the data; remove it",
        timm,
        lambda: small(in_chans=3),
        lambda _: small(),
    )
    yield Remedy(
        "backbones/timm.py",
        "choose a size that is a multiple of",
        timm,
        lambda: {"size": 30, **vit(4)},
        lambda message: {"size": 8 * int(number(message, "a multiple of")), **vit(4)},
    )
    yield Remedy(
        "backbones/timm.py",
        "give one value or {}",
        timm,
        lambda: {**small(), "mean": [0.5, 0.5]},
        lambda message: {**small(), "mean": [0.5] * int(number(message, "one value or"))},
    )
    yield Remedy(
        "backbones/timm.py",
        "Add dynamic_img_size: true to options",
        timm,
        lambda: {"size": 48, **vit(16), "options": {"img_size": 224, "depth": 1}},
        lambda _: {"size": 48, **vit(16), "options": {"img_size": 224, "depth": 1, "dynamic_img_size": True}},
    )
    yield Remedy(
        "backbones/timm.py",
        "Remove img_size from options",
        timm,
        lambda: {"size": 64, "model": "cait_xxs24_224", "options": {"img_size": 224, "depth": 1}},
        lambda _: {"size": 64, "model": "cait_xxs24_224", "options": {"depth": 1}},
    )
    yield Remedy(
        "backbones/torchvision.py",
        "names pretrained weights",
        of_torchvision,
        lambda: {"model": "SqueezeNet1_1_Weights.DEFAULT"},
        saved_by_torchvision,
    )
    yield Remedy(
        "backbones/torchvision.py",
        "set the backbone's 'weights'",
        of_torchvision,
        lambda: {"model": "squeezenet1_1", "options": {"pretrained": True}},
        saved_by_torchvision,
    )


def weights() -> Iterator[Remedy]:
    yield Remedy(
        "backbones/weights.py",
        "Set the model, stem, options",
        timm,
        lambda: {**small(), "weights": Path(saved(image_size=16, **small(width=0.25)))},
        lambda _: {**small(width=0.25), "weights": Path("weights.pt")},
    )
    for words, wrong in (("does not exist{}. Give {}", "none.pt"), ("nor a file that can be", "tiny.yaml")):
        yield Remedy(
            FILES,
            words,
            timm,
            lambda wrong=wrong: {**small(), "weights": Path(wrong)},
            lambda _: {**small(), "weights": Path(saved(image_size=16, **small()))},
        )
    yield Remedy(FILES, "load it with torch and save only", timm, with_object, only_state_dict)
    yield Remedy(
        "backbones/weights.py",
        "Give a file with the weights themselves",
        timm,
        lambda: with_state(lambda state: {f"exp_avg.{name}": value for name, value in state.items()}),
        lambda _: with_state(dict),
    )
    yield Remedy(
        "backbones/weights.py",
        "take the original ones",
        timm,
        lambda: with_state(lambda state: {name: value.to(torch.int8) for name, value in state.items()}),
        lambda _: with_state(dict),
    )
    yield Remedy(
        "backbones/weights.py",
        "take an earlier checkpoint",
        timm,
        lambda: with_state(lambda state: {name: value * float("nan") for name, value in state.items()}),
        lambda _: with_state(dict),
    )
    yield Remedy("backbones/weights.py", "trained on square images", timm, lambda: grid(6), lambda _: grid(9))
    yield Remedy("backbones/weights.py", "Choose one: weights:", timm, two_prefixes, with_prefix)
    yield Remedy("backbones/weights.py", "or set options: {patch_size: {}}", timm, other_patches, own_patches)


REMEDIES = [*networks(), *weights()]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
