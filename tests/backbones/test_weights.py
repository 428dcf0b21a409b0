"""Weights from elsewhere: prefixes, containers, position embeddings, channels, and what is refused."""

import argparse
import gzip
import json
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from contrastive.backbones import Timm, Torchvision
from contrastive.backbones.weights import WeightsFile, load_weights, read_weights
from contrastive.errors import UsageError
from contrastive.text import quantity

SMALL = {"model": "resnet10", "stem": "small", "options": {"width": 0.125}}
VIT = {"model": "vit_tiny_patch16_224", "options": {"depth": 1}}
FILE = Path("w.pth")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(1)
    return Timm(3, 32, **SMALL).eval()


@pytest.fixture(scope="module")
def vit():
    """A vision transformer for 224 pixels with the names and positions of a pretrained one."""
    torch.manual_seed(2)
    net = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=10)
    torch.nn.init.normal_(net.pos_embed)
    return net.eval()


def prefixed(state, *prefixes):
    """The weights under each prefix, the first as they are and the others changed."""
    return {f"{p}{name}": value + i for i, p in enumerate(prefixes) for name, value in state.items()}


def assert_same(net, state):
    own = net.state_dict()
    assert all(torch.equal(own[name], value) for name, value in state.items() if name in own)


PREFIXES = [
    "module.", "module.encoder_q.", "backbone.", "encoder.", "teacher.backbone.", "student.backbone.",
    "model.", "net.", "_orig_mod.", "module._orig_mod.backbone.", "nobody.ever.thought.of.this.",
]  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_is_derived_from_the_names_and_reported(source, prefix):
    state = source.net.state_dict()
    torch.save(
        {"state_dict": {**prefixed(state, prefix), "queue": torch.zeros(3), "head.weight": torch.ones(2)}},
        FILE,
    )
    backbone = Timm(3, 32, weights=FILE, **SMALL)
    assert_same(backbone.net, state)
    assert backbone.notes == (f"weights: w.pth: took the weights under 'state_dict.{prefix.rstrip('.')}'",)


@pytest.mark.parametrize(
    "wrap",
    [
        *(
            lambda s, k=k: {k: s}
            for k in ("state_dict", "model", "teacher", "student", "model_state_dict", "net", "ema")
        ),
        lambda s: {
            "epoch": 3,
            "model": {"state_dict": s},
            "optimizer": {"state": {0: {"step": torch.ones(1)}}},
        },
        lambda s: {"checkpoint": {"model": {"module": s}}, "loss": [1.0, 2.0]},
    ],
)
@pytest.mark.parametrize("name", ["w.pth.tar", "w.ckpt", "w.pt", "W.PTH"])
def test_containers_of_every_kind_of_file(source, wrap, name):
    state = source.net.state_dict()
    torch.save(wrap(prefixed(state, "module.")), name)
    assert_same(Timm(3, 32, weights=Path(name), **SMALL).net, state)


def test_several_networks_are_listed_and_one_is_chosen(source):
    state = source.net.state_dict()
    torch.save({"state_dict": prefixed(state, "module.encoder_q.", "module.encoder_k.")}, FILE)
    with pytest.raises(UsageError) as caught:
        Timm(3, 32, weights=FILE, **SMALL)
    for text in (
        "'state_dict.module.encoder_k', 'state_dict.module.encoder_q'",
        "weights: {path: w.pth, prefix:",
    ):
        assert text in str(caught.value)
    for prefix in ("module.encoder_q", "encoder_q.", "state_dict.module.encoder_q"):
        chosen = Timm(3, 32, weights=WeightsFile(path=FILE, prefix=prefix), **SMALL)
        assert_same(chosen.net, state)
    with pytest.raises(UsageError, match=r"no weights under 'encoder_x'\. .*encoder_k"):
        Timm(3, 32, weights=WeightsFile(path=FILE, prefix="encoder_x"), **SMALL)
    with pytest.raises(UsageError, match="under 2 prefixes"):
        Timm(3, 32, weights=WeightsFile(path=FILE, prefix="module"), **SMALL)
    torch.save({"teacher": prefixed(state, "backbone."), "student": state}, FILE)
    assert_same(Timm(3, 32, weights=WeightsFile(path=FILE, prefix="teacher"), **SMALL).net, state)
    torch.save({"teacher": state, "student": state, **state}, FILE)
    with pytest.raises(UsageError, match="'', 'student', 'teacher'"):
        Timm(3, 32, weights=FILE, **SMALL)
    assert_same(Timm(3, 32, weights=WeightsFile(path=FILE, prefix="teacher"), **SMALL).net, state)


