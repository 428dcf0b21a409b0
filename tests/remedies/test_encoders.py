"""Remedies of messages about encoders from elsewhere and pretrained weights."""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from contrastive.backbones import Timm
from contrastive.commands.compare import candidates
from contrastive.commands.embed import embed
from contrastive.commands.export import export
from contrastive.optimizers import SGDPart
from contrastive.registry import load_registry
from contrastive.runs import load_encoder
from tests.support.hub_cache import HubCache
from tests.support.remedies import Remedy
from tests.support.tiny import RECIPE, write_data

NAME = "resnet10t.c3_in1k"
HUB = f"hf_hub:timm/{NAME}"


def data() -> dict[str, Any]:
    root = Path("images")
    if not root.is_dir():
        write_data(root, train=2, test=1)
    return {"dataset": {"name": "image_folder", "root": str(root)}}


def weights_of(model: str) -> str:
    path = Path(f"{model}.pt")
    torch.save(Timm(3, 64, model).net.state_dict(), path)
    return str(path)


@contextmanager
def hub() -> Iterator[HubCache]:
    """A cache of the hub that holds one network, and no network to download from."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        cache = HubCache(Path("hub").absolute(), monkeypatch)
        if not cache.folder.is_dir():
            cache.add(NAME)
        yield cache


def backbone(arguments: dict[str, Any]) -> None:
    with hub():
        Timm(3, 64, **arguments)


def encoder(arguments: tuple[str, dict[str, Any]]) -> None:
    text, overrides = arguments
    with hub():
        load_encoder(text, load_registry(), overrides)


def embedding(output: str) -> None:
    with hub():
        embed(NAME, "features.parquet", output=output, overrides=data())


def run_export(overrides: list[str]) -> None:
    Timm(3, 64, "resnet10t").export("run/backbone")
    Path("run/recipe.yaml").write_text(RECIPE.format(root="images"))
    export("run", Path(tempfile.mkdtemp(dir=".")), overrides=overrides)


def comparison(target: str) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(candidates, "shipped_recipes", lambda: {"resnet10t": ""})
        candidates._is_stock(target)


def optimizer(options: dict[str, Any]) -> None:
    SGDPart(lr=0.1, **options).build(torch.nn.Linear(2, 2), 256)


PRETRAINED, STOCK = "backbones/pretrained.py", "runs/stock.py"
REMEDIES = [
    Remedy(
        PRETRAINED,
        "which has no tags; set pretrained: true",
        backbone,
        {"model": HUB, "pretrained": "c3_in1k"},
        {"model": HUB, "pretrained": True},
    ),
    Remedy(
        PRETRAINED,
        "; set weights to a file",
        backbone,
        {"model": "darknet17", "pretrained": True},
        lambda _: {"model": "darknet17", "weights": Path(weights_of("darknet17"))},
    ),
    Remedy(
        PRETRAINED,
        "or copy the cache of a machine that has them",
        backbone,
        {"model": "resnet18", "pretrained": "a1_in1k"},
        lambda _: _copy_cache("resnet18.a1_in1k"),
    ),
    Remedy(
        "backbones/timm.py",
        "is a repository of pretrained weights; set pretrained: true",
        backbone,
        {"model": HUB},
        {"model": HUB, "pretrained": True},
    ),
    Remedy(
        "backbones/timm.py",
        "weights and pretrained are both set; remove one",
        backbone,
        lambda: {"model": "resnet10t", "pretrained": True, "weights": Path(weights_of("resnet10t"))},
        {"model": "resnet10t", "pretrained": True},
    ),
    Remedy(
        "backbones/timm.py",
        "; set stem: standard",
        backbone,
        {"model": "resnet10t", "pretrained": True, "stem": "small"},
        {"model": "resnet10t", "pretrained": True, "stem": "standard"},
    ),
    Remedy(
        "backbones/timm.py",
        "Set model: hf_hub:OWNER/NAME and pretrained: true",
        backbone,
        {"model": f"timm/{NAME}"},
        {"model": HUB, "pretrained": True},
    ),
    Remedy(
        "backbones/timm.py",
        "with the pretrained weights of the tag",
        backbone,
        {"model": NAME},
        {"model": "resnet10t", "pretrained": "c3_in1k"},
    ),
    Remedy(
        "backbones/timm.py",
        "set 'pretrained' of the backbone",
        backbone,
        {"model": "resnet10t", "options": {"pretrained_cfg": "c3_in1k"}},
        {"model": "resnet10t", "pretrained": "c3_in1k"},
    ),
    Remedy("commands/export.py", "is copied as it is", run_export, ["train.seed=1"], []),
    Remedy("commands/embed.py", "has no head, so it has no z", embedding, "z", "h"),
    Remedy(
        "compare/candidates.py",
        "is a shipped recipe and a timm model",
        comparison,
        "resnet10t",
        "resnet10t.c3_in1k",
    ),
    Remedy(
        "optimizers/layers.py",
        "does not name its layers",
        optimizer,
        {"layer_decay": 0.5},
        {},
    ),
    Remedy(
        "runs/encoders.py",
        "is a folder of images, not an encoder",
        encoder,
        lambda: (data()["dataset"]["root"], {}),
        lambda message: ("resnet10t", shlex.split(re.search("and add --set (.*)[.]", message)[1])),
    ),
    Remedy(
        "runs/encoders.py",
        "; name {}.",
        encoder,
        lambda: ("resnet", data()),
        lambda _: ("resnet10t", data()),
    ),
    Remedy(
        STOCK,
        "come without the name of their network",
        encoder,
        lambda: (weights_of("resnet10t"), data()),
        lambda _: (weights_of("resnet10t"), {**data(), "backbone.model": "resnet10t"}),
    ),
    Remedy(
        STOCK,
        "has no data set of its own",
        encoder,
        (NAME, {}),
        lambda _: (NAME, data()),
    ),
    Remedy(
        STOCK,
        "is not trained, so this has no effect; remove it",
        encoder,
        lambda: (NAME, {**data(), "train.epochs": 2}),
        lambda _: (NAME, data()),
    ),
]


def _copy_cache(name: str) -> dict[str, Any]:
    with hub() as cache:
        cache.add(name)
    model, _, tag = name.partition(".")
    return {"model": model, "pretrained": tag}


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy: Remedy):
    remedy.follow()
