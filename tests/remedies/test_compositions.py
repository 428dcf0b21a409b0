"""Remedies of messages about parts that do not fit each other, the data, or their parameters."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import re
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import contrastive.backbones.weight_files as weight_files_module
import contrastive.runs.job as job
from contrastive import hookimpl
from contrastive.augmentations import (
    Flip,
    Key,
    Operation,
    Pipeline,
    RandomResizedCrop,
    Rotation,
    TorchvisionTransform,
)
from contrastive.backbones import Timm
from contrastive.backbones import Torchvision as TorchvisionBackbone
from contrastive.build import build
from contrastive.heads import MLP
from contrastive.parts import Loss
from contrastive.recipe import load_recipe
from contrastive.registry import Registry, load_registry
from tests.support.attempts import TINY, composed, overridden, registry, warned
from tests.support.losses import NeedsLabels, OnePositive
from tests.support.remedies import Remedy

PREDICTOR = "predictor={name: mlp, dims: [16, 8]}"
BYOL = ["loss=regression", "negatives=none", "target=ema", PREDICTOR]
CROPS = "{times: 2, pipeline: {name: simclr, size: %d}}"
TWO_SIZES = f"augmentation={{name: views, of: [{CROPS % 16}, {CROPS % 12}]}}"
VIT = "{name: timm, model: vit_tiny_patch16_224, stem: standard, options: {patch_size: 4, depth: 1}}"
FILES = "backbones/weight_files.py"
RULES, NEEDS = "build/rules.py", "parts/base.py"


def adding(*sets: str, to: list[str]) -> list[str]:
    return [*to, *sets]


def number(message: str, before: str) -> str:
    """The number after some words of a message."""
    return re.search(rf"{re.escape(before)} (\d+)", message)[1]


def listed(message: str, before: str) -> str:
    """The list after some words of a message."""
    return re.search(rf"{before} (\[[^]]*\])", message)[1]


class TwoProcesses(Loss):
    """Trains in several processes alone."""

    needs = frozenset({"processes"})

    def compare(self, comparison):
        return comparison.rows(1.0).positives.mean


class Strangers:
    @staticmethod
    @hookimpl
    def register_loss(register):
        for name, part in (("labels", NeedsLabels), ("one", OnePositive), ("two", TwoProcesses)):
            register(name, part)


def with_strangers(sets: list[str]) -> None:
    build(load_recipe(TINY, sets, strangers()))


def strangers() -> Registry:
    own = load_registry()
    own.add(Strangers(), "strangers", "1.0")
    return own


def in_processes(count: int) -> None:
    recipe = load_recipe(TINY, ["loss=two"], strangers())
    with mock.patch.object(job, "world_size", return_value=count):
        job.Job._require_processes(SimpleNamespace(recipe=recipe))


def pictures(folder: str, *sizes: tuple[int, int], count: int = 20) -> str:
    """``dataset={...}`` of new images whose sizes (width, height) alternate."""
    Path(folder).mkdir(exist_ok=True)
    for index in range(count):
        size = sizes[index % len(sizes)]
        pixels = np.random.default_rng(index).integers(0, 255, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(Path(folder, f"{index}.png"))
    return f"dataset={{name: image_folder, root: {folder}}}"


def varied(augmentation: str) -> None:
    composed([pictures("varied", (16, 16), (20, 18)), f"augmentation={augmentation}", "evaluate.linear=null"])


def of_a_transformer(sets: list[str]) -> None:
    lines = Path(TINY).read_text().splitlines()
    text = [f"backbone: {VIT}" if line.startswith("backbone:") else line for line in lines]
    Path("vit.yaml").write_text("\n".join(text))
    build(load_recipe("vit.yaml", sets, registry()))


def rotated(operations: list[Operation]) -> None:
    Pipeline(operations)(torch.zeros(2, 3, 20, 16, dtype=torch.uint8), np.arange(2), Key(0, 0, 0))


IMAGE = torch.zeros(3, 20, 16, dtype=torch.uint8)


def cropped(operations: list[Operation]) -> None:
    Pipeline(operations).crop(IMAGE, 5, Key(0, 0, 0))


def divided(way: str) -> str:
    pipeline = Pipeline([RandomResizedCrop(8)])
    if way == "before":
        return warned(
            lambda: pipeline.after(pipeline.before(IMAGE, 5, Key(0, 0, 0))[None], np.array([5]), Key(0, 0, 0))
        )
    return warned(lambda: pipeline.in_worker(True))


def oblong(augmentation: str) -> None:
    composed([pictures("oblong", (20, 16)), f"augmentation={augmentation}", "evaluate.linear=null"])


# -- backbones --------------------------------------------------------------------------------------------


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


def read(path: Path) -> None:
    weight_files_module.read_weights(path)


STATE = {"layer.weight": torch.ones(2, 2)}


def plain(name: str = "w.pt") -> Path:
    """A file with a state dict, as its remedy leaves it."""
    (save_file if name.endswith(".safetensors") else torch.save)(STATE, name)
    return Path(name)


def content(start: bytes, name: str = "w.pt") -> Callable[[], Path]:
    """A file that begins so."""
    return lambda: Path(name).write_bytes(start + bytes(600)) and Path(name)


def packed(name: str, opening: Callable[..., Any]) -> tuple[Callable[[], Path], Callable[[str], Path]]:
    """A file that is compressed, and what unpacks it."""

    def pack() -> Path:
        with opening(name, "wb") as stream:
            stream.write(plain("inner.pt").read_bytes())
        return Path(name)

    def unpack(_: str) -> Path:
        with opening(name, "rb") as stream:
            Path("w.pt").write_bytes(stream.read())
        return Path("w.pt")

    return pack, unpack


def archived(kind: str) -> Callable[[], Path]:
    """An archive of a file of weights."""

    def make() -> Path:
        plain("inner.pt")
        if kind == "zip":
            with zipfile.ZipFile("w.pt", "w") as archive:
                archive.write("inner.pt")
        else:
            with tarfile.open("w.pt", "w") as archive:
                archive.add("inner.pt")
        return Path("w.pt")

    return make


def unpacked(_: str) -> Path:
    os.remove("inner.pt")
    if tarfile.is_tarfile("w.pt"):
        with tarfile.open("w.pt") as archive:
            archive.extractall(filter="data")
    else:
        with zipfile.ZipFile("w.pt") as archive:
            archive.extractall()
    return Path("inner.pt")


def in_folder(*names: str) -> Callable[[], Path]:
    def make() -> Path:
        for name in names:
            Path("folder", name).parent.mkdir(parents=True, exist_ok=True)
            plain(f"folder/{name}")
        return Path("folder")

    return make


def named(words: str) -> Callable[[str], Path]:
    """The path after some words of a message."""
    return lambda message: Path(re.search(rf"{words} ([^\s:,;]*[^\s:,;.])", message)[1])


def renamed(message: str) -> Path:
    (old,) = Path().glob("w.*")
    return old.rename(re.search(r"rename it to (\S+?)\.$", message)[1])


def as_other(name: str, other: str) -> Callable[[], Path]:
    """A file with the name of another kind."""
    return lambda: plain(name).rename(other)


def merged(_: str) -> Path:
    """One file of all shards in the folder."""
    states = [torch.load(path, weights_only=True) for path in Path("folder").iterdir()]
    torch.save({name: value for state in states for name, value in state.items()}, "merged.pt")
    return Path("merged.pt")


def shard() -> Path:
    in_folder("w-00001-of-00002.bin", "w-00002-of-00002.bin")()
    return Path("folder/w-00001-of-00002.bin")


def scripted() -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), "w.pt")
    return Path("w.pt")


def program() -> Path:
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), "w.pt2")
    return Path("w.pt2").rename("w.pt")


def of_old_torch() -> Path:
    with tarfile.open("w.pt", "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            Path(name).write_text(name)
            archive.add(name)
    return Path("w.pt")


def saved_as_told(message: str) -> Path:
    """The command that a message quotes is run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(re.search(r"torch\.save\(.*\)", message)[0], {"torch": torch})
    return Path("weights.pth")