def test_what_is_left_out_is_named_and_a_deeper_network_is_refused(source):
    state = source.net.state_dict()
    heads = {"fc.weight": torch.ones(2, 2), "projector.0.weight": torch.ones(2)}
    torch.save({"module." + name: value for name, value in {**state, **heads}.items()}, FILE)
    assert "left out fc, projector" in Timm(3, 32, weights=FILE, **SMALL).notes[-1]
    torch.save({**state, "layer1.1.conv1.weight": torch.ones(2)}, FILE)
    with pytest.raises(UsageError, match=r"has layer1\.1\.conv1\.weight, which the model lacks"):
        Timm(3, 32, weights=FILE, **SMALL)
    torch.save({f"backbone.{name}": value for name, value in state.items() if name != "bn1.weight"}, FILE)
    with pytest.raises(UsageError, match=r"under 'backbone' it lacks bn1\.weight\."):
        Timm(3, 32, weights=FILE, **SMALL)


def test_a_head_with_more_than_a_classifier_is_left_out_whole():
    net = torch.nn.Sequential(OrderedDict(body=torch.nn.Linear(2, 2), head=torch.nn.Identity()))
    state = {"body.weight": torch.ones(2, 2), "body.bias": torch.ones(2)}
    torch.save({**state, "head.bn.weight": torch.ones(2), "head.linear.bias": torch.ones(2)}, FILE)
    notes = load_weights(net, FILE, ignore=("head.linear",))
    assert notes == ("weights: w.pth: left out head, head.linear, which the model does not have",)
    assert_same(net, state)


def test_counts_of_batches_may_be_absent_as_in_old_files(source):
    state = {k: v for k, v in source.net.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, FILE)
    assert_same(Timm(3, 32, weights=FILE, **SMALL).net, state)


def test_a_pickle_that_needs_a_class_is_refused_with_it(source):
    torch.save({"state_dict": source.net.state_dict(), "args": argparse.Namespace(lr=1)}, FILE)
    with pytest.raises(
        UsageError, match=r"it needs argparse\.Namespace, and loading such objects may run code"
    ):
        Timm(3, 32, weights=FILE, **SMALL)


# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize("options", [{}, {"dynamic_img_size": True}])
def test_positions_of_another_grid_are_resampled_as_timm_does(vit, options):
    torch.save({"teacher": prefixed(vit.state_dict(), "backbone.")}, FILE)
    vit_options = {**VIT["options"], **options}
    backbone = Timm(3, 96, model=VIT["model"], options=vit_options, weights=FILE)
    torch.save(vit.state_dict(), "plain.pth")
    theirs = timm.create_model(
        VIT["model"],
        pretrained=True,
        pretrained_cfg_overlay={"file": "plain.pth"},
        num_classes=0,
        img_size=96,
        depth=1,
    )
    assert_same(backbone.net, theirs.state_dict())
    assert (
        backbone.notes[1]
        == "weights: w.pth: pos_embed resampled from [1, 197, 192] to [1, 37, 192], as timm does"
    )


def test_tables_of_relative_positions_are_resampled_as_timm_does():
    torch.manual_seed(0)
    options = {"depths": (1, 1), "num_heads": (2, 2), "embed_dim": 16}
    source = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, img_size=224, **options)
    torch.save(source.state_dict(), FILE)
    backbone = Timm(
        3, 64, model="swin_tiny_patch4_window7_224", weights=FILE, options={**options, "window_size": 4}
    )
    assert any(
        "relative_position_bias_table resampled from [169, 2] to [49, 2]" in note for note in backbone.notes
    )
    assert torch.equal(
        backbone.net.layers[0].blocks[0].mlp.fc1.weight, source.layers[0].blocks[0].mlp.fc1.weight
    )


def test_another_patch_size_is_refused_by_name(vit):
    torch.save(vit.state_dict(), FILE)
    with pytest.raises(
        UsageError, match=r"patches of 16 x 16 pixels \(patch_embed\.proj\.weight\), the model of 8 x 8"
    ):
        Timm(3, 96, model=VIT["model"], options={**VIT["options"], "patch_size": 8}, weights=FILE)


