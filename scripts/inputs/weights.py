"""Weights from elsewhere: checkpoints of other programs, position embeddings, tags of timm."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inputs.case import (
    RUN,
    Cases,
    Judge,
    Outcome,
    Verdict,
    both,
    either,
    mentions,
    refuses,
    shorten,
    silent_about,
    succeeds,
)
from inputs.writing import Builder, fill, folder_recipe, recipe, together, write

CASES = Cases()
STATE = dict[str, Any]


def network(model: str = "test_resnet", **options: Any) -> STATE:
    """The tensors of a timm model with weights of its own."""
    import timm
    import torch

    torch.manual_seed(1)
    return timm.create_model(model, **{"num_classes": 0, **options}).state_dict()


def with_prefix(prefix: str, state: Mapping[str, Any]) -> STATE:
    return {prefix + name: value for name, value in state.items()}


def checkpoint(
    make: Callable[[], Any],
    file: str = "w.pth",
    model: str = "test_resnet",
    size: int = 32,
    options: str = "",
    weights: str = "",
) -> Builder:
    """A checkpoint, and a recipe that starts from it."""

    def build(folder: Path) -> None:
        content = make()
        if file.endswith(".safetensors"):
            from safetensors.torch import save_file

            save_file({name: value.contiguous() for name, value in content.items()}, folder / file)
        else:
            import torch

            torch.save(content, folder / file)
        fill(folder / "d", 12)
        spec = f"{{name: timm, model: {model}, weights: {weights or file}{options and ', '}{options}}}"
        folder_recipe(folder, size=size, backbone=spec)

    return build


# -- 4a: checkpoints of other programs ----------------------------------------------------------------


def loads(*patterns: str) -> Judge:
    """The weights fit, and the output names what was taken."""
    return mentions(*patterns, code=0)


CASES.add(
    "4a",
    "MoCo: module.encoder_q., .pth.tar",
    checkpoint(
        lambda: {
            "epoch": 200,
            "arch": "resnet",
            "state_dict": with_prefix("module.encoder_q.", network()) | with_prefix("module.queue.", {}),
        },
        "moco.pth.tar",
    ),
    loads("module.encoder_q"),
)
CASES.add(
    "4a",
    "DINO: teacher.backbone.",
    checkpoint(lambda: {"teacher": with_prefix("backbone.", network()), "epoch": 3}),
    loads("backbone"),
)
CASES.add(
    "4a",
    "student and teacher: both are listed",
    checkpoint(
        lambda: {
            "student": with_prefix("backbone.", network()),
            "teacher": with_prefix("backbone.", network()),
        }
    ),
    refuses("student", "teacher"),
)
CASES.add(
    "4a",
    "Lightning: .ckpt with backbone. and projection_head.",
    checkpoint(
        lambda: {
            "state_dict": with_prefix("backbone.", network()) | _projector("projection_head."),
            "pytorch-lightning_version": "2.4.0",
            "hyper_parameters": {"lr": 0.1},
        },
        "last.ckpt",
    ),
    loads("backbone"),
)
CASES.add(
    "4a",
    "data-parallel training: module., with a classifier",
    checkpoint(lambda: with_prefix("module.", network(num_classes=10)), "w.pt"),
    loads("module"),
)
CASES.add(
    "4a",
    "safetensors with encoder.",
    checkpoint(lambda: with_prefix("encoder.", network()), "w.safetensors"),
    loads("encoder"),
)
CASES.add(
    "4a",
    "encoder_q and encoder_k: both are listed",
    checkpoint(
        lambda: with_prefix("encoder_q.", network()) | with_prefix("encoder_k.", network()),
    ),
    refuses("encoder_q", "encoder_k"),
)
CASES.add(
    "4a",
    "weights: {path, prefix} chooses",
    checkpoint(
        lambda: with_prefix("encoder_q.", network()) | with_prefix("encoder_k.", network()),
        weights="{path: w.pth, prefix: encoder_k.}",
    ),
    succeeds(),
)
CASES.add(
    "4a",
    "a prefix that is not there",
    checkpoint(
        lambda: {"state_dict": with_prefix("backbone.", network())}, weights="{path: w.pth, prefix: bakbone.}"
    ),
    refuses("bakbone", r"'?\bbackbone\b"),
)
CASES.add(
    "4a",
    "three levels: model.module.backbone.",
    checkpoint(lambda: {"model": with_prefix("module.backbone.", network()), "optimizer": {"lr": 1}}),
    loads("module.backbone"),
)
CASES.add(
    "4a",
    "another model: nothing fits",
    checkpoint(lambda: {"state_dict": with_prefix("backbone.", network("test_efficientnet"))}),
    refuses("backbone|prefix"),
)
CASES.add(
    "4a",
    "settings of argparse in the checkpoint",
    checkpoint(
        lambda: {"args": __import__("argparse").Namespace(lr=1), "state_dict": network()}, "a.pth.tar"
    ),
    either(succeeds(), refuses("Namespace|argparse")),
)


class Danger:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("open('executed', 'w').close()",))


def dangerous(folder: Path) -> None:
    fill(folder / "d", 12)
    write(folder / "w.ckpt", pickle.dumps({"state_dict": Danger()}))
    folder_recipe(folder, backbone="{name: timm, model: test_resnet, weights: w.ckpt}", size=32)


def not_executed(outcome: Outcome) -> Verdict:
    return Verdict(not (outcome.folder / "executed").exists(), "the file's code has run")


CASES.add(
    "4a",
    "a .ckpt that holds code",
    dangerous,
    both(not_executed, refuses("cannot be read|plain|code|unsafe")),
)


def weights_of_file(outcome: Outcome) -> Verdict:
    """After one step of almost no length the weights are still those of the checkpoint."""
    from safetensors.numpy import load_file

    path = outcome.folder / "o/backbone/model.safetensors"
    if not path.is_file():
        return Verdict(False, shorten(outcome.call(0).text))
    mine, theirs = load_file(path), np.load(outcome.folder / "conv1.npy")
    difference = np.abs(next(v for k, v in mine.items() if v.shape == theirs.shape) - theirs).max()
    return Verdict(bool(difference < 1e-5), f"the first convolution differs by {difference:.2g}")


def _projector(prefix: str) -> STATE:
    import torch

    return {f"{prefix}0.weight": torch.randn(8, 8), f"{prefix}0.bias": torch.randn(8)}


def exact(folder: Path) -> None:
    checkpoint(lambda: {"state_dict": with_prefix("module.encoder_q.", network())})(folder)
    first = next(value for value in network().values() if value.ndim == 4)
    np.save(folder / "conv1.npy", first.numpy())


CASES.add(
    "4a",
    "the weights are those of the file",
    exact,
    weights_of_file,
    (*RUN, "--set", "optimizer.lr=0.0000000001"),
)

# -- 4b: position embeddings and channels -------------------------------------------------------------

RESAMPLING = r"resampl|interpolat|resiz"
POSITION = r"position|pos_embed"


def transformer(size: int, options: str = "", **trained: Any) -> Builder:
    """A small vision transformer with weights of another image size (``img_size``)."""
    model = trained.pop("model", "test_vit")
    return checkpoint(lambda: network(model, **trained), size=size, model=model, options=options)


CASES.add("4b", "from 224 to 96", transformer(96, img_size=224), loads(RESAMPLING, POSITION))
CASES.add("4b", "from 64 up to 160", transformer(160, img_size=64), loads(RESAMPLING, POSITION))
CASES.add(
    "4b",
    "with dynamic_img_size",
    transformer(96, "options: {dynamic_img_size: true}", img_size=224),
    loads(RESAMPLING, POSITION),
)
CASES.add(
    "4b",
    "from 518 to 98 in patches of 14",
    transformer(98, "options: {patch_size: 14}", img_size=518, patch_size=14),
    loads(RESAMPLING, POSITION),
)
CASES.add(
    "4b",
    "register tokens without a class token",
    transformer(96, model="test_vit2", img_size=224),
    loads(RESAMPLING, POSITION),
)
CASES.add(
    "4b",
    "the grid of the images alone, without prefix tokens",
    transformer(96, "options: {no_embed_class: true}", img_size=224, no_embed_class=True),
    loads(RESAMPLING, POSITION),
)
CASES.add(
    "4b",
    "a grid that is not square",
    transformer(96, img_size=(64, 128)),
    either(loads(RESAMPLING, POSITION), refuses(POSITION, "square|grid")),
)
CASES.add(
    "4b",
    "another patch size",
    transformer(96, "options: {patch_size: 8}", img_size=224),
    refuses("patch"),
)
CASES.add(
    "4b",
    "behind a prefix, in a container",
    checkpoint(
        lambda: {"teacher": with_prefix("backbone.", network("test_vit", img_size=224))},
        model="test_vit",
        size=96,
    ),
    loads(RESAMPLING, POSITION),
)


def grey(model: str, size: int = 28, **trained: Any) -> Builder:
    """Weights of three channels, and images of one."""
    return together(
        checkpoint(lambda: network(model, **trained), model=model),
        lambda folder: recipe(
            folder,
            "fashion_mnist_sample",
            size=size,
            backbone=f"{{name: timm, model: {model}, weights: w.pth}}",
        ),
    )


CASES.add("4b", "three channels to one, convolutions", grey("test_resnet"), loads("channel|grey", r"sum"))
CASES.add("4b", "three channels to one, patches", grey("test_vit", 32), loads("channel|grey", r"sum"))


def one_channel(folder: Path) -> None:
    checkpoint(lambda: network(in_chans=1))(folder)


CASES.add("4b", "one channel to three", one_channel, either(loads("channel"), refuses("channel")))

# -- 4c: pretrained tags and hub names ----------------------------------------------------------------


def with_model(model: str, extra: str = "", kind: str = "timm") -> Builder:
    def build(folder: Path) -> None:
        fill(folder / "d", 12)
        folder_recipe(folder, backbone=f"{{name: {kind}, model: '{model}'{extra and ', '}{extra}}}", size=32)

    return build


def refuses_name(*patterns: str) -> Judge:
    """Refused for what it is, without the advice to train the plain architecture in its place."""
    return both(refuses(*patterns), silent_about("Did you mean 'resnet"))


TAG = r"\btags?\b|pretrained|hub"
CASES.add("4c", "resnet50.a1_in1k", with_model("resnet50.a1_in1k"), refuses_name("a1_in1k", TAG))
CASES.add(
    "4c",
    "a tag with two parts",
    with_model("vit_tiny_patch16_224.augreg_in21k_ft_in1k"),
    refuses_name("augreg_in21k", TAG),
)
CASES.add(
    "4c",
    "a tag with a small stem",
    with_model("resnet18.fb_swsl_ig1b_ft_in1k", "stem: small"),
    refuses_name("fb_swsl", TAG),
)
CASES.add("4c", "a tag that timm lacks", with_model("resnet18.a9_in9k"), refuses_name("a9_in9k", TAG))
CASES.add(
    "4c",
    "hf_hub: with a tag",
    with_model("hf_hub:timm/resnet18.a1_in1k"),
    refuses_name(r"hf_hub", r"\bhub\b|pretrained|download"),
)
CASES.add(
    "4c",
    "hf-hub: of another owner",
    with_model("hf-hub:someone/my-resnet"),
    refuses_name(r"hf-hub", r"\bhub\b|pretrained|download"),
)
CASES.add("4c", "owner/name", with_model("timm/resnet18.a1_in1k"), refuses_name("a1_in1k", TAG))
CASES.add(
    "4c",
    "local-dir:",
    with_model("local-dir:weights"),
    refuses_name("local-dir", "weights"),
)
CASES.add(
    "4c",
    "an address",
    with_model("https://huggingface.co/timm/resnet18.a1_in1k"),
    refuses_name("https", r"\bhub\b|pretrained|download|address|URL"),
)
CASES.add(
    "4c",
    "a tag as weights",
    with_model("resnet18", "weights: resnet18.a1_in1k"),
    refuses_name("a1_in1k", TAG),
)
CASES.add(
    "4c",
    "a hub name as weights",
    with_model("resnet18", "weights: 'hf_hub:timm/resnet18.a1_in1k'"),
    refuses_name("hf_hub", TAG),
)
CASES.add(
    "4c",
    "options: {pretrained: true}",
    with_model("resnet18", "options: {pretrained: true}"),
    refuses_name("pretrained"),
)