def opened_by(is_allowed: bool) -> None:
    path, plain_open = plain(), Path.open

    def refuse(*arguments: Any, **more: Any) -> Any:
        if not is_allowed:
            raise PermissionError(13, "Permission denied")
        return plain_open(*arguments, **more)

    with mock.patch.object(Path, "open", refuse):
        read(path)


def weight_files() -> Iterator[Remedy]:
    def case(words: str, wrong: Any, right: Any = lambda _: plain()) -> Remedy:
        return Remedy(FILES, words, read, wrong, right)

    for words, start in (
        ("is a 7z archive", b"7z\xbc\xaf"),
        ("is a RAR archive", b"Rar!"),
        ("an HDF5 file", b"\x89HDF"),
        ("a NumPy array", b"\x93NUMPY"),
        ("a GGUF file", b"GGUF"),
        ("compressed with zstd", b"\x28\xb5\x2f\xfd"),
        ("download the file itself", b"<!DOCTYPE html>"),
        ("or save a state dict with torch.save", b"\x80\x02damaged"),
    ):
        yield case(words, content(start))
    yield case("compressed with gzip", *packed("w.pt.tar", gzip.open))
    yield case("compressed with bzip2", *packed("w.pt.tar", bz2.open))
    yield case("compressed with xz", *packed("w.pt.tar", lzma.open))
    yield case("ZIP archive that torch.save did not write", archived("zip"), unpacked)
    yield case("is a tar archive", archived("tar"), unpacked)
    yield case("download or copy it again", lambda: Path("w.pt").write_bytes(b"") or Path("w.pt"))
    yield case("Merge the shards into one file", shard, merged)
    yield case("set weights to that folder", in_folder("backbone/model.safetensors"), named("encoder is in"))
    yield case("Set weights to the file in it", in_folder("w.pt"), named("the file in it:"))
    yield case("Set weights to one of the files", in_folder("a.pt", "b.pt"), named("such as"))
    yield Remedy(FILES, "check its permissions", opened_by, False, True)
    yield case("rename it to {}.safetensors", as_other("a.safetensors", "w.pt"), renamed)
    yield case("rename it to {}.pth", as_other("a.pt", "w.safetensors"), renamed)
    yield case("a TorchScript program", scripted, saved_as_told)
    yield case("that torch.export wrote", program, saved_as_told)
    yield case("the format of torch before 0.1.10", of_old_torch)
    yield case("It holds no other file of weights", in_folder(".hidden/w.pt"))