@pytest.mark.parametrize(("channels", "how"), [(1, "summed"), (4, "repeated and scaled")])
def test_channels_are_adapted_as_timm_does(source, vit, channels, how):
    weight = source.net.conv1.weight
    torch.save({"state_dict": prefixed(source.net.state_dict(), "encoder.")}, FILE)
    backbone = Timm(channels, 32, weights=FILE, **SMALL)
    assert torch.equal(backbone.net.conv1.weight, timm.models.adapt_input_conv(channels, weight))
    assert (
        f"conv1.weight {how} from 3 to {quantity(channels, 'input channel')}, as timm does"
        in backbone.notes[-1]
    )
    torch.save(vit.state_dict(), FILE)
    notes = " ".join(Timm(channels, 96, weights=FILE, **VIT).notes)
    assert "pos_embed resampled" in notes
    assert f"patch_embed.proj.weight {how}" in notes


# ---------------------------------------------------------------- torchvision


def test_torchvision_takes_weights_too():
    from torchvision import models

    torch.manual_seed(0)
    net = models.resnet18()
    torch.save({"state_dict": prefixed(net.state_dict(), "module.encoder_q.")}, FILE)
    backbone = Torchvision(3, 32, "resnet18", weights=FILE)
    assert_same(backbone.net, {k: v for k, v in net.state_dict().items() if not k.startswith("fc.")})
    assert "took the weights under 'state_dict.module.encoder_q'" in backbone.notes[0]
    grey = Torchvision(1, 32, "resnet18", weights=FILE)
    torch.testing.assert_close(grey.net.conv1.weight, net.conv1.weight.sum(1, keepdim=True))
    vit = models.VisionTransformer(64, 16, 1, 2, 16, 32)
    vit_state = {f"backbone.{name}": value for name, value in vit.state_dict().items()}
    torch.save(vit_state, FILE)
    from contrastive.backbones.torchvision import _convert

    smaller = models.VisionTransformer(32, 16, 1, 2, 16, 32)
    assert _convert(vit.state_dict(), smaller)["encoder.pos_embedding"].shape == (1, 5, 16)


# ---------------------------------------------------------------- names of pretrained weights, unused options


@pytest.mark.parametrize(
    ("part", "model", "message"),
    [
        (
            Timm,
            "resnet18.a1_in1k",
            r"pretrained weights of the tag 'a1_in1k'.* model: resnet18 and pretrained: a1_in1k",
        ),
        (Timm, "resnet18.no_such_tag", r"tag 'no_such_tag' \(timm lists .*a1_in1k"),
        (Timm, "hf_hub:timm/resnet50.a1_in1k", "repository of pretrained weights; set pretrained: true"),
        (Timm, "hf-hub:someone/model", "repository of pretrained weights"),
        (Timm, "timm/vit_tiny_patch16_224.augreg_in21k", "address of.* model: vit_tiny_patch16_224 and"),
        (Timm, "local-dir:exported", "a folder of weights.* weights: exported, and model"),
        (Torchvision, "resnet18.a1_in1k", "names pretrained weights"),
        (Torchvision, "ResNet50_Weights.IMAGENET1K_V2", "names pretrained weights"),
    ],
)
def test_names_of_pretrained_weights_are_refused_for_what_they_are(part, model, message):
    stems = [{"stem": "small"}, {}] if part is Timm else [{}]
    for more in stems:
        with pytest.raises(UsageError, match=message) as caught:
            part(3, 32, model, **more)
        assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "model", "options", "message"),
    [
        (Timm, "resnet18", {"width:0.5": None}, "no option 'width:0.5' .*write 'width: 0.5'"),
        (Torchvision, "mobilenet_v3_small", {"widht_mult": 0.5}, "Did you mean 'width_mult'"),
        (Torchvision, "mobilenet_v3_small", {"anything": 1}, "has no option 'anything'"),
    ],
)
def test_an_option_that_the_model_would_ignore_is_refused(part, model, options, message):
    with pytest.raises(UsageError, match=message):
        part(3, 32, model, options=options)


def test_positions_of_images_that_are_not_square_are_named(tmp_path):
    net = timm.create_model("test_vit", num_classes=0, img_size=(64, 128))
    torch.save(net.state_dict(), tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"position embeddings of 32 patches \(pos_embed\).* no square grid"):
        Timm(3, 96, "test_vit", weights=tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["resnet18.a1_in1k", "hf_hub:timm/resnet18.a1_in1k", "IMAGENET1K_V1"])
def test_pretrained_weights_by_name_are_refused_as_that(name):
    with pytest.raises(UsageError, match="does not exist; pretrained weights are loaded by name through"):
        Timm(3, 32, "resnet18", weights=Path(name))


def test_null_removes_an_option_that_a_recipe_inherits():
    Timm(3, 32, "vit_tiny_patch16_224", options={"width": None, "depth": 1, "patch_size": 8})


def test_options_that_models_use_pass_and_leave_the_weights_as_they_were():
    torch.manual_seed(0)
    want = timm.create_model("resnet18", num_classes=0, in_chans=3, drop_path_rate=0.1).state_dict()
    torch.manual_seed(0)
    assert_same(Timm(3, 32, "resnet18", options={"drop_path_rate": 0.1}).net, want)
    assert Torchvision(3, 32, "mobilenet_v3_small", {"width_mult": 0.5}).features < 1024
    Timm(3, 32, "resnet18", options={"drop_path_rate": None})
    assert json.dumps(WeightsFile(path=FILE).model_dump(mode="json")) == '{"path": "w.pth", "prefix": null}'


@pytest.mark.parametrize(
    ("convert", "kind"),
    [
        (lambda v: (v * 10).to(torch.int8), "int8"),
        (lambda v: v != 0, "bool"),
        (lambda v: v.to(torch.complex64), "complex64"),
        (lambda v: v.to(torch.int64), "int64"),
    ],
)
def test_weights_that_are_no_floats_are_refused_by_type(source, convert, kind):
    state = {name: convert(v) if v.ndim == 4 else v for name, v in source.net.state_dict().items()}
    torch.save({"module." + name: value for name, value in state.items()}, FILE)
    with pytest.raises(UsageError, match=f"it has conv1.weight as {kind}; weights must be floating-point"):
        Timm(3, 32, weights=FILE, **SMALL)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_not_finite_are_refused_by_name(source, value):
    state = {name: v.double() if v.is_floating_point() else v for name, v in source.net.state_dict().items()}
    state["layer2.0.conv1.weight"] = state["layer2.0.conv1.weight"].clone()
    state["layer2.0.conv1.weight"][0, 0, 0, 0] = value
    torch.save({"model": state}, FILE)
    with pytest.raises(UsageError, match=r"it has model\.layer2\.0\.conv1\.weight with NaN or infinite"):
        Timm(3, 32, weights=FILE, **SMALL)


def test_an_optimizers_state_is_never_taken_nor_proposed(source):
    state = source.net.state_dict()
    moments = {"exp_avg": {name: torch.zeros_like(value) for name, value in state.items()}}
    torch.save({"model": state, "optimizer": moments}, FILE)
    assert_same(Timm(3, 32, weights=FILE, **SMALL).net, state)
    with pytest.raises(UsageError, match=r"'optimizer\.exp_avg' in w\.pth belongs to a training, not"):
        Timm(3, 32, weights=WeightsFile(path=FILE, prefix="optimizer.exp_avg"), **SMALL)
    for other in ({"optimizer": moments}, {"optimizer_states": [1], "grad": moments["exp_avg"]}):
        torch.save(other, FILE)
        with pytest.raises(UsageError, match=r"only under '(optimizer\.exp_avg|grad)'"):
            Timm(3, 32, weights=FILE, **SMALL)


def test_parameters_next_to_the_network_are_left_out_by_name(source):
    state, beside = source.net.state_dict(), {"logit_scale": torch.ones(()), "queue": torch.zeros(8, 8)}
    torch.save({**state, **beside}, FILE)
    assert "left out logit_scale, queue" in Timm(3, 32, weights=FILE, **SMALL).notes[-1]
    small = timm.create_model("test_vit", num_classes=0, img_size=32)
    torch.save({"teacher": {**small.state_dict(), "masked_embed": torch.zeros(1, 64)}}, FILE)
    assert "left out masked_embed" in Timm(3, 32, "test_vit", weights=FILE).notes[-1]