def exported(folder: str, model: str = "resnet10t") -> str:
    Timm(3, 32, model).export(folder)
    return folder


def from_address(message: str) -> dict[str, Any]:
    """What "Set model: X and weights: FILE" asks for, with a file that was saved before."""
    model = re.search(r"[Ss]et model: (\w+) and weights", message)[1]
    return {"size": 32, "model": model, "weights": Path(saved(model=model))}


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


def transformed(name_and_options: tuple[str, dict[str, Any]]) -> None:
    operation = TorchvisionTransform(*name_and_options)
    operation.render(torch.rand(2, 3, 16, 16), {"seed": np.array([1, 2], dtype=np.uint64)})


def watch(sets: list[str]) -> str:
    """The causes of a collapse that the composition may have."""
    from contrastive_byol import CollapseWatch, causes

    warnings: list[str] = []
    _, parts = build(load_recipe(TINY, sets, registry()))
    optimizer = parts.optimizer.build(parts.method, 16)
    run = SimpleNamespace(method=parts.method, warn=warnings.append)
    CollapseWatch().run_started(run)
    return " ".join([*warnings, *causes(parts.method, optimizer.param_groups)])


def collapsing(words: str, wrong: list[str], right: list[str]) -> Remedy:
    """A cause of collapse; the last sentence, about the learning rate, is always there."""
    high = "The learning rate"
    return Remedy("contrastive_byol.py", words, watch, adding(*wrong, to=BYOL), adding(*right, to=BYOL), high)


BN = "predictor.batch_norm=hidden"
DECAY = "optimizer.weight_decay=1e-4"
GROUPS = "optimizer.groups=[{match: 'predictor.*', %s}]"