@pytest.mark.parametrize(
    ("file", "model", "complaint"),
    [
        ({"depth": 8}, {}, r"has blocks\.6\."),
        ({"reg_tokens": 4}, {}, "has reg_token, which the model lacks"),
        ({}, {"reg_tokens": 4}, "lacks reg_token"),
        ({}, {"class_token": False, "global_pool": "avg"}, "has cls_token, which the model lacks"),
    ],
    ids=["deeper", "registers", "no registers", "class token"],
)
def test_another_vision_transformer_is_refused_by_what_differs(file, model, complaint):
    torch.save(timm.create_model("test_vit", num_classes=0, **file).state_dict(), FILE)
    with pytest.raises(UsageError, match=complaint) as caught:
        Timm(3, 32, "test_vit", weights=FILE, options=model)
    assert "square" not in str(caught.value)


def _tar(file):
    Path("inner").write_text("x")
    with tarfile.open(file, "w") as archive:
        archive.add("inner", "model.pth")


def _zip(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("w/readme.txt", "x")


def _script(file):
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"w/{name}", "x")


def _part(file, old=False):
    torch.save({"a": torch.ones(999)}, file, _use_new_zipfile_serialization=not old)
    Path(file).write_bytes(Path(file).read_bytes()[:1500])


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 1\n"


@pytest.mark.parametrize(
    ("name", "write", "told"),
    [
        ("w.pth", lambda f: Path(f).write_text("\n<!DOCTYPE html><html>Sign in</html>"), "a web page"),
        ("w.pth", lambda f: Path(f).write_text(LFS), "a Git LFS pointer.* `git lfs pull`"),
        ("w.safetensors", lambda f: Path(f).write_text(LFS), "a Git LFS pointer"),
        ("w.bin", lambda f: save_file({"a": torch.ones(2)}, f), "rename it to w.safetensors"),
        ("w.safetensors", lambda f: torch.save({"a": torch.ones(2)}, f), "rename it to w.pth"),
        ("w.pt", _script, "a TorchScript program"),
        ("w.pt", _zip, "a ZIP archive"),
        ("w.pth.tar", _tar, r"a tar archive \(model.pth\)"),
        ("w.pth", lambda f: Path(f).write_bytes(b""), "is empty"),
        ("w.safetensors", lambda f: Path(f).write_bytes(b""), "is empty"),
        ("w.pth", lambda f: Path(f).write_bytes(bytes(64)), "only zeros"),
        ("w.pth", lambda f: Path(f).write_text('{"message": "Not Found"}'), "a text file, which begins with"),
        ("w.pth", lambda f: Path(f).write_bytes(gzip.compress(b"x")), "compressed with gzip"),
        ("w.pth", _part, "its end is missing"),
        ("w.pth", lambda f: _part(f, old=True), "its end is missing"),
        (
            "w.pth",
            lambda f: Path(f).write_bytes(b"\x93\x00junk" * 40),
            "damaged, or torch.save did not write",
        ),
    ],
    ids=lambda value: value.replace(" ", "_") if isinstance(value, str) else None,
)
def test_a_file_of_another_kind_is_named_for_what_it_is(name, write, told, recwarn):
    write(name)
    with pytest.raises(UsageError, match=told) as caught:
        read_weights(Path(name))
    assert "weights_only" not in str(caught.value)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("files", "remedy"),
    [
        (["pytorch_model.bin", "config.json"], "Set weights to the file in it: f/pytorch_model.bin"),
        (["last.ckpt", "best.ckpt"], r"Set weights to one of the files in it, such as f/best.ckpt \(best"),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            r"divided over shards \(model-00001.*Merge the shards into one file",
        ),
        (["recipe.yaml", "backbone/model.safetensors"], "Its encoder is in f/backbone; set weights to that"),
        (["recipe.yaml"], "a run that has exported no encoder; finish the run"),
        (["readme.txt"], "Give an exported folder"),
    ],
)
def test_a_folder_names_the_files_of_weights_in_it(files, remedy):
    for file in files:
        Path("f", file).parent.mkdir(parents=True, exist_ok=True)
        Path("f", file).touch()
    with pytest.raises(UsageError, match=f"f has no model.safetensors. .*{remedy}"):
        read_weights(Path("f"))


def test_one_shard_of_several_is_named_as_that():
    save_file({"a": torch.ones(2)}, "model-00001-of-00002.safetensors")
    with pytest.raises(UsageError, match="one of 2 shards"):
        read_weights(Path("model-00001-of-00002.safetensors"))
    save_file({"a": torch.ones(2)}, "model-00001-of-00001.safetensors")
    assert list(read_weights(Path("model-00001-of-00001.safetensors"))) == ["a"]