def remedies() -> Iterator[Remedy]:
    def rule(
        words: str, wrong: list[str], right: list[str] | Callable[[str], list[str]], **more: Any
    ) -> Remedy:
        return Remedy(RULES, words, composed, wrong, right, **more)

    def need(words: str, wrong: list[str], right: list[str]) -> Remedy:
        return Remedy(NEEDS, words, with_strangers, wrong, right)

    yield rule(
        "lower it to {} or less",
        ["train.batch_size=1000"],
        lambda message: [f"train.batch_size={number(message, 'lower it to')}"],
    )
    yield rule(
        "lower train.accumulate to {} or less",
        ["train.accumulate=100"],
        lambda message: [f"train.accumulate={number(message, 'lower train.accumulate to')}"],
    )
    yield rule(
        "lower both it and train.accumulate",
        ["train.batch_size=1000", "train.accumulate=200"],
        ["train.batch_size=50", "train.accumulate=2"],
    )
    yield Remedy(RULES, "{} with random_resized_crop", varied, "[flip]", "{name: simclr, size: 16}")
    yield Remedy(
        RULES,
        "end with random_resized_crop, or use simclr",
        oblong,
        "[flip]",
        "{name: views, of: [{times: 2, pipeline: [flip, {name: random_resized_crop, size: 16}]}]}",
    )
    yield rule(
        "names a view twice",
        ["views.online=[0, 0]"],
        lambda message: [f"views.online={listed(message, 'use')}"],
    )
    yield Remedy(
        RULES,
        "Give all views the same size",
        of_a_transformer,
        [TWO_SIZES],
        [TWO_SIZES, "backbone.options.dynamic_img_size=true"],
    )
    yield rule(
        "give both the same width", [*BYOL, "predictor.dims=[16, 4]"], [*BYOL, "predictor.dims=[16, 8]"]
    )
    stopping = "callbacks=[{name: early_stopping, figure: linear_top1}]"
    yield rule("Name one of these, or set at: every", [stopping], [stopping, "evaluate.linear.at=every"])
    yield rule(
        "no online view is paired",
        ["views={online: [0], target: [0]}"],
        ["views={online: [0], target: [1]}"],
    )
    yield rule(
        "has no other target view",
        ["views.target=[1]"],
        lambda message: ["views.target=[1]", f"views.online={listed(message, 'set it to')}"],
    )
    yield rule("remove it or the others", ["negatives=[none, in_batch]"], ["negatives=[in_batch]"])
    yield rule("to study the collapse", ["negatives=none"], ["negatives=none", "allow=[collapse]"])
    yield need("set negatives: in_batch", ["negatives=none"], ["negatives=in_batch"])
    yield need("set positives: label", ["loss=labels"], ["loss=labels", "positives=label"])
    heads = ["head.dims=[16, 128]", *BYOL[:3]]
    yield need("predictor: {name: mlp}", heads, [*heads, "predictor={name: mlp}"])
    yield need("set target: ema, or", [*BYOL, "target=shared"], [*BYOL, "target=stop_grad"])
    yield need("set positives: image, and pair", ["loss=one", "positives=label"], ["loss=one"])
    yield Remedy(NEEDS, "run with --processes 2", in_processes, 1, 2)
    # Backbones
    yield Remedy(
        "backbones/probe.py",
        "Choose another image size or model",
        of_torchvision,
        lambda: {"model": "alexnet", "size": 16},
        lambda _: {"model": "alexnet", "size": 64},
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
        "Set model to a plain name and weights",
        timm,
        lambda: {"model": "hf_hub:someone/encoder"},
        lambda _: {"size": 32, "model": "resnet10t", "weights": Path(saved(model="resnet10t"))},
    )
    yield Remedy(
        "backbones/timm.py",
        "Set model: {} and weights: FILE",
        timm,
        lambda: {"model": "resnet10t.c3_in1k"},
        from_address,
    )
    yield Remedy(
        "backbones/timm.py",
        "and model to the architecture that its config.json names",
        timm,
        lambda: {"model": f"local-dir:{exported('encoder')}"},
        from_folder,
    )
    yield Remedy(
        "backbones/timm.py", "is timm's old name", timm, lambda: {"model": "tv_resnet34"}, from_address
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
        "is not allowed; set 'weights'",
        timm,
        lambda: {"model": "resnet10t", "options": {"pretrained_cfg": "c3_in1k"}},
        lambda _: {"size": 32, "model": "resnet10t", "weights": Path(saved(model="resnet10t"))},
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
        lambda: {"model": "ResNet18_Weights.DEFAULT"},
        lambda _: {"model": "resnet18", "weights": Path(saved(model="resnet18"))},
    )
    yield Remedy(
        "backbones/torchvision.py",
        "set the backbone's 'weights'",
        of_torchvision,
        lambda: {"model": "resnet18", "options": {"pretrained": True}},
        lambda _: {"model": "resnet18", "weights": Path(saved(model="resnet18"))},
    )
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
    yield from weight_files()
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
    yield Remedy(
        "build/memory_guard.py",
        "reduce its size",
        composed,
        ["head.dims=[4000000, 4000000]"],
        ["head.dims=[16, 8]"],
    )
    # Other parts
    file = "augmentations/pipeline.py"
    yield Remedy(file, "call before() on each image", divided, "in_worker", "before")
    yield Remedy(
        file, "start the pipeline with an operation", cropped, [Flip()], [RandomResizedCrop(8), Flip()]
    )
    crop, turn = RandomResizedCrop(16), Rotation()
    yield Remedy(
        "augmentations/rotation.py", "put random_resized_crop before it", rotated, [turn], [crop, turn]
    )
    yield Remedy(
        "augmentations/sequence.py",
        "name it alone, without a list",
        composed,
        ["augmentation=[{name: simclr, size: 16}]"],
        ["augmentation={name: simclr, size: 16}"],
    )
    normalize = ("Normalize", {"mean": [0.5], "std": [0.25]})
    yield Remedy(
        "augmentations/torchvision.py",
        "set the backbone's mean and std",
        lambda attempt: attempt(),
        lambda: lambda: transformed(normalize),
        lambda _: lambda: timm({**small(), "mean": [0.5], "std": [0.25]}),
    )
    yield Remedy(
        "augmentations/torchvision.py",
        "the images are tensors already; remove it",
        composed,
        ["augmentation=[{name: torchvision, transform: ToTensor}, {name: random_resized_crop, size: 16}]"],
        ["augmentation={name: views, of: [{times: 2, pipeline: [{name: random_resized_crop, size: 16}]}]}"],
    )
    yield Remedy("heads/mlp.py", "give at least one width", lambda dims: MLP(8, dims) and None, [], [8])
    yield Remedy(
        "heads/mlp.py",
        "set batch_norm: all, or remove last_affine",
        composed,
        ["head.last_affine=none", "head.batch_norm=hidden"],
        ["head.last_affine=none", "head.batch_norm=all"],
    )
    two_groups = "optimizer.groups=[{match: '%s', lr_scale: 2}, {match: '%s', lr_scale: 3}]"
    yield Remedy(
        "optimizers/groups.py",
        "put this one first",
        composed,
        [two_groups % ("backbone.*", "backbone.net.conv1.*")],
        [two_groups % ("backbone.net.conv1.*", "backbone.*")],
    )
    yield Remedy(
        "optimizers/groups.py",
        "is frozen or an average of others",
        composed,
        ["target=ema", "optimizer.groups=[{match: 'target.*', lr_scale: 2}]"],
        ["target=ema", "optimizer.groups=[]"],
    )
    group = "optimizer.groups=[{match: 'backbone.*', statistics: moving%s}]"
    yield Remedy(
        "optimizers/groups.py",
        "add freeze: true or drop it",
        overridden,
        [group % ""],
        [group % ", freeze: true"],
    )
    yield Remedy(
        "contrastive_moco.py",
        "set of: {name: ema}",
        composed,
        ["target={name: split_bn, of: shared}"],
        ["target={name: split_bn, of: {name: ema}}"],
    )
    # Collapse
    yield collapsing(
        "set target: ema, or target: stop_grad", ["target=shared", "allow=[collapse]", BN, DECAY], [BN, DECAY]
    )
    yield collapsing(
        "There is no predictor",
        ["predictor=none", "allow=[collapse]", DECAY],
        ["predictor={name: mlp, dims: [16, 8], batch_norm: hidden}", DECAY],
    )
    yield collapsing("The predictor never learns", [GROUPS % "freeze: true", BN, DECAY], [BN, DECAY])
    yield collapsing(
        "raise its lr_scale in", [GROUPS % "lr_scale: 0.1", BN, DECAY], [GROUPS % "lr_scale: 10", BN, DECAY]
    )
    without = ["predictor.batch_norm=none", "head.batch_norm=none", DECAY]
    yield collapsing(
        "set batch_norm: hidden in both",
        without,
        ["predictor.batch_norm=hidden", "head.batch_norm=hidden", DECAY],
    )
    yield collapsing(
        "raise it to 0.99, or the", ["target.momentum=0.5", BN, DECAY], ["target.momentum=0.99", BN, DECAY]
    )
    yield collapsing("Nothing decays the weights", [BN, "optimizer.weight_decay=0"], [BN, DECAY])
    yield collapsing(
        "set target.momentum to 0.99, and schedule",
        ["target={name: ema, momentum: 1}", BN, DECAY],
        ["target={name: ema, momentum: 0.99, schedule: cosine}", BN, DECAY],
    )


REMEDIES = [*remedies()]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
